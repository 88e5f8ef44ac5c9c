/* Quantization for AVX2: the same operations on eight numbers at once. */
#include "kernels/kernels.h"
#include "kernels/quantize.h"

#ifdef EIE_X86
#include <float.h>
#include <immintrin.h>
#include <string.h>

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

/* rint(x * scale) + shift between low and high, eight times */
static inline __m256i quantized(const float *x, float scale, float shift, float low, float high) {
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(scale));
    const __m256 whole = _mm256_add_ps(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), _mm256_set1_ps(shift));
    return _mm256_cvttps_epi32(_mm256_min_ps(_mm256_max_ps(whole, _mm256_set1_ps(low)), _mm256_set1_ps(high)));
}

static inline __m256i bytes_of(const float *x, float scale, float zero) {
    __m256i eight[4];
    for (int k = 0; k < 4; k++) eight[k] = quantized(x + 8 * k, scale, zero, 0, 255);
    const __m256i words = _mm256_packs_epi32(eight[0], eight[1]), more = _mm256_packs_epi32(eight[2], eight[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, more), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline __m256i words_of(const float *x, float scale) {
    const __m256i a = quantized(x, scale, 0, -32767, 32767), b = quantized(x + 8, scale, 0, -32767, 32767);
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
}

/* The last numbers, with zeros behind them */
static inline const float *padded(const float *x, size_t n, float *tail) {
    memset(tail, 0, 32 * sizeof *tail);
    memcpy(tail, x, n * sizeof *x);
    return tail;
}

bool quantize_u8_avx2(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero) {
    float lo, hi, inverse, tail[32];
    uint8_t last[32];
    if (!range_of(x, n, &lo, &hi) || !eie_range_u8(lo, hi, scale, &inverse, zero)) return false;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) _mm256_storeu_si256((void *)(q + i), bytes_of(x + i, inverse, (float)*zero));
    if (i == n) return true;
    _mm256_storeu_si256((void *)last, bytes_of(padded(x + i, n - i, tail), inverse, (float)*zero));
    memcpy(q + i, last, n - i);
    return true;
}

bool quantize_i16_avx2(const float *x, size_t n, int16_t *q, int32_t *exponent) {
    float lo, hi, tail[32];
    int16_t last[16];
    if (!range_of(x, n, &lo, &hi)) return false;
    *exponent = eie_exponent(-lo > hi ? -lo : hi, 15);
    const float scale = eie_power(*exponent);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) _mm256_storeu_si256((void *)(q + i), words_of(x + i, scale));
    if (i == n) return true;
    _mm256_storeu_si256((void *)last, words_of(padded(x + i, n - i, tail), scale));
    memcpy(q + i, last, (n - i) * sizeof *q);
    return true;
}

/* The difference fits int32 (kernels.h), and converting that rounds as converting int64 does. */
void output_u8_avx2(const int32_t *sum, size_t n, const eie_output_u8 *how, float *to) {
    for (size_t i = 0; i < n; i += 8) {
        float made[8];
        const size_t now = n - i < 8 ? n - i : 8;
        if (now == 8) {
            const __m256i less = _mm256_mullo_epi32(_mm256_loadu_si256((const void *)(how->row_sum + i)), _mm256_set1_epi32(how->zero));
            const __m256i left = _mm256_sub_epi32(_mm256_loadu_si256((const void *)(sum + i)), less);
            _mm256_storeu_ps(made, _mm256_mul_ps(_mm256_cvtepi32_ps(left), _mm256_set1_ps(how->factor)));
        } else {
            for (size_t k = 0; k < now; k++) made[k] = eie_scale_u8(sum[i + k] - how->zero * how->row_sum[i + k], how->factor);
        }
        for (size_t k = 0; k < now; k++) {
            const uint32_t row = how->order[i + k];
            if (row == EIE_NO_ROW) continue;
            to[row] = how->bias != NULL ? made[k] + how->bias[row] : made[k];
        }
    }
}
#endif
