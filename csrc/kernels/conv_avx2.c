/* Convolution kernels for AVX2, where a register holds eight positions: fourteen of them keep sums, one has the weight, one is left
 * for what is loaded. Without its 8-bit products u8 runs on words. Wide kernels take seven vectors of sixteen positions, narrow
 * ones fourteen of eight, each in a line of its own. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))
enum { SUMS = 14, WIDE = 8, NARROW = 16 }; /* elements from one register of x to the next */

#define UNROLL _Pragma("GCC unroll 14")
#define EACH(h) for (int h = 0; h < N; h++)

#define FOR_WIDE(body)      \
    switch (rows) {         \
    case 1: body(2) break;  \
    case 2: body(4) break;  \
    case 3: body(6) break;  \
    case 4: body(8) break;  \
    case 5: body(10) break; \
    case 6: body(12) break; \
    default: body(14) break; \
    }

#define FOR_NARROW(body)     \
    switch (rows) {          \
    case 1: body(1) break;   \
    case 2: body(2) break;   \
    case 3: body(3) break;   \
    case 4: body(4) break;   \
    case 5: body(5) break;   \
    case 6: body(6) break;   \
    case 7: body(7) break;   \
    case 8: body(8) break;   \
    case 9: body(9) break;   \
    case 10: body(10) break; \
    case 11: body(11) break; \
    case 12: body(12) break; \
    case 13: body(13) break; \
    default: body(14) break; \
    }

ALWAYS void floats(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x_, bool fresh, float *y, const int N, const int pitch) {
    const uint8_t *x = x_;
    __m256 sum[SUMS];
    UNROLL EACH(h) sum[h] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8 * h);
    if (entries % 2 != 0) {
        const float *from = (const float *)(const void *)(x + *offset);
        const __m256 w = _mm256_castsi256_ps(_mm256_set1_epi32((int)*weight));
        UNROLL EACH(h) sum[h] = _mm256_fmadd_ps(w, _mm256_loadu_ps(from + pitch * h), sum[h]);
        offset++;
        weight++;
    }
    for (size_t e = 0; e < entries / 2; e++, offset += 2, weight += 2) { /* two at once: loads are what is short */
        uint64_t offsets;
        memcpy(&offsets, offset, sizeof offsets);
        const __m128 both = _mm_castsi128_ps(_mm_loadl_epi64((const void *)weight));
        const float *from = (const float *)(const void *)(x + (uint32_t)offsets);
        const __m256 w = _mm256_broadcastss_ps(both);
        UNROLL EACH(h) sum[h] = _mm256_fmadd_ps(w, _mm256_loadu_ps(from + pitch * h), sum[h]);
        const float *then = (const float *)(const void *)(x + (offsets >> 32));
        const __m256 v = _mm256_broadcastss_ps(_mm_movehdup_ps(both));
        UNROLL EACH(h) sum[h] = _mm256_fmadd_ps(v, _mm256_loadu_ps(then + pitch * h), sum[h]);
    }
    UNROLL EACH(h) _mm256_storeu_ps(y + 8 * h, sum[h]);
}

void conv_f32_value_7x16_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(N) floats(offset, weight, entries, x, fresh, y, N, WIDE);
    FOR_WIDE(BODY)
#undef BODY
}

void conv_f32_value_14x8_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(N) floats(offset, weight, entries, x, fresh, y, N, NARROW);
    FOR_NARROW(BODY)
#undef BODY
}

ALWAYS void multiply(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x_, __m256i *sum, const int N, const int pitch) {
    const uint8_t *x = x_;
    for (size_t e = 0; e < entries; e++) {
        const uint32_t *from = (const uint32_t *)(const void *)(x + offset[e]);
        const __m256i w = _mm256_set1_epi32((int)weight[e]);
        UNROLL EACH(h) sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(_mm256_loadu_si256((const void *)(from + pitch * h)), w));
    }
}

ALWAYS void words_u8(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, bool fresh, int32_t *y, const int N, const int pitch) {
    __m256i sum[SUMS];
    UNROLL EACH(h) sum[h] = fresh ? _mm256_setzero_si256() : _mm256_loadu_si256((const void *)(y + 8 * h));
    multiply(offset, weight, entries, x, sum, N, pitch);
    UNROLL EACH(h) _mm256_storeu_si256((void *)(y + 8 * h), sum[h]);
}

void conv_u8_value_7x16_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(N) words_u8(offset, weight, entries, x, fresh, y, N, WIDE);
    FOR_WIDE(BODY)
#undef BODY
}

void conv_u8_value_14x8_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(N) words_u8(offset, weight, entries, x, fresh, y, N, NARROW);
    FOR_NARROW(BODY)
