/* Convolution kernels for AVX2: as those for AVX-512, a vector being two registers. Without its 8-bit products u8 runs on words. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))
enum { HALVES = 12 };

#define UNROLL _Pragma("GCC unroll 12")
#define EACH(h) for (int h = 0; h < 2 * R; h++)

#define FOR_ROWS(body)      \
    switch (rows) {         \
    case 1: body(1) break;  \
    case 2: body(2) break;  \
    case 3: body(3) break;  \
    case 4: body(4) break;  \
    case 5: body(5) break;  \
    default: body(6) break; \
    }

ALWAYS void floats(const uint32_t *offset, const uint32_t *weight, size_t entries, const float *x, bool fresh, float *y, const int R) {
    __m256 sum[HALVES];
    UNROLL EACH(h) sum[h] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8 * h);
    for (size_t e = 0; e < entries; e++) {
        const float *from = x + offset[e] / sizeof *x;
        const __m256 w = _mm256_castsi256_ps(_mm256_set1_epi32((int)weight[e]));
        UNROLL EACH(h) sum[h] = _mm256_fmadd_ps(w, _mm256_load_ps(from + 8 * h), sum[h]);
    }
    UNROLL EACH(h) _mm256_storeu_ps(y + 8 * h, sum[h]);
}

void conv_f32_value_6x16_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(R) floats(offset, weight, entries, x, fresh, y, R);
    FOR_ROWS(BODY)
#undef BODY
}

ALWAYS void multiply(const uint32_t *offset, const uint32_t *weight, size_t begin, size_t end, const uint32_t *x, __m256i *sum, const int R) {
    for (size_t e = begin; e < end; e++) {
        const uint32_t *from = x + offset[e] / sizeof *x;
        const __m256i w = _mm256_set1_epi32((int)weight[e]);
        UNROLL EACH(h) sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(_mm256_load_si256((const void *)(from + 8 * h)), w));
    }
}

ALWAYS void words_u8(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, bool fresh, int32_t *y, const int R) {
    __m256i sum[HALVES];
    UNROLL EACH(h) sum[h] = fresh ? _mm256_setzero_si256() : _mm256_loadu_si256((const void *)(y + 8 * h));
    multiply(offset, weight, 0, entries, x, sum, R);
    UNROLL EACH(h) _mm256_storeu_si256((void *)(y + 8 * h), sum[h]);
}

void conv_u8_value_6x16_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(R) words_u8(offset, weight, entries, x, fresh, y, R);
    FOR_ROWS(BODY)
#undef BODY
}

ALWAYS void add_wide(int64_t *y, __m128i sum) {
    _mm256_storeu_si256((void *)y, _mm256_add_epi64(_mm256_loadu_si256((const void *)y), _mm256_cvtepi32_epi64(sum)));
}

ALWAYS void words_i16(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, bool fresh, int64_t *y, const int R) {
    if (fresh) memset(y, 0, (size_t)R * EIE_ROWS * sizeof *y);
    for (size_t e = 0; e < entries; e += 8) { /* 16 products fit int32: docs/numerics.md */
        __m256i sum[HALVES];
        UNROLL EACH(h) sum[h] = _mm256_setzero_si256();
        multiply(offset, weight, e, e + 8 < entries ? e + 8 : entries, x, sum, R);
        UNROLL EACH(h) {
            add_wide(y + 8 * h, _mm256_castsi256_si128(sum[h]));
            add_wide(y + 8 * h + 4, _mm256_extracti128_si256(sum[h], 1));
        }
    }
}

void conv_i16_value_6x16_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(R) words_i16(offset, weight, entries, x, fresh, y, R);
    FOR_ROWS(BODY)
#undef BODY
}
#endif
