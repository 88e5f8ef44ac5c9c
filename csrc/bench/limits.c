/* Measures of the machine for `eie bench`: bandwidth, peaks, and caches emptied of a buffer. The caller keeps the time. */
#include <string.h>

#include "bench/limits.h"

static uint64_t read_scalar(const uint8_t *p, size_t blocks) {
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (; blocks > 0; blocks--) {
        for (int i = 0; i < 16; i++, p += 32) {
            uint64_t v[4];
            memcpy(v, p, sizeof v);
            a ^= v[0], b ^= v[1], c ^= v[2], d ^= v[3];
        }
    }
    return a ^ b ^ c ^ d;
}

static double fma_scalar(uint64_t rounds, float *sink) {
    float a[16];
    for (int i = 0; i < 16; i++) a[i] = (float)i;
    for (uint64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < 16; i++) a[i] = a[i] * 0.999f + 0.5f;
    }
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += a[i];
    *sink = sum;
    return 16.0 * (double)rounds;
}

const eie_limits eie_limits_scalar = {"scalar", read_scalar, fma_scalar, NULL};

static const eie_limits *limits(void) {
    const char *isa = eie_isa();
#ifdef EIE_X86
    if (strcmp(isa, "avx512") == 0) return &eie_limits_avx512;
    if (strcmp(isa, "avx2") == 0) return &eie_limits_avx2;
#endif
#ifdef EIE_ARM
    if (strcmp(isa, "neon") == 0) return &eie_limits_neon;
#endif
    (void)isa;
    return &eie_limits_scalar;
}

uint64_t eie_bench_read(const uint8_t *buffer, size_t bytes, uint64_t times) {
    const eie_limits *of = limits();
    uint64_t seen = 0;
    for (; times > 0; times--) seen += of->read(buffer, bytes / 512);
    return seen;
}

double eie_bench_fma(uint64_t rounds, float *sink) { return limits()->fma(rounds, sink); }

double eie_bench_dot(uint64_t rounds, int32_t *sink) {
    const eie_limits *of = limits();
    return of->dot == NULL ? 0.0 : of->dot(rounds, sink);
}

/* clflush and dc civac write a line back and drop it from every cache of the machine, the shared last one included; both are
 * allowed to user programs (on AArch64 where the system says so, as Linux does). */
#if defined(EIE_X86)
#include <emmintrin.h>
eie_status eie_bench_flush(const uint8_t *buffer, size_t bytes) {
    const uintptr_t last = (uintptr_t)buffer + bytes;
    for (uintptr_t p = (uintptr_t)buffer & ~(uintptr_t)63; p < last; p += 64) _mm_clflush((const void *)p);
    _mm_mfence();
    return EIE_OK;
}
#elif defined(EIE_ARM) && defined(__linux__)
eie_status eie_bench_flush(const uint8_t *buffer, size_t bytes) {
    uint64_t kind;
    __asm__ volatile("mrs %0, ctr_el0" : "=r"(kind));
    const uintptr_t line = (uintptr_t)4 << (kind >> 16 & 15), last = (uintptr_t)buffer + bytes;
    for (uintptr_t p = (uintptr_t)buffer & ~(line - 1); p < last; p += line) __asm__ volatile("dc civac, %0" ::"r"(p) : "memory");
    __asm__ volatile("dsb ish" ::: "memory");
    return EIE_OK;
}
#else
eie_status eie_bench_flush(const uint8_t *buffer, size_t bytes) {
    (void)buffer, (void)bytes;
    return EIE_E_UNSUPPORTED;
}
#endif
