/* Matrix kernels for AVX2. A window is as wide as a few in-lane shuffles can pick from. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>

/* A group at a time, so that its weights are read from the cache by all but the first vector. */
#define FOR_VECTORS(element, type, body)                                                                        \
    for (size_t g = begin; g < end; g++) {                                                                      \
        for (size_t v = 0; v < count; v++) {                                                                    \
            body(p, g, (const element *)x + v * stride, (type *)y + (v * (end - begin) + g - begin) * EIE_ROWS); \
        }                                                                                                       \
    }

/* 32 bytes out of 64, which lie in four quarters, each in both lanes of its register */
static inline __m256i pick_bytes(const __m256i *quarter, __m256i at) {
    const __m256i odd = _mm256_slli_epi16(at, 3), upper = _mm256_slli_epi16(at, 2); /* bits 4 and 5 of a byte to its sign */
    const __m256i below = _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[0], at), _mm256_shuffle_epi8(quarter[1], at), odd);
    const __m256i above = _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[2], at), _mm256_shuffle_epi8(quarter[3], at), odd);
    return _mm256_blendv_epi8(below, above, upper);
}

static inline void quarters(const void *from, __m256i *quarter) {
    for (int i = 0; i < 4; i++) quarter[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from + i));
}

/* The sum, and 32 products of unsigned and signed bytes: four a row. Even and odd bytes are multiplied apart, as words. */
static inline __m256i multiply_bytes(__m256i x, __m256i w, __m256i sum) {
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
    return _mm256_add_epi32(_mm256_add_epi32(sum, even), odd);
}

static inline __m256i load(const void *from) { return _mm256_loadu_si256(from); }

static void code16(const eie_panel *p, size_t g, const uint8_t *x, int32_t *y) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p->table)), nibble = _mm256_set1_epi8(15);
    const uint8_t *index = p->index + p->first[g] * 64, *code = p->weight + p->first[g] * 32;
    __m256i first = _mm256_setzero_si256(), second = first, quarter[4];
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 2, index += 128, code += 64) {
        const __m256i low = load(code), high = load(code + 32);
        quarters(x + p->origin[s], quarter);
        first = multiply_bytes(pick_bytes(quarter, load(index)), _mm256_shuffle_epi8(table, _mm256_and_si256(low, nibble)), first);
        second = multiply_bytes(pick_bytes(quarter, load(index + 32)), _mm256_shuffle_epi8(table, _mm256_and_si256(high, nibble)), second);
        quarters(x + p->origin[s + 1], quarter);
        first = multiply_bytes(pick_bytes(quarter, load(index + 64)),
                               _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(low, 4), nibble)), first);
        second = multiply_bytes(pick_bytes(quarter, load(index + 96)),
                                _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(high, 4), nibble)), second);
    }
    _mm256_storeu_si256((void *)y, first);
    _mm256_storeu_si256((void *)(y + 8), second);
}

static void value8(const eie_panel *p, size_t g, const uint8_t *x, int32_t *y) {
    const uint8_t *index = p->index + p->first[g] * 64, *value = p->weight + p->first[g] * 64;
    __m256i first = _mm256_setzero_si256(), second = first, quarter[4];
    for (size_t s = p->first[g]; s < p->first[g + 1]; s++, index += 64, value += 64) {
        quarters(x + p->origin[s], quarter);
        first = multiply_bytes(pick_bytes(quarter, load(index)), load(value), first);
        second = multiply_bytes(pick_bytes(quarter, load(index + 32)), load(value + 32), second);
    }
    _mm256_storeu_si256((void *)y, first);
    _mm256_storeu_si256((void *)(y + 8), second);
}

void gemm_u8_code16_16x64_avx2(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(uint8_t, int32_t, code16)
}

void gemm_u8_value_16x64_avx2(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(uint8_t, int32_t, value8)
}

static void value16(const eie_panel *p, size_t g, const int16_t *x, int64_t *y) {
    const uint8_t *index = p->index + p->first[g] * 32;
    const int16_t *value = (const int16_t *)p->weight + p->first[g] * 32;
    __m256i wide[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()}, quarter[4];
    for (size_t s = p->first[g]; s < p->first[g + 1];) {
        const size_t stop = s + 8 < p->first[g + 1] ? s + 8 : p->first[g + 1]; /* 16 products of a row fit int32 */
        __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (; s < stop; s++, index += 32, value += 32) {
            quarters(x + p->origin[s], quarter);
            for (int h = 0; h < 2; h++) { /* a word is picked as two bytes, at twice its place and behind */
                const __m256i at = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(index + 16 * h)));
                const __m256i bytes = _mm256_add_epi16(_mm256_mullo_epi16(at, _mm256_set1_epi16(0x0202)), _mm256_set1_epi16(0x0100));
                sums[h] = _mm256_add_epi32(sums[h], _mm256_madd_epi16(pick_bytes(quarter, bytes), load(value + 16 * h)));
            }
        }
        for (int i = 0; i < 4; i++) {
            const __m128i half = i % 2 ? _mm256_extracti128_si256(sums[i / 2], 1) : _mm256_castsi256_si128(sums[i / 2]);
            wide[i] = _mm256_add_epi64(wide[i], _mm256_cvtepi32_epi64(half));
        }
    }
    for (int i = 0; i < 4; i++) _mm256_storeu_si256((void *)(y + 4 * i), wide[i]);
}

void gemm_i16_value_16x32_avx2(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(int16_t, int64_t, value16)
}

/* Floats are gathered: eight loads take less than picking them out of registers would, and a window has 256 columns. */
static void value32(const eie_panel *p, size_t g, const float *x, float *y) {
    const uint8_t *index = p->index + p->first[g] * 16;
    const float *value = (const float *)p->weight + p->first[g] * 16;
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t s = p->first[g]; s < p->first[g + 1]; s++, index += 16, value += 16) {
        for (int h = 0; h < 2; h++) {
            const __m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(index + 8 * h)));
            sums[h] = _mm256_fmadd_ps(_mm256_i32gather_ps(x + p->origin[s], at, 4), _mm256_loadu_ps(value + 8 * h), sums[h]);
        }
    }
    _mm256_storeu_ps(y, sums[0]);
    _mm256_storeu_ps(y + 8, sums[1]);
}

void gemm_f32_value_16x256_avx2(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(float, float, value32)
}
#endif
