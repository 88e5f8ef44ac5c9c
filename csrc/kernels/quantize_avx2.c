/* Quantization for AVX2: the same operations on eight numbers at once. */
#include "kernels/kernels.h"
#include "kernels/quantize.h"

#ifdef EIE_X86
#include <float.h>
#include <immintrin.h>

/* The smallest and the largest of x, 0 among them. False: something is not finite. */
static bool range_of(const float *x, size_t n, float *lo, float *hi) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)), limit = _mm256_set1_ps(FLT_MAX);
    __m256 low = _mm256_setzero_ps(), high = low, finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        low = _mm256_min_ps(v, low);
        high = _mm256_max_ps(v, high);
        finite = _mm256_and_ps(finite, _mm256_cmp_ps(_mm256_and_ps(v, magnitude), limit, _CMP_LE_OQ));
    }
    float lows[8], highs[8];
    _mm256_storeu_ps(lows, low);
    _mm256_storeu_ps(highs, high);
    bool all = _mm256_movemask_ps(finite) == 0xff;
    *lo = *hi = 0;
    for (int k = 0; k < 8; k++) {
        *lo = lows[k] < *lo ? lows[k] : *lo;
        *hi = highs[k] > *hi ? highs[k] : *hi;
    }
    for (; i < n; i++) {
        *lo = x[i] < *lo ? x[i] : *lo;
        *hi = x[i] > *hi ? x[i] : *hi;
        all &= x[i] >= -FLT_MAX && x[i] <= FLT_MAX;
    }
    return all;
}

/* rint(x * scale) + shift between low and high, of the last n < 8 numbers the others being 0 */
static inline __m256i quantized(const float *x, size_t n, float scale, float shift, float low, float high) {
    float tail[8] = {0};
    for (size_t i = 0; i < n && n < 8; i++) tail[i] = x[i];
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(n < 8 ? tail : x), _mm256_set1_ps(scale));
    const __m256 whole = _mm256_add_ps(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), _mm256_set1_ps(shift));
    return _mm256_cvttps_epi32(_mm256_min_ps(_mm256_max_ps(whole, _mm256_set1_ps(low)), _mm256_set1_ps(high)));
}

bool quantize_u8_avx2(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero) {
    float lo, hi, inverse;
    if (!range_of(x, n, &lo, &hi) || !eie_range_u8(lo, hi, scale, &inverse, zero)) return false;
    size_t i = 0;
    for (; n - i >= 32; i += 32) {
        __m256i part[4];
        for (int k = 0; k < 4; k++) part[k] = quantized(x + i + 8 * k, 8, inverse, (float)*zero, 0, 255);
        const __m256i packed = _mm256_packus_epi16(_mm256_packs_epi32(part[0], part[1]), _mm256_packs_epi32(part[2], part[3])); /* by halves */
        _mm256_storeu_si256((void *)(q + i), _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
    for (; i < n; i += 8) {
        const size_t now = n - i < 8 ? n - i : 8;
        int32_t whole[8];
        _mm256_storeu_si256((void *)whole, quantized(x + i, now, inverse, (float)*zero, 0, 255));
        for (size_t k = 0; k < now; k++) q[i + k] = (uint8_t)whole[k];
    }
    return true;
}

bool quantize_i16_avx2(const float *x, size_t n, int16_t *q, int32_t *exponent) {
    float lo, hi;
    if (!range_of(x, n, &lo, &hi)) return false;
    *exponent = eie_exponent(-lo > hi ? -lo : hi, 15);
    const float scale = eie_power(*exponent);
    size_t i = 0;
    for (; n - i >= 16; i += 16) {
        const __m256i low = quantized(x + i, 8, scale, 0, -32767, 32767), high = quantized(x + i + 8, 8, scale, 0, -32767, 32767);
        _mm256_storeu_si256((void *)(q + i), _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8));
    }
    for (; i < n; i += 8) {
        const size_t now = n - i < 8 ? n - i : 8;
        int32_t whole[8];
        _mm256_storeu_si256((void *)whole, quantized(x + i, now, scale, 0, -32767, 32767));
        for (size_t k = 0; k < now; k++) q[i + k] = (int16_t)whole[k];
    }
    return true;
}
#endif
