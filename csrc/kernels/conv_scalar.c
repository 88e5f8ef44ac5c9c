/* The specification of the convolution kernels. */
#include <string.h>

#include "kernels/kernels.h"

void conv_f32_value_scalar(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const float *value = value_, *x = x_;
    float *y = y_;
    memset(y, 0, n * sizeof *y);
    for (size_t e = 0; e < entries; e++) {
        const float w = value[e], *from = x + offset[e];
        for (size_t i = 0; i < n; i++) y[i] += w * from[i];
    }
}

void conv_i16_value_scalar(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int64_t *y = y_;
    memset(y, 0, n * sizeof *y);
    for (size_t e = 0; e < entries; e++) {
        const int32_t w = value[e];
        const int16_t *from = x + offset[e];
        for (size_t i = 0; i < n; i++) y[i] += w * from[i];
    }
}

void conv_u8_value_scalar(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int32_t *y = y_;
    memset(y, 0, n * sizeof *y);
    for (size_t e = 0; e < entries; e++) {
        const int32_t w = value[e];
        const int16_t *from = x + offset[e];
        for (size_t i = 0; i < n; i++) y[i] += w * from[i];
    }
}
