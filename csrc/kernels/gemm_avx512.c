/* Matrix kernels for AVX-512 with VBMI and VNNI: one permute picks the activations of a whole step out of its window, another
 * turns codes into values. Each is written for V vectors, V a constant: entries are decoded once for all of them, and what a
 * lone vector lacks in independent sums it gets by summing the steps of an unrolled group apart. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>
#include <string.h>

#include "kernels/quantize.h"

#define ALWAYS static inline __attribute__((always_inline))
enum { AHEAD = 2048 }; /* bytes: how far ahead weights are asked for. Memory answers a third faster so, and caches don't mind */

/* Where weights come from the second-level cache the processor is early enough by itself, and asking costs it loads. */
ALWAYS void ahead(bool far, const void *from, int lines) {
    for (int i = 0; far && i < lines; i++) _mm_prefetch((const char *)from + AHEAD + 64 * i, _MM_HINT_T0);
}

/* The origins of four steps by one load: loads are what steps are short of. */
ALWAYS uint64_t four(const uint16_t *origin) {
    uint64_t all;
    memcpy(&all, origin, sizeof all);
    return all;
}

/* How many chains of sums a lane has: enough to hide the latency of adding to one. */
#define CHAINS(V) ((V) == 1 ? 4 : (V) == 2 ? 2 : 1)

/* Calls body for all vectors, eight, four, two or one at a time, a group at a time: its weights stay in the cache. */
#define FOR_VECTORS(type, rows, body)                                                                         \
    for (size_t g = begin; g < end; g++) {                                                                    \
        type *to = (type *)y + (g - begin) * (rows);                                                          \
        const size_t apart = (end - begin) * (rows);                                                          \
        size_t v = 0;                                                                                         \
        for (; v + 8 <= count; v += 8) body(p, g, (const char *)x + v * bytes, bytes, to + v * apart, apart, 8); \
        for (; v + 4 <= count; v += 4) body(p, g, (const char *)x + v * bytes, bytes, to + v * apart, apart, 4); \
        for (; v + 2 <= count; v += 2) body(p, g, (const char *)x + v * bytes, bytes, to + v * apart, apart, 2); \
        for (; v < count; v++) body(p, g, (const char *)x + v * bytes, bytes, to + v * apart, apart, 1);      \
    }

/* ---- u8 ------------------------------------------------------------------------------------------------------------ */


ALWAYS void store_u8(__m512i (*sum)[4], int32_t *y, size_t apart, const int V) {
    for (int v = 0; v < V; v++) {
        __m512i total = sum[v][0];
        for (int c = 1; c < CHAINS(V); c++) total = _mm512_add_epi32(total, sum[v][c]);
        _mm512_storeu_si512(y + v * apart, total);
    }
}

ALWAYS void code16(const eie_panel *p, size_t g, const void *x, size_t bytes, int32_t *y, size_t apart, const int V) {
    const bool far = p->far;
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p->table)); /* four times: bits 4 and 5 of a code are another's */
    const uint8_t *index = p->index + p->first[g] * 64, *code = p->weight + p->first[g] * 32;
    __m512i sum[8][4];
    for (int v = 0; v < V; v++) {
        for (int c = 0; c < CHAINS(V); c++) sum[v][c] = _mm512_setzero_si512();
    }
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 4, index += 256, code += 128) {
        const uint64_t origins = four(p->origin + s);
        ahead(far, index, 4);
        ahead(far, code, 2);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512i packed = _mm512_loadu_si512(code + j / 2 * 64), at = _mm512_loadu_si512(index + j * 64);
            const __m512i values = _mm512_permutexvar_epi8(j % 2 ? _mm512_srli_epi16(packed, 4) : packed, table);
            const char *from = (const char *)x + (uint16_t)(origins >> 16 * j);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                const __m512i picked = _mm512_permutexvar_epi8(at, _mm512_loadu_si512(from + v * bytes));
                sum[v][j % CHAINS(V)] = _mm512_dpbusd_epi32(sum[v][j % CHAINS(V)], picked, values);
            }
        }
    }
    store_u8(sum, y, apart, V);
}

/* Ternary weights: column and code share a byte. */
ALWAYS void code4(const eie_panel *p, size_t g, const void *x, size_t bytes, int32_t *y, size_t apart, const int V) {
    const bool far = p->far;
    int32_t four_values;
    memcpy(&four_values, p->table, sizeof four_values);
    const __m512i table = _mm512_set1_epi32(four_values); /* again and again: what a shift brings in beside a code is another's column */
    const uint8_t *entry = p->index + p->first[g] * 64;
    __m512i sum[8][4];
    for (int v = 0; v < V; v++) {
        for (int c = 0; c < CHAINS(V); c++) sum[v][c] = _mm512_setzero_si512();
    }
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 4, entry += 256) {
        const uint64_t origins = four(p->origin + s);
        ahead(far, entry, 4);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512i at = _mm512_loadu_si512(entry + j * 64); /* a permute reads six bits */
            const __m512i values = _mm512_permutexvar_epi8(_mm512_srli_epi16(at, 6), table);
            const char *from = (const char *)x + (uint16_t)(origins >> 16 * j);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                const __m512i picked = _mm512_permutexvar_epi8(at, _mm512_loadu_si512(from + v * bytes));
                sum[v][j % CHAINS(V)] = _mm512_dpbusd_epi32(sum[v][j % CHAINS(V)], picked, values);
            }
        }
    }
    store_u8(sum, y, apart, V);
}

