/* Matrix kernels for AVX-512 with VBMI and VNNI. A block of activations sits in two registers; one two-source permute picks
 * the activations of a whole step. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>

void gemm_u8_code16_16x128_avx512(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p->table)), nibble = _mm512_set1_epi8(15);
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const uint8_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 64, *code = p->weight + p->first[g] * 32;
        __m512i sum = _mm512_setzero_si512();
        for (size_t b = 0; b < p->blocks; b++, x += 128) {
            const __m512i low = _mm512_loadu_si512(x), high = _mm512_loadu_si512(x + 64);
            for (size_t s = steps[b]; s > 0; s--, index += 64, code += 32) {
                __m256i packed = _mm256_loadu_si256((const void *)code);
                __m512i codes = _mm512_inserti64x4(_mm512_castsi256_si512(packed), _mm256_srli_epi16(packed, 4), 1);
                __m512i values = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, nibble));
                __m512i picked = _mm512_permutex2var_epi8(low, _mm512_loadu_si512(index), high);
                sum = _mm512_dpbusd_epi32(sum, picked, values);
            }
        }
        _mm512_storeu_si512(y, sum);
    }
}

void gemm_u8_value_16x128_avx512(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const uint8_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 64, *value = p->weight + p->first[g] * 64;
        __m512i sum = _mm512_setzero_si512();
        for (size_t b = 0; b < p->blocks; b++, x += 128) {
            const __m512i low = _mm512_loadu_si512(x), high = _mm512_loadu_si512(x + 64);
            for (size_t s = steps[b]; s > 0; s--, index += 64, value += 64) {
                __m512i picked = _mm512_permutex2var_epi8(low, _mm512_loadu_si512(index), high);
                sum = _mm512_dpbusd_epi32(sum, picked, _mm512_loadu_si512(value));
            }
        }
        _mm512_storeu_si512(y, sum);
    }
}

void gemm_i16_value_16x64_avx512(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int64_t *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const int16_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 32;
        const int16_t *value = (const int16_t *)p->weight + p->first[g] * 32;
        __m512i sum_low = _mm512_setzero_si512(), sum_high = sum_low;
        for (size_t b = 0; b < p->blocks; b++, x += 64) {
            const __m512i low = _mm512_loadu_si512(x), high = _mm512_loadu_si512(x + 32);
            for (size_t left = steps[b]; left > 0;) {
                __m512i sum = _mm512_setzero_si512();
                const size_t now = left < 8 ? left : 8; /* 16 products of a row fit int32: docs/numerics.md */
                for (size_t s = 0; s < now; s++, index += 32, value += 32) {
                    __m512i at = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)index));
                    sum = _mm512_dpwssd_epi32(sum, _mm512_permutex2var_epi16(low, at, high), _mm512_loadu_si512(value));
                }
                left -= now;
                sum_low = _mm512_add_epi64(sum_low, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum)));
                sum_high = _mm512_add_epi64(sum_high, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1)));
            }
        }
        _mm512_storeu_si512(y, sum_low);
        _mm512_storeu_si512(y + 8, sum_high);
    }
}

void gemm_f32_value_16x32_avx512(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    float *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const float *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 16;
        const float *value = (const float *)p->weight + p->first[g] * 16;
        __m512 sum = _mm512_setzero_ps();
        for (size_t b = 0; b < p->blocks; b++, x += 32) {
            const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
            for (size_t s = steps[b]; s > 0; s--, index += 16, value += 16) {
                __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)index));
                sum = _mm512_fmadd_ps(_mm512_permutex2var_ps(low, at, high), _mm512_loadu_ps(value), sum);
            }
        }
        _mm512_storeu_ps(y, sum);
    }
}

void gemm_f32_code32_16x32_avx512(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    float *y = y_;
    const float *table = (const float *)p->table;
    const __m512 table_low = _mm512_loadu_ps(table), table_high = _mm512_loadu_ps(table + 16);
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const float *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 16, *code = p->weight + p->first[g] * 16;
        __m512 sum = _mm512_setzero_ps();
        for (size_t b = 0; b < p->blocks; b++, x += 32) {
            const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
            for (size_t s = steps[b]; s > 0; s--, index += 16, code += 16) {
                __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)index));
                __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)code));
                __m512 values = _mm512_permutex2var_ps(table_low, codes, table_high);
                sum = _mm512_fmadd_ps(_mm512_permutex2var_ps(low, at, high), values, sum);
            }
        }
        _mm512_storeu_ps(y, sum);
    }
}
#endif
