/* Convolution kernels for AArch64: a vector is four registers of floats. In the integer formats each word keeps a sum of its own
 * until the end, when those of a position are added. */
#include "kernels/kernels.h"

#ifdef EIE_ARM
#include <arm_neon.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS void floats(const uint32_t *offset, const uint32_t *weight, size_t entries, const float *x, bool fresh, float *y, const int R) {
    float32x4_t sum[24];
#pragma GCC unroll 24
    for (int v = 0; v < 4 * R; v++) sum[v] = fresh ? vdupq_n_f32(0) : vld1q_f32(y + 4 * v);
    for (size_t e = 0; e < entries; e++) {
        const float *from = x + offset[e] / sizeof *x;
        const float32x4_t w = vreinterpretq_f32_u32(vdupq_n_u32(weight[e]));
#pragma GCC unroll 24
        for (int v = 0; v < 4 * R; v++) sum[v] = vfmaq_f32(sum[v], w, vld1q_f32(from + 4 * v));
    }
#pragma GCC unroll 24
    for (int v = 0; v < 4 * R; v++) vst1q_f32(y + 4 * v, sum[v]);
}

void conv_f32_value_6x16_neon(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
    switch (rows) {
    case 1: floats(offset, weight, entries, x, fresh, y, 1); break;
    case 2: floats(offset, weight, entries, x, fresh, y, 2); break;
    case 3: floats(offset, weight, entries, x, fresh, y, 3); break;
    case 4: floats(offset, weight, entries, x, fresh, y, 4); break;
    case 5: floats(offset, weight, entries, x, fresh, y, 5); break;
    default: floats(offset, weight, entries, x, fresh, y, 6); break;
    }
}

/* Adds the products of entries [begin, end) to the sums of 8 * R registers, four words each. */
ALWAYS void multiply(const uint32_t *offset, const uint32_t *weight, size_t begin, size_t end, const uint32_t *x, int32x4_t *sum, const int R) {
    for (size_t e = begin; e < end; e++) {
        const int16_t *from = (const int16_t *)(x + offset[e] / sizeof *x);
        const int16x4_t w = vreinterpret_s16_u32(vdup_n_u32(weight[e]));
#pragma GCC unroll 12
        for (int v = 0; v < 4 * R; v++) {
            const int16x8_t here = vld1q_s16(from + 8 * v);
            sum[2 * v] = vmlal_s16(sum[2 * v], vget_low_s16(here), w);
            sum[2 * v + 1] = vmlal_s16(sum[2 * v + 1], vget_high_s16(here), w);
        }
    }
}

ALWAYS void words_u8(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, bool fresh, int32_t *y, const int R) {
    int32x4_t sum[24];
#pragma GCC unroll 24
    for (int v = 0; v < 8 * R; v++) sum[v] = vdupq_n_s32(0);
    multiply(offset, weight, 0, entries, x, sum, R);
#pragma GCC unroll 12
    for (int v = 0; v < 4 * R; v++) {
        const int32x4_t both = vpaddq_s32(sum[2 * v], sum[2 * v + 1]);
        vst1q_s32(y + 4 * v, fresh ? both : vaddq_s32(both, vld1q_s32(y + 4 * v)));
    }
}

void conv_u8_value_3x16_neon(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
    if (rows == 1) words_u8(offset, weight, entries, x, fresh, y, 1);
    else if (rows == 2) words_u8(offset, weight, entries, x, fresh, y, 2);
    else words_u8(offset, weight, entries, x, fresh, y, 3);
}

ALWAYS void words_i16(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, bool fresh, int64_t *y, const int R) {
    if (fresh) memset(y, 0, (size_t)R * EIE_ROWS * sizeof *y);
    for (size_t e = 0; e < entries; e += 8) { /* 16 products fit int32: docs/numerics.md */
        int32x4_t sum[24];
#pragma GCC unroll 24
        for (int v = 0; v < 8 * R; v++) sum[v] = vdupq_n_s32(0);
        multiply(offset, weight, e, e + 8 < entries ? e + 8 : entries, x, sum, R);
#pragma GCC unroll 12
        for (int v = 0; v < 4 * R; v++) {
            const int32x4_t both = vpaddq_s32(sum[2 * v], sum[2 * v + 1]);
            vst1q_s64(y + 4 * v, vaddw_s32(vld1q_s64(y + 4 * v), vget_low_s32(both)));
            vst1q_s64(y + 4 * v + 2, vaddw_high_s32(vld1q_s64(y + 4 * v + 2), both));
        }
    }
}

void conv_i16_value_3x16_neon(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y) {
    if (rows == 1) words_i16(offset, weight, entries, x, fresh, y, 1);
    else if (rows == 2) words_i16(offset, weight, entries, x, fresh, y, 2);
    else words_i16(offset, weight, entries, x, fresh, y, 3);
}
#endif