ALWAYS void value8(const eie_panel *p, size_t g, const void *x, size_t bytes, int32_t *y, size_t apart, const int V) {
    const bool far = p->far;
    const uint8_t *index = p->index + p->first[g] * 64, *value = p->weight + p->first[g] * 64;
    __m512i sum[8][4];
    for (int v = 0; v < V; v++) {
        for (int c = 0; c < CHAINS(V); c++) sum[v][c] = _mm512_setzero_si512();
    }
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 4, index += 256, value += 256) {
        const uint64_t origins = four(p->origin + s);
        ahead(far, index, 4);
        ahead(far, value, 4);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512i values = _mm512_loadu_si512(value + j * 64), at = _mm512_loadu_si512(index + j * 64);
            const char *from = (const char *)x + (uint16_t)(origins >> 16 * j);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                const __m512i picked = _mm512_permutexvar_epi8(at, _mm512_loadu_si512(from + v * bytes));
                sum[v][j % CHAINS(V)] = _mm512_dpbusd_epi32(sum[v][j % CHAINS(V)], picked, values);
            }
        }
    }
    store_u8(sum, y, apart, V);
}

/* One step of the four whose column bits `high` holds at bits 4 and 5 of a byte. sum[v][0]: all rows, sum[v][1]: second ones. */
ALWAYS void split_step(const eie_panel *p, size_t s, __m512i entries, __m512i high, __m512i table, const char *x, size_t bytes,
                       __m512i (*sum)[2], const int V) {
    /* bits 0 to 3 of the first, the rest of the second; a permute reads six bits */
    const __m512i at = _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), _mm512_srli_epi16(entries, 4), high, 0xca);
    const __m512i values = _mm512_permutexvar_epi8(entries, table);
    const __mmask64 upper = _cvtu64_mask64(p->upper[s]);
    const __mmask16 second = p->select[s];
    const char *from = x + p->origin[s];
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
        __m512i picked = _mm512_permutexvar_epi8(at, _mm512_loadu_si512(from + v * bytes));
        picked = _mm512_mask_permutexvar_epi8(picked, upper, at, _mm512_loadu_si512(from + v * bytes + 64));
        sum[v][0] = _mm512_dpbusd_epi32(sum[v][0], picked, values);
        sum[v][1] = _mm512_mask_dpbusd_epi32(sum[v][1], second, picked, values);
    }
}

ALWAYS void split16(const eie_panel *p, size_t g, const void *x, size_t bytes, int32_t *y, size_t apart, const int V) {
    const bool far = p->far;
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p->table));
    const uint8_t *entry = p->index + p->first[g] * 64, *high = p->high + p->first[g] * 16;
    __m512i even[8][2], odd[8][2]; /* steps: two chains */
    for (int v = 0; v < V; v++) even[v][0] = even[v][1] = odd[v][0] = odd[v][1] = _mm512_setzero_si512();
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 4, entry += 256, high += 64) {
        const __m512i bits = _mm512_loadu_si512(high);
        ahead(far, entry, 4);
        ahead(far, high, 1);
        split_step(p, s, _mm512_loadu_si512(entry), _mm512_slli_epi16(bits, 4), table, x, bytes, even, V);
        split_step(p, s + 1, _mm512_loadu_si512(entry + 64), _mm512_slli_epi16(bits, 2), table, x, bytes, V > 1 ? even : odd, V);
        split_step(p, s + 2, _mm512_loadu_si512(entry + 128), bits, table, x, bytes, even, V);
        split_step(p, s + 3, _mm512_loadu_si512(entry + 192), _mm512_srli_epi16(bits, 2), table, x, bytes, V > 1 ? even : odd, V);
    }
    for (int v = 0; v < V; v++) {
        const __m512i all = V > 1 ? even[v][0] : _mm512_add_epi32(even[v][0], odd[v][0]);
        const __m512i second = V > 1 ? even[v][1] : _mm512_add_epi32(even[v][1], odd[v][1]);
        _mm512_storeu_si512(y + v * apart, _mm512_sub_epi32(all, second));
        _mm512_storeu_si512(y + v * apart + EIE_ROWS, second);
    }
}

