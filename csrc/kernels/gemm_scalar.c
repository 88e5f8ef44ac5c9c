/* The specification of the matrix kernels: what the others are tested against. */
#include <string.h>

#include "kernels/kernels.h"

void gemm_f32_value_16x32_scalar(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    float *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const float *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 16;
        const float *value = (const float *)p->weight + p->first[g] * 16;
        float sum[EIE_ROWS] = {0};
        for (size_t b = 0; b < p->blocks; b++, x += 32) {
            for (size_t s = 0; s < steps[b]; s++, index += 16, value += 16) {
                for (int r = 0; r < EIE_ROWS; r++) sum[r] += value[r] * x[index[r]];
            }
        }
        memcpy(y, sum, sizeof sum);
    }
}

void gemm_i16_value_16x64_scalar(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int64_t *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const int16_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 32;
        const int16_t *value = (const int16_t *)p->weight + p->first[g] * 32;
        int64_t sum[EIE_ROWS] = {0};
        for (size_t b = 0; b < p->blocks; b++, x += 64) {
            for (size_t s = 0; s < steps[b]; s++, index += 32, value += 32) {
                for (int i = 0; i < 32; i++) sum[i / 2] += (int32_t)value[i] * x[index[i]];
            }
        }
        memcpy(y, sum, sizeof sum);
    }
}

void gemm_u8_value_16x128_scalar(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const uint8_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 64;
        const int8_t *value = (const int8_t *)p->weight + p->first[g] * 64;
        int32_t sum[EIE_ROWS] = {0};
        for (size_t b = 0; b < p->blocks; b++, x += 128) {
            for (size_t s = 0; s < steps[b]; s++, index += 64, value += 64) {
                for (int i = 0; i < 64; i++) sum[i / 4] += value[i] * x[index[i]];
            }
        }
        memcpy(y, sum, sizeof sum);
    }
}

void gemm_u8_code16_16x128_scalar(const eie_panel *p, const void *x_, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    const int8_t *table = (const int8_t *)p->table;
    for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
        const uint8_t *x = x_;
        const uint8_t *steps = p->steps + g * p->blocks, *index = p->index + p->first[g] * 64;
        const uint8_t *code = p->weight + p->first[g] * 32;
        int32_t sum[EIE_ROWS] = {0};
        for (size_t b = 0; b < p->blocks; b++, x += 128) {
            for (size_t s = 0; s < steps[b]; s++, index += 64, code += 32) {
                for (int i = 0; i < 32; i++) {
                    sum[i / 4] += table[code[i] & 15] * x[index[i]];
                    sum[8 + i / 4] += table[code[i] >> 4] * x[index[32 + i]];
                }
            }
        }
        memcpy(y, sum, sizeof sum);
    }
}
