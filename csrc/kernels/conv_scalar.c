/* The specification of the convolution kernels. */
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/quantize.h"

void conv_f32_value_4x16_scalar(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x_, size_t rows, bool fresh, void *y_) {
    const float *x = x_;
    float *y = y_;
    if (fresh) memset(y, 0, rows * EIE_ROWS * sizeof *y);
    for (size_t e = 0; e < entries; e++) {
        float w;
        memcpy(&w, weight + e, sizeof w);
        const float *from = x + offset[e] / sizeof *x;
        for (size_t i = 0; i < rows * EIE_ROWS; i++) y[i] += w * from[i];
    }
}

void conv_i16_value_4x16_scalar(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x_, size_t rows, bool fresh, void *y_) {
    const int16_t *x = x_;
    int64_t *y = y_;
    if (fresh) memset(y, 0, rows * EIE_ROWS * sizeof *y);
    for (size_t e = 0; e < entries; e++) {
        int16_t w[2];
        memcpy(w, weight + e, sizeof w);
        const int16_t *from = x + offset[e] / sizeof *x;
        for (size_t i = 0; i < rows * EIE_ROWS; i++) y[i] += w[0] * from[2 * i] + w[1] * from[2 * i + 1];
    }
}

void conv_u8_value_4x16_scalar(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x_, size_t rows, bool fresh, void *y_) {
    const int16_t *x = x_;
    int32_t *y = y_;
    if (fresh) memset(y, 0, rows * EIE_ROWS * sizeof *y);
    for (size_t e = 0; e < entries; e++) {
        int16_t w[2];
        memcpy(w, weight + e, sizeof w);
        const int16_t *from = x + offset[e] / sizeof *x;
        for (size_t i = 0; i < rows * EIE_ROWS; i++) y[i] += w[0] * from[2 * i] + w[1] * from[2 * i + 1];
    }
}

void lines_scalar(const uint32_t *x, const eie_lines *how, uint32_t *to) {
    const int64_t lanes = (int64_t)how->lanes;
    int64_t begin = how->first < 0 ? (-how->first + how->step - 1) / how->step : 0; /* lanes [begin, end) are inside */
    int64_t end = how->first < how->width ? (how->width - 1 - how->first) / how->step + 1 : 0;
    end = end < lanes ? end : lanes;
    begin = begin < end ? begin : end;
    if (end < 0) begin = end = 0;
    for (size_t l = 0; l < how->count; l++, to += how->to_pitch) {
        for (int64_t i = 0; i < begin; i++) to[i] = how->pad;
        const uint32_t *line = x + l * how->pitch;
        if (how->step == 1 && end > begin) memcpy(to + begin, line + how->first + begin, (size_t)(end - begin) * sizeof *to);
        else for (int64_t i = begin; i < end; i++) to[i] = line[how->first + i * how->step];
        for (int64_t i = end; i < lanes; i++) to[i] = how->pad;
    }
}

void scale_u8_scalar(const int32_t *sum, size_t n, int32_t less, float factor, const float *bias, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = eie_scale_u8((int64_t)sum[i] - less, factor);
    if (bias == NULL) return;
    for (size_t i = 0; i < n; i++) y[i] += *bias;
}
