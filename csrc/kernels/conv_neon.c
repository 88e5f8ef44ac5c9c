/* Convolution kernels for AArch64: one broadcast weight against many positions, which stay in registers. */
#include "kernels/kernels.h"

#ifdef EIE_ARM
#include <arm_neon.h>

void conv_f32_value_neon(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const float *value = value_, *x = x_;
    float *y = y_;
    for (size_t i = 0; i < n; i += 32) {
        float32x4_t sum[8];
        for (int v = 0; v < 8; v++) sum[v] = vdupq_n_f32(0);
        for (size_t e = 0; e < entries; e++) {
            const float *from = x + offset[e] + i;
            for (int v = 0; v < 8; v++) sum[v] = vfmaq_n_f32(sum[v], vld1q_f32(from + 4 * v), value[e]);
        }
        for (int v = 0; v < 8; v++) vst1q_f32(y + i + 4 * v, sum[v]);
    }
}

void conv_u8_value_neon(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int32_t *y = y_;
    for (size_t i = 0; i < n; i += 32) {
        int32x4_t sum[8];
        for (int v = 0; v < 8; v++) sum[v] = vdupq_n_s32(0);
        for (size_t e = 0; e < entries; e++) {
            const int16_t *from = x + offset[e] + i;
            for (int v = 0; v < 4; v++) {
                int16x8_t here = vld1q_s16(from + 8 * v);
                sum[2 * v] = vmlal_n_s16(sum[2 * v], vget_low_s16(here), value[e]);
                sum[2 * v + 1] = vmlal_n_s16(sum[2 * v + 1], vget_high_s16(here), value[e]);
            }
        }
        for (int v = 0; v < 8; v++) vst1q_s32(y + i + 4 * v, sum[v]);
    }
}

void conv_i16_value_neon(const uint32_t *offset, const void *value_, size_t entries, const void *x_, size_t n, void *y_) {
    const int16_t *value = value_, *x = x_;
    int64_t *y = y_;
    for (size_t i = 0; i < n; i += 32) {
        int64x2_t wide[16];
        for (int v = 0; v < 16; v++) wide[v] = vdupq_n_s64(0);
        for (size_t e = 0; e < entries;) {
            const size_t stop = e + 16 < entries ? e + 16 : entries; /* 16 products fit int32 */
            int32x4_t sum[8];
            for (int v = 0; v < 8; v++) sum[v] = vdupq_n_s32(0);
            for (; e < stop; e++) {
                const int16_t *from = x + offset[e] + i;
                for (int v = 0; v < 4; v++) {
                    int16x8_t here = vld1q_s16(from + 8 * v);
                    sum[2 * v] = vmlal_n_s16(sum[2 * v], vget_low_s16(here), value[e]);
                    sum[2 * v + 1] = vmlal_n_s16(sum[2 * v + 1], vget_high_s16(here), value[e]);
                }
            }
            for (int v = 0; v < 8; v++) {
                wide[2 * v] = vaddw_s32(wide[2 * v], vget_low_s32(sum[v]));
                wide[2 * v + 1] = vaddw_s32(wide[2 * v + 1], vget_high_s32(sum[v]));
            }
        }
        for (int v = 0; v < 16; v++) vst1q_s64(y + i + 2 * v, wide[v]);
    }
}
#endif
