/* The specification of the matrix kernels: what the others are tested against. */
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/quantize.h"

void gemm_f32_value_16x256_scalar(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y_) {
    float *y = y_;
    for (size_t v = 0; v < count; v++) {
        for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
            float sum[EIE_ROWS] = {0};
            for (size_t s = p->first[g]; s < p->first[g + 1]; s++) {
                const float *from = (const float *)x + v * stride + p->origin[s], *value = (const float *)p->weight + s * EIE_ROWS;
                const uint8_t *index = p->index + s * EIE_ROWS;
                for (int r = 0; r < EIE_ROWS; r++) sum[r] += value[r] * from[index[r]];
            }
            memcpy(y, sum, sizeof sum);
        }
    }
}

void gemm_i16_value_16x256_scalar(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y_) {
    int64_t *y = y_;
    for (size_t v = 0; v < count; v++) {
        for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
            int64_t sum[EIE_ROWS] = {0};
            for (size_t s = p->first[g]; s < p->first[g + 1]; s++) {
                const int16_t *from = (const int16_t *)x + v * stride + p->origin[s], *value = (const int16_t *)p->weight + s * 32;
                const uint8_t *index = p->index + s * 32;
                for (int i = 0; i < 32; i++) sum[i / 2] += (int32_t)value[i] * from[index[i]];
            }
            memcpy(y, sum, sizeof sum);
        }
    }
}

void gemm_u8_value_16x256_scalar(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    for (size_t v = 0; v < count; v++) {
        for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
            int32_t sum[EIE_ROWS] = {0};
            for (size_t s = p->first[g]; s < p->first[g + 1]; s++) {
                const uint8_t *from = (const uint8_t *)x + v * stride + p->origin[s], *index = p->index + s * 64;
                const int8_t *value = (const int8_t *)p->weight + s * 64;
                for (int i = 0; i < 64; i++) sum[i / 4] += value[i] * from[index[i]];
            }
            memcpy(y, sum, sizeof sum);
        }
    }
}

void gemm_u8_code16_16x256_scalar(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y_) {
    int32_t *y = y_;
    const int8_t *table = (const int8_t *)p->table;
    for (size_t v = 0; v < count; v++) {
        for (size_t g = begin; g < end; g++, y += EIE_ROWS) {
            int32_t sum[EIE_ROWS] = {0};
            for (size_t s = p->first[g]; s < p->first[g + 1]; s++) {
                const uint8_t *from = (const uint8_t *)x + v * stride + p->origin[s], *index = p->index + s * 64;
                const uint8_t *code = p->weight + s / 2 * 64;
                for (int i = 0; i < 64; i++) sum[i / 4] += table[code[i] >> (s % 2 ? 4 : 0) & 15] * from[index[i]];
            }
            memcpy(y, sum, sizeof sum);
        }
    }
}

void output_u8_scalar(const int32_t *sum, size_t n, const eie_output_u8 *how, float *to) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t row = how->order[i];
        if (row == EIE_NO_ROW) continue;
        const float y = eie_scale_u8((int64_t)sum[i] - (int64_t)how->zero * how->row_sum[i], how->factor);
        to[row] = how->bias != NULL ? y + how->bias[row] : y;
    }
}