void gemm_u8_code16_16x64_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride;
    FOR_VECTORS(int32_t, EIE_ROWS, code16)
}

void gemm_u8_code4_16x64_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride;
    FOR_VECTORS(int32_t, EIE_ROWS, code4)
}

void gemm_u8_value_16x64_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride;
    FOR_VECTORS(int32_t, EIE_ROWS, value8)
}

void gemm_u8_split16_32x128_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride;
    FOR_VECTORS(int32_t, 2 * EIE_ROWS, split16)
}

void output_u8_avx512(const int32_t *sum, size_t n, const eie_output_u8 *how, float *to) {
    const __m512i zero = _mm512_set1_epi32(how->zero), none = _mm512_set1_epi32((int)EIE_NO_ROW);
    const __m512 factor = _mm512_set1_ps(how->factor);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 here = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
        const __m512i row = _mm512_maskz_loadu_epi32(here, how->order + i);
        const __mmask16 k = _mm512_mask_cmpneq_epi32_mask(here, row, none);
        /* the difference fits int32, though its parts may not: |q - zero| <= 255 */
        const __m512i exact = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(k, sum + i),
                                               _mm512_mullo_epi32(zero, _mm512_maskz_loadu_epi32(k, how->row_sum + i)));
        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), factor);
        if (how->bias != NULL) y = _mm512_add_ps(y, _mm512_mask_i32gather_ps(y, k, row, how->bias, 4));
        _mm512_mask_i32scatter_ps(to, k, row, y, 4);
    }
}

/* ---- i16 ----------------------------------------------------------------------------------------------------------- */

/* Adds the int32 sums to int64 ones. Sixteen products of a row fit int32: docs/numerics.md */
ALWAYS void widen(__m512i sum, __m512i *wide) {
    wide[0] = _mm512_add_epi64(wide[0], _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum)));
    wide[1] = _mm512_add_epi64(wide[1], _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1)));
}

/* The words of a step out of a window of 64, or of 32: the latter takes a third of the time, and more steps. */
ALWAYS __m512i words(const char *from, __m512i at, const int window) {
    const __m512i low = _mm512_loadu_si512(from);
    return window == 32 ? _mm512_permutexvar_epi16(at, low) : _mm512_permutex2var_epi16(low, at, _mm512_loadu_si512(from + 64));
}

ALWAYS void word16(const eie_panel *p, size_t g, const void *x, size_t bytes, int64_t *y, size_t apart, const int V, const int window) {
    const bool far = p->far;
    const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)p->table)); /* twice: bit 4 of a code is another's */
    const uint8_t *index = p->index + p->first[g] * 32, *code = p->weight + p->first[g] * 16;
    __m512i wide[8][2];
    for (int v = 0; v < V; v++) wide[v][0] = wide[v][1] = _mm512_setzero_si512();
    for (size_t s = p->first[g]; s < p->first[g + 1];) {
        const size_t stop = s + 8 < p->first[g + 1] ? s + 8 : p->first[g + 1];
        __m512i sum[8][4];
        for (int v = 0; v < V; v++) {
            for (int c = 0; c < 2; c++) sum[v][c] = _mm512_setzero_si512();
        }
        for (; s < stop; s += 4, index += 128, code += 64) {
            const uint64_t origins = four(p->origin + s);
            const __m512i codes = _mm512_loadu_si512(code);
            ahead(far, index, 2);
            ahead(far, code, 1);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const __m512i pair = _mm512_loadu_si512(index + j / 2 * 64), at = j % 2 ? _mm512_srli_epi16(pair, 8) : pair;
                const __m512i values = _mm512_permutexvar_epi16(j > 0 ? _mm512_srli_epi16(codes, 4 * j) : codes, table);
                const char *from = (const char *)x + 2 * (size_t)(uint16_t)(origins >> 16 * j);
#pragma GCC unroll 8
                for (int v = 0; v < V; v++) {
                    sum[v][j % 2] = _mm512_dpwssd_epi32(sum[v][j % 2], words(from + v * bytes, at, window), values);
                }
            }
        }
        for (int v = 0; v < V; v++) {
            for (int c = 1; c < 2; c++) sum[v][0] = _mm512_add_epi32(sum[v][0], sum[v][c]);
            widen(sum[v][0], wide[v]);
        }
    }
    for (int v = 0; v < V; v++) {
        _mm512_storeu_si512(y + v * apart, wide[v][0]);
        _mm512_storeu_si512(y + v * apart + 8, wide[v][1]);
    }
}

