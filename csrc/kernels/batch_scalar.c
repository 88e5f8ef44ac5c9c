/* The specification of the kernels for batches. */
#include <string.h>

#include "kernels/kernels.h"

#define SUFFIXED(name) name##_scalar
#include "kernels/batch_scale.h"

void batch_f32_code_1x32_scalar(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    for (size_t r = 0; r < b->rows; r++) {
        float *y = (float *)sums + b->row[r] * lanes;
        if (fresh) memset(y, 0, lanes * sizeof *y);
        for (size_t e = b->first[r]; e < b->first[r + 1]; e++) {
            const float *from = (const float *)((const char *)x + b->place[e] * (lanes / 4)), w = b->table[((const uint8_t *)b->weight)[e]];
            for (size_t l = 0; l < lanes; l++) y[l] += w * from[l];
        }
    }
}

void batch_i16_pair_1x32_scalar(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    for (size_t r = 0; r < b->rows; r++) {
        int64_t *y = (int64_t *)sums + b->row[r] * lanes;
        if (fresh) memset(y, 0, lanes * sizeof *y);
        for (size_t e = 2 * (size_t)b->first[r]; e < 2 * (size_t)b->first[r + 1]; e++) {
            const int16_t *from = (const int16_t *)((const char *)x + b->place[e] * (lanes / 4)), w = ((const int16_t *)b->weight)[e];
            for (size_t l = 0; l < lanes; l++) y[l] += (int32_t)w * from[l];
        }
    }
}

void batch_u8_quad_1x32_scalar(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    for (size_t r = 0; r < b->rows; r++) {
        int32_t *y = (int32_t *)sums + b->row[r] * lanes;
        if (fresh) memset(y, 0, lanes * sizeof *y);
        for (size_t e = 4 * (size_t)b->first[r]; e < 4 * (size_t)b->first[r + 1]; e++) {
            const uint8_t *from = (const uint8_t *)x + b->place[e] * (lanes / 4);
            const int8_t w = ((const int8_t *)b->weight)[e];
            for (size_t l = 0; l < lanes; l++) y[l] += w * from[l];
        }
    }
}

void transpose_scalar(const void *from, const eie_transposed *how, size_t bytes, void *to) {
    for (size_t r = 0; r < how->rows; r++) {
        const char *row = (const char *)from + r * how->pitch * bytes;
        char *at = (char *)to + r * bytes;
        if (bytes == 1) {
            for (size_t c = 0; c < how->columns; c++) at[c * how->to_pitch] = row[c];
        } else if (bytes == 2) {
            for (size_t c = 0; c < how->columns; c++) memcpy(at + c * how->to_pitch * 2, row + c * 2, 2);
        } else {
            for (size_t c = 0; c < how->columns; c++) memcpy(at + c * how->to_pitch * 4, row + c * 4, 4);
        }
    }
}
