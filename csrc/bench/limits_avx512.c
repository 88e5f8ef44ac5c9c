/* The machine's limits with 512-bit registers and VNNI. */
#include "bench/limits.h"

#ifdef EIE_X86
#include <immintrin.h>

static uint64_t read(const uint8_t *p, size_t blocks) {
    __m512i sums[8];
    for (int i = 0; i < 8; i++) sums[i] = _mm512_setzero_si512();
    for (; blocks > 0; blocks--, p += 512) {
        for (int i = 0; i < 8; i++) sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512(p + 64 * i));
    }
    for (int i = 1; i < 8; i++) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
    uint64_t parts[8], all = 0;
    _mm512_storeu_si512(parts, sums[0]);
    for (int i = 0; i < 8; i++) all += parts[i];
    return all;
}

static double multiply_add(uint64_t rounds, float *sink) {
    __m512 a[16];
    const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.5f);
    for (int i = 0; i < 16; i++) a[i] = _mm512_set1_ps((float)i);
    for (uint64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < 16; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
    }
    for (int i = 1; i < 16; i++) a[0] = _mm512_add_ps(a[0], a[i]);
    *sink = _mm512_cvtss_f32(a[0]);
    return 16.0 * 16.0 * (double)rounds;
}

static double dot(uint64_t rounds, int32_t *sink) {
    __m512i a[16];
    const __m512i w = _mm512_set1_epi8(3);
    for (int i = 0; i < 16; i++) a[i] = _mm512_set1_epi32(i);
    for (uint64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < 16; i++) a[i] = _mm512_dpbusd_epi32(a[i], a[i], w); /* its own operand: nothing to take out of the loop */
    }
    for (int i = 1; i < 16; i++) a[0] = _mm512_add_epi32(a[0], a[i]);
    *sink = _mm_cvtsi128_si32(_mm512_castsi512_si128(a[0]));
    return 16.0 * 64.0 * (double)rounds;
}

const eie_limits eie_limits_avx512 = {"avx512", read, multiply_add, dot};
#endif
