/* Convolution kernels for AVX-512: one broadcast weight against as many vectors as there are registers for sums. Vectors are
 * aligned and lie one after the other, so that a sum costs one load and one multiply-add. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>

#define ALWAYS static inline __attribute__((always_inline))
enum { VECTORS = 14 };

#define ROWS(r) for (int r = 0; r < R; r++)
#define UNROLL _Pragma("GCC unroll 14")

/* Calls body with R a constant. Few rows have two sums each, for the entries in turn: adding to one takes longer than a step. */
#define FOR_ROWS(body)                   \
    switch (rows) {                      \
    case 1: body(1, 4) break;            \
    case 2: body(2, 4) break;            \
    case 3: body(3, 2) break;            \
    case 4: body(4, 2) break;            \
    case 5: body(5, 2) break;            \
    case 6: body(6, 2) break;            \
    case 7: body(7, 2) break;            \
    case 8: body(8, 1) break;            \
    case 9: body(9, 1) break;            \
    case 10: body(10, 1) break;          \
    case 11: body(11, 1) break;          \
    case 12: body(12, 1) break;          \
    case 13: body(13, 1) break;          \
    default: body(14, 1) break;          \
    }

/* A pointer of its own: with an index each operand would take a step more to decode. */
ALWAYS const char *at(const char *x, uint32_t offset) {
    const char *from = x + offset;
    __asm__("" : "+r"(from));
    return from;
}

ALWAYS void floats(const uint32_t *offset, const uint32_t *weight, size_t entries, const char *x, bool fresh, float *y, const int R, const int C) {
    __m512 sum[4][VECTORS];
    for (int c = 0; c < C; c++) {
        UNROLL ROWS(r) sum[c][r] = fresh || c > 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(y + 16 * r);
    }
    size_t e = 0;
    for (; e + (size_t)C <= entries; e += (size_t)C) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            const char *from = at(x, offset[e + (size_t)c]);
            const __m512 w = _mm512_castsi512_ps(_mm512_set1_epi32((int)weight[e + (size_t)c]));
            UNROLL ROWS(r) sum[c][r] = _mm512_fmadd_ps(w, _mm512_load_ps(from + 64 * r), sum[c][r]);
        }
    }
    for (; e < entries; e++) {
        const char *from = at(x, offset[e]);
        const __m512 w = _mm512_castsi512_ps(_mm512_set1_epi32((int)weight[e]));
        UNROLL ROWS(r) sum[0][r] = _mm512_fmadd_ps(w, _mm512_load_ps(from + 64 * r), sum[0][r]);
    }
    for (int c = 1; c < C; c++) {
        UNROLL ROWS(r) sum[0][r] = _mm512_add_ps(sum[0][r], sum[c][r]);
    }
    UNROLL ROWS(r) _mm512_storeu_ps(y + 16 * r, sum[0][r]);
}

void conv_f32_value_14x16_avx512(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(R, C) floats(offset, weight, entries, x, fresh, y, R, C);
    FOR_ROWS(BODY)
#undef BODY
}

ALWAYS void bytes(const uint32_t *offset, const uint32_t *weight, size_t entries, const char *x, bool fresh, int32_t *y, const int R, const int C) {
    __m512i sum[4][VECTORS];
    for (int c = 0; c < C; c++) {
        UNROLL ROWS(r) sum[c][r] = fresh || c > 0 ? _mm512_setzero_si512() : _mm512_loadu_si512(y + 16 * r);
    }
    size_t e = 0;
    for (; e + (size_t)C <= entries; e += (size_t)C) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            const char *from = at(x, offset[e + (size_t)c]);
            const __m512i w = _mm512_set1_epi32((int)weight[e + (size_t)c]);
            UNROLL ROWS(r) sum[c][r] = _mm512_dpbusd_epi32(sum[c][r], _mm512_load_si512(from + 64 * r), w);
        }
    }
    for (; e < entries; e++) {
        const char *from = at(x, offset[e]);
        const __m512i w = _mm512_set1_epi32((int)weight[e]);
        UNROLL ROWS(r) sum[0][r] = _mm512_dpbusd_epi32(sum[0][r], _mm512_load_si512(from + 64 * r), w);
    }
    for (int c = 1; c < C; c++) {
        UNROLL ROWS(r) sum[0][r] = _mm512_add_epi32(sum[0][r], sum[c][r]);
    }
    UNROLL ROWS(r) _mm512_storeu_si512(y + 16 * r, sum[0][r]);
}

void conv_u8_value_14x16_avx512(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(R, C) bytes(offset, weight, entries, x, fresh, y, R, C);
    FOR_ROWS(BODY)
#undef BODY
}

ALWAYS void add_wide(int64_t *y, __m512i sum) {
    _mm512_storeu_si512(y, _mm512_add_epi64(_mm512_loadu_si512(y), _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum))));
    _mm512_storeu_si512(y + 8, _mm512_add_epi64(_mm512_loadu_si512(y + 8), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1))));
}

