/* Quantization for AVX-512: the same operations on sixteen numbers at once, masks at the end. */
#include "kernels/kernels.h"
#include "kernels/quantize.h"

#ifdef EIE_X86
#include <immintrin.h>

static inline __mmask16 lanes(size_t left) { return left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff; }

/* The smallest and the largest of x, 0 among them. False: something is not finite. */
static bool range_of(const float *x, size_t n, float *lo, float *hi) {
    const __m512i sign = _mm512_set1_epi32(INT32_MAX), most = _mm512_set1_epi32(0x7f7fffff); /* FLT_MAX */
    __m512 low[4], high[4];
    __m512i largest[4]; /* magnitudes, as integers in the same order: those that are not finite come last */
    for (int k = 0; k < 4; k++) low[k] = high[k] = _mm512_setzero_ps(), largest[k] = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const __m512 v = _mm512_loadu_ps(x + i + 16 * k);
            low[k] = _mm512_min_ps(v, low[k]);
            high[k] = _mm512_max_ps(v, high[k]);
            largest[k] = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(v), sign), largest[k]);
        }
    }
    for (; i < n; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(lanes(n - i), x + i);
        low[0] = _mm512_min_ps(v, low[0]);
        high[0] = _mm512_max_ps(v, high[0]);
        largest[0] = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(v), sign), largest[0]);
    }
    for (int k = 1; k < 4; k++) {
        low[0] = _mm512_min_ps(low[k], low[0]);
        high[0] = _mm512_max_ps(high[k], high[0]);
        largest[0] = _mm512_max_epu32(largest[k], largest[0]);
    }
    *lo = _mm512_reduce_min_ps(low[0]);
    *hi = _mm512_reduce_max_ps(high[0]);
    return _mm512_cmpgt_epu32_mask(largest[0], most) == 0;
}

/* Numbers below 2^16 in magnitude: they fit an integer before they are held to their range, as sums of whole floats do. */
static inline __m512i quantized(__m512 v, __m512 scale, __m512i shift, __m512i low) {
    const __m512i whole = _mm512_cvt_roundps_epi32(_mm512_mul_ps(v, scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_max_epi32(_mm512_add_epi32(whole, shift), low);
}

bool quantize_u8_avx512(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero) {
    float lo, hi, inverse;
    if (!range_of(x, n, &lo, &hi) || !eie_range_u8(lo, hi, scale, &inverse, zero)) return false;
    const __m512 factor = _mm512_set1_ps(inverse);
    const __m512i shift = _mm512_set1_epi32(*zero), low = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm_storeu_si128((void *)(q + i), _mm512_cvtusepi32_epi8(quantized(_mm512_loadu_ps(x + i), factor, shift, low)));
    }
    const __mmask16 k = lanes(n - i);
    if (k != 0) _mm512_mask_cvtusepi32_storeu_epi8(q + i, k, quantized(_mm512_maskz_loadu_ps(k, x + i), factor, shift, low));
    return true;
}

bool quantize_i16_avx512(const float *x, size_t n, int16_t *q, int32_t *exponent) {
    float lo, hi;
    if (!range_of(x, n, &lo, &hi)) return false;
    *exponent = eie_exponent(-lo > hi ? -lo : hi, 15);
    const __m512 factor = _mm512_set1_ps(eie_power(*exponent));
    const __m512i shift = _mm512_setzero_si512(), low = _mm512_set1_epi32(-32767);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm256_storeu_si256((void *)(q + i), _mm512_cvtsepi32_epi16(quantized(_mm512_loadu_ps(x + i), factor, shift, low)));
    }
    const __mmask16 k = lanes(n - i);
    if (k != 0) _mm512_mask_cvtsepi32_storeu_epi16(q + i, k, quantized(_mm512_maskz_loadu_ps(k, x + i), factor, shift, low));
    return true;
}
#endif
