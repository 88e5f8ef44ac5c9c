/* Quantization for AVX-512: the same operations on sixteen numbers at once, masks at the end. */
#include "kernels/kernels.h"
#include "kernels/quantize.h"

#ifdef EIE_X86
#include <float.h>
#include <immintrin.h>

static inline __mmask16 lanes(size_t left) { return left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff; }

/* The smallest and the largest of x, 0 among them. False: something is not finite. */
static bool range_of(const float *x, size_t n, float *lo, float *hi) {
    const __m512 limit = _mm512_set1_ps(FLT_MAX);
    __m512 low = _mm512_setzero_ps(), high = low;
    __mmask16 finite = 0xffff;
    for (size_t i = 0; i < n; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(lanes(n - i), x + i);
        low = _mm512_min_ps(v, low);
        high = _mm512_max_ps(v, high);
        finite &= _mm512_cmp_ps_mask(_mm512_abs_ps(v), limit, _CMP_LE_OQ);
    }
    *lo = _mm512_reduce_min_ps(low);
    *hi = _mm512_reduce_max_ps(high);
    return finite == 0xffff;
}

static inline __m512i quantized(__m512 v, __m512 scale, __m512 shift, __m512 low, __m512 high) {
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(v, scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(_mm512_add_ps(whole, shift), low), high));
}

bool quantize_u8_avx512(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero) {
    float lo, hi, inverse;
    if (!range_of(x, n, &lo, &hi) || !eie_range_u8(lo, hi, scale, &inverse, zero)) return false;
    const __m512 factor = _mm512_set1_ps(inverse), shift = _mm512_set1_ps((float)*zero);
    const __m512 low = _mm512_setzero_ps(), high = _mm512_set1_ps(255);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes(n - i);
        _mm512_mask_cvtepi32_storeu_epi8(q + i, k, quantized(_mm512_maskz_loadu_ps(k, x + i), factor, shift, low, high));
    }
    return true;
}

bool quantize_i16_avx512(const float *x, size_t n, int16_t *q, int32_t *exponent) {
    float lo, hi;
    if (!range_of(x, n, &lo, &hi)) return false;
    *exponent = eie_exponent(-lo > hi ? -lo : hi, 15);
    const __m512 factor = _mm512_set1_ps(eie_power(*exponent)), shift = _mm512_setzero_ps();
    const __m512 low = _mm512_set1_ps(-32767), high = _mm512_set1_ps(32767);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes(n - i);
        _mm512_mask_cvtepi32_storeu_epi16(q + i, k, quantized(_mm512_maskz_loadu_ps(k, x + i), factor, shift, low, high));
    }
    return true;
}
#endif
