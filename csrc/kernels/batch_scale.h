/* Sums of a batch to numbers: included once for each instruction set, whose compiler flags make vectors of it. Differences fit
 * int32, though their parts may not: |q - zero| <= 255. */
#include "kernels/kernels.h"

void SUFFIXED(batch_scale_u8)(const int32_t *sums, const eie_batch_scale *how, float *to) {
    for (size_t r = 0; r < how->rows; r++) {
        const uint32_t row_sum = (uint32_t)how->row_sum[r];
        for (size_t b = 0; b < how->lanes; b += 16) {
            const int32_t *from = sums + r * how->lanes + b;
            float *at = to + r * how->lanes + b, scaled[16];
            for (size_t l = 0; l < 16; l++) scaled[l] = (float)(int32_t)((uint32_t)from[l] - (uint32_t)how->zero[b + l] * row_sum) * how->factor[b + l];
            for (size_t l = 0; l < 16; l++) at[l] = scaled[l];
        }
    }
}
