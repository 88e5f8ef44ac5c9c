/* Convolution kernels for AVX-512: one broadcast weight against many positions, which stay in registers. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>
#include <string.h>

/* V registers of positions at once, V a constant: the compiler keeps `sum` in registers */
#define TILE_F32(V)                                                                                          \
    for (; i + 16 * (V) <= n; i += 16 * (V)) {                                                               \
        __m512 sum[V];                                                                                       \
        for (int v = 0; v < (V); v++) sum[v] = _mm512_setzero_ps();                                          \
        for (size_t e = 0; e < entries; e++) {                                                               \
            const float *from = x + offset[e] + i;                                                           \
            const __m512 w = _mm512_set1_ps(value[e]);                                                       \
            _Pragma("GCC unroll 16") for (int v = 0; v < (V); v++)                                           \
                sum[v] = _mm512_fmadd_ps(w, _mm512_loadu_ps(from + 16 * v), sum[v]);                         \
        }                                                                                                    \
        for (int v = 0; v < (V); v++) _mm512_storeu_ps(y + i + 16 * v, sum[v]);                              \
    }

void conv_f32_value_avx512(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const float *value = value_, *x = x_;
    float *y = y_;
    size_t i = 0;
    TILE_F32(14)
    TILE_F32(8)
    TILE_F32(4)
    TILE_F32(2)
}

/* Adds the products of two weights (a pair, in each lane of w) and 32 positions; words come out in the lanes' own order */
static inline void multiply_words(const int16_t *first, const int16_t *second, __m512i w, __m512i *sum) {
    __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
    sum[0] = _mm512_dpwssd_epi32(sum[0], _mm512_unpacklo_epi16(a, b), w);
    sum[1] = _mm512_dpwssd_epi32(sum[1], _mm512_unpackhi_epi16(a, b), w);
}

/* The sums of 32 positions in their order */
static inline void in_order(const __m512i *sum, __m512i *ordered) {
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    ordered[0] = _mm512_permutex2var_epi64(sum[0], low, sum[1]);
    ordered[1] = _mm512_permutex2var_epi64(sum[0], high, sum[1]);
}

static inline __m512i pair(const int16_t *value) {
    int32_t both;
    memcpy(&both, value, sizeof both);
    return _mm512_set1_epi32(both);
}

#define TILE_U8(V)                                                                                           \
    for (; i + 32 * (V) <= n; i += 32 * (V)) {                                                               \
        __m512i sum[2 * (V)];                                                                                \
        for (int v = 0; v < 2 * (V); v++) sum[v] = _mm512_setzero_si512();                                   \
        for (size_t e = 0; e < entries; e += 2) {                                                            \
            const int16_t *first = x + offset[e] + i, *second = x + offset[e + 1] + i;                       \
            const __m512i w = pair(value + e);                                                               \
            _Pragma("GCC unroll 16") for (int v = 0; v < (V); v++)                                           \
                multiply_words(first + 32 * v, second + 32 * v, w, sum + 2 * v);                             \
        }                                                                                                    \
        for (int v = 0; v < (V); v++) {                                                                      \
            __m512i ordered[2];                                                                              \
            in_order(sum + 2 * v, ordered);                                                                  \
            _mm512_storeu_si512(y + i + 32 * v, ordered[0]);                                                 \
            _mm512_storeu_si512(y + i + 32 * v + 16, ordered[1]);                                            \
        }                                                                                                    \
    }

void conv_u8_value_avx512(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int32_t *y = y_;
    size_t i = 0;
    TILE_U8(6)
    TILE_U8(2)
    TILE_U8(1)
}

static inline void add_wide(int64_t *y, __m512i sum) {
    _mm512_storeu_si512(y, _mm512_add_epi64(_mm512_loadu_si512(y), _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum))));
    _mm512_storeu_si512(y + 8, _mm512_add_epi64(_mm512_loadu_si512(y + 8), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1))));
}

#define TILE_I16(V)                                                                                          \
    for (; i + 32 * (V) <= n; i += 32 * (V)) {                                                               \
        memset(y + i, 0, 32 * (V) * sizeof *y);                                                              \
        for (size_t e = 0; e < entries;) {                                                                   \
            const size_t stop = e + 16 < entries ? e + 16 : entries; /* 16 products fit int32 */             \
            __m512i sum[2 * (V)];                                                                            \
            for (int v = 0; v < 2 * (V); v++) sum[v] = _mm512_setzero_si512();                               \
            for (; e < stop; e += 2) {                                                                       \
                const int16_t *first = x + offset[e] + i, *second = x + offset[e + 1] + i;                   \
                const __m512i w = pair(value + e);                                                           \
                _Pragma("GCC unroll 16") for (int v = 0; v < (V); v++)                                       \
                    multiply_words(first + 32 * v, second + 32 * v, w, sum + 2 * v);                         \
            }                                                                                                \
            for (int v = 0; v < (V); v++) {                                                                  \
                __m512i ordered[2];                                                                          \
                in_order(sum + 2 * v, ordered);                                                              \
                add_wide(y + i + 32 * v, ordered[0]);                                                        \
                add_wide(y + i + 32 * v + 16, ordered[1]);                                                   \
            }                                                                                                \
        }                                                                                                    \
    }

void conv_i16_value_avx512(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int64_t *y = y_;
    size_t i = 0;
    TILE_I16(6)
    TILE_I16(2)
    TILE_I16(1)
}
#endif