#undef BODY
}

ALWAYS void add_wide(int64_t *y, __m128i sum, bool fresh) {
    const __m256i wide = _mm256_cvtepi32_epi64(sum);
    _mm256_storeu_si256((void *)y, fresh ? wide : _mm256_add_epi64(_mm256_loadu_si256((const void *)y), wide));
}

ALWAYS void words_i16(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, bool fresh, int64_t *y, const int N, const int pitch) {
    __m256i sum[SUMS];
    UNROLL EACH(h) sum[h] = _mm256_setzero_si256();
    multiply(offset, weight, entries, x, sum, N, pitch);
    UNROLL EACH(h) {
        add_wide(y + 8 * h, _mm256_castsi256_si128(sum[h]), fresh);
        add_wide(y + 8 * h + 4, _mm256_extracti128_si256(sum[h], 1), fresh);
    }
}

void conv_i16_value_7x16_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(N) words_i16(offset, weight, entries, x, fresh, y, N, WIDE);
    FOR_WIDE(BODY)
#undef BODY
}

void conv_i16_value_14x8_avx2(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(N) words_i16(offset, weight, entries, x, fresh, y, N, NARROW);
    FOR_NARROW(BODY)
#undef BODY
}

/* The difference fits int32, and converting that rounds as converting int64 does. */
void scale_u8_avx2(const int32_t *sum, size_t n, int32_t less, float factor, const float *bias, float *y) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i left = _mm256_sub_epi32(_mm256_loadu_si256((const void *)(sum + i)), _mm256_set1_epi32(less));
        const __m256 made = _mm256_mul_ps(_mm256_cvtepi32_ps(left), _mm256_set1_ps(factor));
        _mm256_storeu_ps(y + i, bias != NULL ? _mm256_add_ps(made, _mm256_set1_ps(*bias)) : made);
    }
    scale_u8_scalar(sum + i, n - i, less, factor, bias, y + i);
}

/* Lines of 4 to 16 lanes side by side in x: two registers that overlap, with masks where lanes lie outside of it. Others are rare. */
ALWAYS __m256i inside(int64_t first, int64_t width) {
    const int64_t from = first < -8 ? -8 : first > 1 << 30 ? 1 << 30 : first, to = width > 1 << 30 ? 1 << 30 : width;
    const __m256i at = _mm256_add_epi32(_mm256_set1_epi32((int)from), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_and_si256(_mm256_cmpgt_epi32(at, _mm256_set1_epi32(-1)), _mm256_cmpgt_epi32(_mm256_set1_epi32((int)to), at));
}

void lines_avx2(const uint32_t *x, const eie_lines *how, uint32_t *to) {
    const int64_t lanes = (int64_t)how->lanes;
    if (how->step != 1 || lanes < 4 || lanes > 16 || how->width > 1 << 30 || how->first > 1 << 30) {
        lines_scalar(x, how, to);
        return;
    }
    const bool short_one = lanes < 8;
    const int64_t second = lanes - (short_one ? 4 : 8);
    const __m256i a = inside(how->first, how->width), b = inside(how->first + second, how->width), pad = _mm256_set1_epi32((int)how->pad);
    const __m128i a4 = _mm256_castsi256_si128(a), b4 = _mm256_castsi256_si128(b), pad4 = _mm256_castsi256_si128(pad);
    const bool whole = how->first >= 0 && how->first + lanes <= how->width;
    for (size_t l = 0; l < how->count; l++, to += how->to_pitch, x += how->pitch) {
        const int *from = (const int *)((uintptr_t)x + (uintptr_t)(how->first * 4)), *then = (const int *)((uintptr_t)from + (uintptr_t)(second * 4));
        if (short_one) {
            const __m128i one = _mm_blendv_epi8(pad4, _mm_maskload_epi32(from, a4), a4), two = _mm_blendv_epi8(pad4, _mm_maskload_epi32(then, b4), b4);
            _mm_storeu_si128((void *)to, one);
            _mm_storeu_si128((void *)(to + second), two);
        } else if (whole) {
            const __m256i one = _mm256_loadu_si256((const void *)from), two = _mm256_loadu_si256((const void *)then);
            _mm256_storeu_si256((void *)to, one);
            _mm256_storeu_si256((void *)(to + second), two);
        } else {
            const __m256i one = _mm256_blendv_epi8(pad, _mm256_maskload_epi32(from, a), a), two = _mm256_blendv_epi8(pad, _mm256_maskload_epi32(then, b), b);
            _mm256_storeu_si256((void *)to, one);
            _mm256_storeu_si256((void *)(to + second), two);
        }
    }
}
#endif
