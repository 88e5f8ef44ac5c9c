/* Which instruction set runs: chosen once, at first use. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

#define EIE_KERNEL(kind, type, name, isa, form, window, per, sets, unroll, codes) \
    {kind, #isa, #name "_" #isa, form, window, per, sets, unroll, codes, (void (*)(void))name##_##isa},
const eie_kernel eie_kernels[] = {
#include "kernels/kernels.inc"
};
#undef EIE_KERNEL
const size_t eie_kernel_count = sizeof eie_kernels / sizeof eie_kernels[0];

#ifdef EIE_X86
#include <cpuid.h>

static uint64_t enabled_registers(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return 0; /* no OSXSAVE: the system saves none of them */
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has_avx2(void) {
    unsigned a, b, c, d;
    if ((enabled_registers() & 0x6) != 0x6) return false; /* XMM, YMM */
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 12))) return false; /* FMA */
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 5));
}

static bool has_avx512(void) {
#ifdef EIE_EMULATED /* a build of the self-test, in which its intrinsics are plain C */
    return true;
#endif
    unsigned a, b, c, d;
    if (!has_avx2() || (enabled_registers() & 0xe6) != 0xe6) return false; /* also opmask and ZMM */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const unsigned wanted_b = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    const unsigned wanted_c = 1u << 1 | 1u << 11;                       /* VBMI, VNNI */
    return (b & wanted_b) == wanted_b && (c & wanted_c) == wanted_c;
}
#endif

static bool always(void) { return true; }

/* best first */
static const struct {
    const char *name;
    bool (*supported)(void);
} SETS[] = {
#ifdef EIE_X86
    {"avx512", has_avx512},
    {"avx2", has_avx2},
#endif
#ifdef EIE_ARM
    {"neon", always},
#endif
    {"scalar", always},
};
enum { SET_COUNT = sizeof SETS / sizeof SETS[0] };

static _Atomic int selected = -1; /* a place in SETS */

static int place(const char *name) {
    for (int i = 0; i < SET_COUNT; i++) {
        if (strcmp(SETS[i].name, name) == 0) return i;
    }
    return -1;
}

static int in_use(void) {
    int now = atomic_load(&selected);
    if (now >= 0) return now;
    const char *wish = getenv("EIE_ISA");
    int chosen = wish != NULL ? place(wish) : -1;
    if (chosen < 0 || !SETS[chosen].supported()) {
        chosen = 0;
        while (!SETS[chosen].supported()) chosen++; /* the last always is */
    }
    atomic_store(&selected, chosen);
    return chosen;
}

const char *eie_isa(void) { return SETS[in_use()].name; }

const char *eie_isa_available(size_t i) {
    for (int s = 0; s < SET_COUNT; s++) {
        if (SETS[s].supported() && i-- == 0) return SETS[s].name;
    }
    return NULL;
}

eie_status eie_isa_select(const char *name) {
    int chosen = name != NULL ? place(name) : -1;
    if (chosen < 0 || !SETS[chosen].supported()) return EIE_E_ARGUMENT;
    atomic_store(&selected, chosen);
    return EIE_OK;
}

const eie_kernel *eie_kernel_find(eie_kernel_kind kind, uint32_t codebook_size) {
    int now = in_use();
    for (size_t i = 0; i < eie_kernel_count; i++) {
        const eie_kernel *k = &eie_kernels[i];
        if (k->kind == kind && place(k->isa) >= now && (k->codes == 0 || codebook_size <= k->codes)) return k;
    }
    return NULL; /* can't happen: scalar has one of each kind for every codebook */
}

const eie_kernel *eie_kernel_other(const eie_kernel *than, uint32_t codebook_size) {
    for (const eie_kernel *k = than + 1; k < eie_kernels + eie_kernel_count; k++) {
        if (k->kind == than->kind && strcmp(k->isa, than->isa) == 0 && k->codes > 0 && codebook_size <= k->codes) return k;
    }
    return NULL;
}

const eie_kernel *eie_kernel_narrow(const eie_kernel *of) {
    for (const eie_kernel *k = of + 1; k < eie_kernels + eie_kernel_count; k++) {
        if (k->kind == of->kind && strcmp(k->isa, of->isa) == 0 && k->sets < of->sets) return k;
    }
    return NULL;
}
