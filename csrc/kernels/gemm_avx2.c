/* Matrix kernels for AVX2. Blocks of 32 columns: as many bytes as a few in-lane shuffles can pick from. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>

/* 32 bytes out of a table of 32, whose halves fill both lanes of low and high */
static inline __m256i pick_bytes(__m256i low, __m256i high, __m256i at) {
    __m256i upper = _mm256_slli_epi16(at, 3); /* bit 4 of a byte to its sign */
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(low, at), _mm256_shuffle_epi8(high, at), upper);
}

/* Adds 32 products of unsigned and signed bytes to sums[0] and [1], two lanes a row of four entries */
static inline void multiply_bytes(__m256i x, __m256i w, __m256i *sums) {
    __m256i x0 = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)), x1 = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1));
    __m256i w0 = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(w)), w1 = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(w, 1));
    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x0, w0));
    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x1, w1));
}

static inline void store_rows(const __m256i *sums, int32_t *y) {
    for (int i = 0; i < 2; i++) {
        __m256i pairs = _mm256_hadd_epi32(sums[2 * i], sums[2 * i + 1]); /* rows 0 1 4 5 2 3 6 7 */
        _mm256_storeu_si256((void *)(y + 8 * i), _mm256_permute4x64_epi64(pairs, 0xd8));
    }
}

void gemm_u8_code16_16x32_avx2(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p->table)), nibble = _mm256_set1_epi8(15);
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const uint8_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 64, *code = p->weight + p->first[g] * 32;
        __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
        for (size_t b = 0; b < p->blocks; b++, x += 32) {
            const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)x));
            const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)(x + 16)));
            for (size_t s = steps[b]; s > 0; s--, index += 64, code += 32) {
                __m256i codes = _mm256_loadu_si256((const void *)code);
                __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibble));
                __m256i second = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble));
                multiply_bytes(pick_bytes(low, high, _mm256_loadu_si256((const void *)index)), first, sums);
                multiply_bytes(pick_bytes(low, high, _mm256_loadu_si256((const void *)(index + 32))), second, sums + 2);
            }
        }
        store_rows(sums, y);
    }
}

void gemm_u8_value_16x32_avx2(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const uint8_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 64, *value = p->weight + p->first[g] * 64;
        __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
        for (size_t b = 0; b < p->blocks; b++, x += 32) {
            const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)x));
            const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)(x + 16)));
            for (size_t s = steps[b]; s > 0; s--, index += 64, value += 64) {
                multiply_bytes(pick_bytes(low, high, _mm256_loadu_si256((const void *)index)), _mm256_loadu_si256((const void *)value), sums);
                multiply_bytes(pick_bytes(low, high, _mm256_loadu_si256((const void *)(index + 32))),
                               _mm256_loadu_si256((const void *)(value + 32)), sums + 2);
            }
        }
        store_rows(sums, y);
    }
}

/* 16 words out of 32, which lie in four quarters, each in both lanes of its register */
static inline __m256i pick_words(const __m256i *quarter, __m128i index) {
    __m256i at = _mm256_cvtepu8_epi16(index);
    __m256i bytes = _mm256_add_epi16(_mm256_mullo_epi16(at, _mm256_set1_epi16(0x0202)), _mm256_set1_epi16(0x0100));
    __m256i odd = _mm256_slli_epi16(bytes, 3), upper = _mm256_slli_epi16(bytes, 2); /* bits 4 and 5 to the sign */
    __m256i below = _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[0], bytes), _mm256_shuffle_epi8(quarter[1], bytes), odd);
    __m256i above = _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[2], bytes), _mm256_shuffle_epi8(quarter[3], bytes), odd);
    return _mm256_blendv_epi8(below, above, upper);
}

void gemm_i16_value_16x32_avx2(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int64_t *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const int16_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 32;
        const int16_t *value = (const int16_t *)p->weight + p->first[g] * 32;
        __m256i wide[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
        for (size_t b = 0; b < p->blocks; b++, x += 32) {
            __m256i quarter[4];
            for (int i = 0; i < 4; i++) quarter[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)(x + 8 * i)));
            for (size_t left = steps[b]; left > 0;) {
                __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
                const size_t now = left < 8 ? left : 8; /* 16 products of a row fit int32 */
                for (size_t s = 0; s < now; s++, index += 32, value += 32) {
                    for (int h = 0; h < 2; h++) {
                        __m256i picked = pick_words(quarter, _mm_loadu_si128((const void *)(index + 16 * h)));
                        __m256i products = _mm256_madd_epi16(picked, _mm256_loadu_si256((const void *)(value + 16 * h)));
                        sums[h] = _mm256_add_epi32(sums[h], products);
                    }
                }
                left -= now;
                for (int i = 0; i < 4; i++) {
                    __m128i half = i % 2 ? _mm256_extracti128_si256(sums[i / 2], 1) : _mm256_castsi256_si128(sums[i / 2]);
                    wide[i] = _mm256_add_epi64(wide[i], _mm256_cvtepi32_epi64(half));
                }
            }
        }
        for (int i = 0; i < 4; i++) _mm256_storeu_si256((void *)(y + 4 * i), wide[i]);
    }
}

/* 8 floats out of 32, which lie in four registers */
static inline __m256 pick_floats(const __m256 *quarter, __m256i at) {
    __m256 odd = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)), upper = _mm256_castsi256_ps(_mm256_slli_epi32(at, 27));
    __m256 below = _mm256_blendv_ps(_mm256_permutevar8x32_ps(quarter[0], at), _mm256_permutevar8x32_ps(quarter[1], at), odd);
    __m256 above = _mm256_blendv_ps(_mm256_permutevar8x32_ps(quarter[2], at), _mm256_permutevar8x32_ps(quarter[3], at), odd);
    return _mm256_blendv_ps(below, above, upper);
}

void gemm_f32_value_16x32_avx2(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    float *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const float *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 16;
        const float *value = (const float *)p->weight + p->first[g] * 16;
        __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t b = 0; b < p->blocks; b++, x += 32) {
            __m256 quarter[4];
            for (int i = 0; i < 4; i++) quarter[i] = _mm256_loadu_ps(x + 8 * i);
            for (size_t s = steps[b]; s > 0; s--, index += 16, value += 16) {
                for (int h = 0; h < 2; h++) {
                    __m256 picked = pick_floats(quarter, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(index + 8 * h))));
                    sums[h] = _mm256_fmadd_ps(picked, _mm256_loadu_ps(value + 8 * h), sums[h]);
                }
            }
        }
        _mm256_storeu_ps(y, sums[0]);
        _mm256_storeu_ps(y + 8, sums[1]);
    }
}
#endif
