/* The machine's limits with 256-bit registers. */
#include "bench/limits.h"

#ifdef EIE_X86
#include <immintrin.h>

static uint64_t read(const uint8_t *p, size_t blocks) {
    __m256i sums[8];
    for (int i = 0; i < 8; i++) sums[i] = _mm256_setzero_si256();
    for (; blocks > 0; blocks--, p += 512) {
        for (int i = 0; i < 16; i++) sums[i & 7] = _mm256_xor_si256(sums[i & 7], _mm256_load_si256((const __m256i *)(p + 32 * i)));
    }
    for (int i = 1; i < 8; i++) sums[0] = _mm256_xor_si256(sums[0], sums[i]);
    return (uint64_t)_mm256_extract_epi64(sums[0], 0) ^ (uint64_t)_mm256_extract_epi64(sums[0], 3);
}

static double multiply_add(uint64_t rounds, float *sink) {
    __m256 a[12];
    const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.5f);
    for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps((float)i);
    for (uint64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < 12; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
    }
    for (int i = 1; i < 12; i++) a[0] = _mm256_add_ps(a[0], a[i]);
    *sink = _mm256_cvtss_f32(a[0]);
    return 12.0 * 8.0 * (double)rounds;
}

const eie_limits eie_limits_avx2 = {"avx2", read, multiply_add, NULL};
#endif
