/* Convolution kernels for AVX2: as those for AVX-512, on half the width and half the registers. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>
#include <string.h>

#define TILE_F32(V)                                                                                          \
    for (; i + 8 * (V) <= n; i += 8 * (V)) {                                                                 \
        __m256 sum[V];                                                                                       \
        for (int v = 0; v < (V); v++) sum[v] = _mm256_setzero_ps();                                          \
        for (size_t e = 0; e < entries; e++) {                                                               \
            const float *from = x + offset[e] + i;                                                           \
            const __m256 w = _mm256_set1_ps(value[e]);                                                       \
            _Pragma("GCC unroll 16") for (int v = 0; v < (V); v++)                                           \
                sum[v] = _mm256_fmadd_ps(w, _mm256_loadu_ps(from + 8 * v), sum[v]);                          \
        }                                                                                                    \
        for (int v = 0; v < (V); v++) _mm256_storeu_ps(y + i + 8 * v, sum[v]);                               \
    }

void conv_f32_value_avx2(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const float *value = value_, *x = x_;
    float *y = y_;
    size_t i = 0;
    TILE_F32(12)
    TILE_F32(4)
}

static inline void multiply_words(const int16_t *first, const int16_t *second, __m256i w, __m256i *sum) {
    __m256i a = _mm256_loadu_si256((const void *)first), b = _mm256_loadu_si256((const void *)second);
    sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), w));
    sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), w));
}

static inline void in_order(const __m256i *sum, __m256i *ordered) {
    ordered[0] = _mm256_permute2x128_si256(sum[0], sum[1], 0x20);
    ordered[1] = _mm256_permute2x128_si256(sum[0], sum[1], 0x31);
}

static inline __m256i pair(const int16_t *value) {
    int32_t both;
    memcpy(&both, value, sizeof both);
    return _mm256_set1_epi32(both);
}

#define TILE_U8(V)                                                                                           \
    for (; i + 16 * (V) <= n; i += 16 * (V)) {                                                               \
        __m256i sum[2 * (V)];                                                                                \
        for (int v = 0; v < 2 * (V); v++) sum[v] = _mm256_setzero_si256();                                   \
        for (size_t e = 0; e < entries; e += 2) {                                                            \
            const int16_t *first = x + offset[e] + i, *second = x + offset[e + 1] + i;                       \
            const __m256i w = pair(value + e);                                                               \
            _Pragma("GCC unroll 16") for (int v = 0; v < (V); v++)                                           \
                multiply_words(first + 16 * v, second + 16 * v, w, sum + 2 * v);                             \
        }                                                                                                    \
        for (int v = 0; v < (V); v++) {                                                                      \
            __m256i ordered[2];                                                                              \
            in_order(sum + 2 * v, ordered);                                                                  \
            _mm256_storeu_si256((void *)(y + i + 16 * v), ordered[0]);                                       \
            _mm256_storeu_si256((void *)(y + i + 16 * v + 8), ordered[1]);                                   \
        }                                                                                                    \
    }

void conv_u8_value_avx2(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int32_t *y = y_;
    size_t i = 0;
    TILE_U8(4)
    TILE_U8(2)
}

static inline void add_wide(int64_t *y, __m256i sum) {
    for (int h = 0; h < 2; h++) {
        __m256i wide = _mm256_cvtepi32_epi64(h ? _mm256_extracti128_si256(sum, 1) : _mm256_castsi256_si128(sum));
        _mm256_storeu_si256((void *)(y + 4 * h), _mm256_add_epi64(_mm256_loadu_si256((const void *)(y + 4 * h)), wide));
    }
}

#define TILE_I16(V)                                                                                          \
    for (; i + 16 * (V) <= n; i += 16 * (V)) {                                                               \
        memset(y + i, 0, 16 * (V) * sizeof *y);                                                              \
        for (size_t e = 0; e < entries;) {                                                                   \
            const size_t stop = e + 16 < entries ? e + 16 : entries; /* 16 products fit int32 */             \
            __m256i sum[2 * (V)];                                                                            \
            for (int v = 0; v < 2 * (V); v++) sum[v] = _mm256_setzero_si256();                               \
            for (; e < stop; e += 2) {                                                                       \
                const int16_t *first = x + offset[e] + i, *second = x + offset[e + 1] + i;                   \
                const __m256i w = pair(value + e);                                                           \
                _Pragma("GCC unroll 16") for (int v = 0; v < (V); v++)                                       \
                    multiply_words(first + 16 * v, second + 16 * v, w, sum + 2 * v);                         \
            }                                                                                                \
            for (int v = 0; v < (V); v++) {                                                                  \
                __m256i ordered[2];                                                                          \
                in_order(sum + 2 * v, ordered);                                                              \
                add_wide(y + i + 16 * v, ordered[0]);                                                        \
                add_wide(y + i + 16 * v + 8, ordered[1]);                                                    \
            }                                                                                                \
        }                                                                                                    \
    }

void conv_i16_value_avx2(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int64_t *y = y_;
    size_t i = 0;
    TILE_I16(4)
    TILE_I16(2)
}
#endif
