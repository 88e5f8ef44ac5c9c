/* What one core can do at most, by instruction set: loops the compiler can't shorten. */
#ifndef EIE_BENCH_LIMITS_H
#define EIE_BENCH_LIMITS_H
#include "eie.h"
#include "kernels/kernels.h"

typedef struct {
    const char *isa;
    uint64_t (*read)(const uint8_t *p, size_t blocks); /* blocks of 512 bytes, p a multiple of 64; returns what depends on all */
    double (*fma)(uint64_t rounds, float *sink);       /* returns multiply-adds done */
    double (*dot)(uint64_t rounds, int32_t *sink);     /* 8-bit multiply-adds done; NULL: no such instruction */
} eie_limits;

extern const eie_limits eie_limits_scalar;
#ifdef EIE_X86
extern const eie_limits eie_limits_avx2, eie_limits_avx512;
#endif
#ifdef EIE_ARM
extern const eie_limits eie_limits_neon;
#endif

#endif