ALWAYS void value16(const eie_panel *p, size_t g, const void *x, size_t bytes, int64_t *y, size_t apart, const int V) {
    const bool far = p->far;
    const uint8_t *index = p->index + p->first[g] * 32;
    const int16_t *value = (const int16_t *)p->weight + p->first[g] * 32;
    __m512i wide[8][2];
    for (int v = 0; v < V; v++) wide[v][0] = wide[v][1] = _mm512_setzero_si512();
    for (size_t s = p->first[g]; s < p->first[g + 1];) {
        const size_t stop = s + 8 < p->first[g + 1] ? s + 8 : p->first[g + 1];
        __m512i sum[8];
        for (int v = 0; v < V; v++) sum[v] = _mm512_setzero_si512();
        for (; s < stop; s++, index += 32, value += 32) {
            const __m512i at = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)index)), values = _mm512_loadu_si512(value);
            const char *from = (const char *)x + 2 * (size_t)p->origin[s];
            ahead(far, index, 1);
            ahead(far, value, 1);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sum[v] = _mm512_dpwssd_epi32(sum[v], words(from + v * bytes, at, 64), values);
        }
        for (int v = 0; v < V; v++) widen(sum[v], wide[v]);
    }
    for (int v = 0; v < V; v++) {
        _mm512_storeu_si512(y + v * apart, wide[v][0]);
        _mm512_storeu_si512(y + v * apart + 8, wide[v][1]);
    }
}

void gemm_i16_code16_16x64_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride * sizeof(int16_t);
#define BODY(p, g, x, bytes, y, apart, V) word16(p, g, x, bytes, y, apart, V, 64)
    FOR_VECTORS(int64_t, EIE_ROWS, BODY)
#undef BODY
}

void gemm_i16_code16_16x32_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride * sizeof(int16_t);
#define BODY(p, g, x, bytes, y, apart, V) word16(p, g, x, bytes, y, apart, V, 32)
    FOR_VECTORS(int64_t, EIE_ROWS, BODY)
#undef BODY
}

void gemm_i16_value_16x64_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride * sizeof(int16_t);
    FOR_VECTORS(int64_t, EIE_ROWS, value16)
}

/* ---- f32 ----------------------------------------------------------------------------------------------------------- */

ALWAYS __m512 floats(const char *from, __m512i at) { return _mm512_permutex2var_ps(_mm512_loadu_ps(from), at, _mm512_loadu_ps(from + 64)); }

ALWAYS void triple32(const eie_panel *p, size_t g, const void *x, size_t bytes, float *y, size_t apart, const int V) {
    const bool far = p->far;
    const __m512 low = _mm512_loadu_ps(p->table), high = _mm512_loadu_ps(p->table + 64);
    const uint8_t *index = p->index + p->first[g] / 3 * 64;
    __m512 sum[8][3];
    for (int v = 0; v < V; v++) sum[v][0] = sum[v][1] = sum[v][2] = _mm512_setzero_ps();
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 3, index += 64) {
        const __m512i entries = _mm512_loadu_si512(index);
        ahead(far, index, 1);
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) {
            const __m512i at = _mm512_srli_epi32(entries, 10 * j); /* a permute reads five bits */
            const __m512 values = _mm512_permutex2var_ps(low, _mm512_srli_epi32(entries, 10 * j + 5), high);
            const char *from = (const char *)x + 4 * (size_t)p->origin[s + j];
            const int c = V == 1 ? j : 0;
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sum[v][c] = _mm512_fmadd_ps(floats(from + v * bytes, at), values, sum[v][c]);
        }
    }
    for (int v = 0; v < V; v++) {
        _mm512_storeu_ps(y + v * apart, V == 1 ? _mm512_add_ps(_mm512_add_ps(sum[v][0], sum[v][1]), sum[v][2]) : sum[v][0]);
    }
}

ALWAYS void value32(const eie_panel *p, size_t g, const void *x, size_t bytes, float *y, size_t apart, const int V) {
    const bool far = p->far;
    const uint8_t *index = p->index + p->first[g] * 16;
    const float *value = (const float *)p->weight + p->first[g] * 16;
    __m512 sum[8];
    for (int v = 0; v < V; v++) sum[v] = _mm512_setzero_ps();
    for (size_t s = p->first[g]; s < p->first[g + 1]; s++, index += 16, value += 16) {
        const __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)index));
        const __m512 values = _mm512_loadu_ps(value);
        const char *from = (const char *)x + 4 * (size_t)p->origin[s];
        ahead(far, value, 1);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sum[v] = _mm512_fmadd_ps(floats(from + v * bytes, at), values, sum[v]);
    }
    for (int v = 0; v < V; v++) _mm512_storeu_ps(y + v * apart, sum[v]);
}

void gemm_f32_code32_16x32_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride * sizeof(float);
    FOR_VECTORS(float, EIE_ROWS, triple32)
}

void gemm_f32_value_16x32_avx512(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    const size_t bytes = stride * sizeof(float);
    FOR_VECTORS(float, EIE_ROWS, value32)
}
#endif