ALWAYS void words(const uint32_t *offset, const uint32_t *weight, size_t entries, const char *x, bool fresh, int64_t *y, const int R) {
    if (fresh) {
        for (int i = 0; i < 2 * R; i++) _mm512_storeu_si512(y + 8 * i, _mm512_setzero_si512());
    }
    for (size_t e = 0; e < entries;) {
        const size_t stop = e + 8 < entries ? e + 8 : entries; /* 16 products fit int32: docs/numerics.md */
        __m512i sum[VECTORS];
        UNROLL ROWS(r) sum[r] = _mm512_setzero_si512();
        for (; e < stop; e++) {
            const char *from = at(x, offset[e]);
            const __m512i w = _mm512_set1_epi32((int)weight[e]);
            UNROLL ROWS(r) sum[r] = _mm512_dpwssd_epi32(sum[r], _mm512_load_si512(from + 64 * r), w);
        }
        UNROLL ROWS(r) add_wide(y + 16 * r, sum[r]);
    }
}

void conv_i16_value_14x16_avx512(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
#define BODY(R, C) words(offset, weight, entries, x, fresh, y, R);
    FOR_ROWS(BODY)
#undef BODY
}

void scale_u8_avx512(const int32_t *sum, size_t n, int32_t less, float factor, const float *bias, float *y) {
    const __m512i zero = _mm512_set1_epi32(less);
    const __m512 by = _mm512_set1_ps(factor), add = _mm512_set1_ps(bias != NULL ? *bias : 0);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 k = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
        __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_maskz_loadu_epi32(k, sum + i), zero)), by);
        if (bias != NULL) v = _mm512_add_ps(v, add);
        _mm512_mask_storeu_ps(y + i, k, v);
    }
}

/* The lanes of [at, at + 16) that are in [begin, end). */
ALWAYS __mmask16 between(int64_t at, int64_t begin, int64_t end) {
    const int64_t b = begin - at < 0 ? 0 : begin - at, e = end - at > 16 ? 16 : end - at;
    return e <= b ? 0 : (__mmask16)((0xffffu >> (16 - (e - b))) << b);
}

ALWAYS void line_part(const uint32_t *line, const eie_lines *how, __m512i index, int64_t i, int64_t begin, int64_t end, uint32_t *to) {
    const __m512i pad = _mm512_set1_epi32((int)how->pad);
    const __mmask16 wanted = between(i, 0, (int64_t)how->lanes), inside = between(i, begin, end) & wanted;
    const void *from = (const void *)((intptr_t)line + (intptr_t)((how->first + i * how->step) * 4)); /* lanes that are masked may lie outside */
    const __m512i found = how->step == 1 ? _mm512_mask_loadu_epi32(pad, inside, from) : _mm512_mask_i32gather_epi32(pad, inside, index, from, 4);
    _mm512_mask_storeu_epi32(to + i, wanted, found);
}

void lines_avx512(const uint32_t *x, const eie_lines *how, uint32_t *to) {
    if (how->step > 1 << 24) { /* an index of a gather has 32 bits */
        lines_scalar(x, how, to);
        return;
    }
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i index = _mm512_mullo_epi32(count, _mm512_set1_epi32((int)how->step));
    const int64_t lanes = (int64_t)how->lanes, begin = how->first < 0 ? (-how->first + how->step - 1) / how->step : 0;
    const int64_t end = how->first < how->width ? (how->width - 1 - how->first) / how->step + 1 : 0;
    const int64_t whole = how->step == 1 ? (begin + 15) / 16 * 16 : lanes, past = end < lanes ? end : lanes; /* blocks inside, of lines as they are */
    if (lanes <= 16 && how->step == 1) { /* the same for every line: what it takes is known before */
        const __m512i pad = _mm512_set1_epi32((int)how->pad);
        const __mmask16 wanted = between(0, 0, lanes), inside = between(0, begin, end) & wanted;
        const char *from = (const char *)((intptr_t)x + (intptr_t)(how->first * 4));
        for (size_t l = 0; l < how->count; l++, from += how->pitch * 4, to += how->to_pitch) {
            const __m512i found = _mm512_mask_loadu_epi32(pad, inside, from);
            if (lanes == 16) _mm512_storeu_si512(to, found);
            else _mm512_mask_storeu_epi32(to, wanted, found);
        }
        return;
    }
    for (size_t l = 0; l < how->count; l++, to += how->to_pitch) {
        const uint32_t *line = x + l * how->pitch;
        int64_t i = 0;
        for (; i < whole && i < lanes; i += 16) line_part(line, how, index, i, begin, end, to);
        for (; i + 16 <= past; i += 16) _mm512_storeu_si512(to + i, _mm512_loadu_si512(line + how->first + i));
        for (; i < lanes; i += 16) line_part(line, how, index, i, begin, end, to);
    }
}
#endif
