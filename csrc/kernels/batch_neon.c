/* Kernels for batches on AArch64: sixteen vectors at a time. */
#include "kernels/kernels.h"

#ifdef EIE_ARM
#include <arm_neon.h>
#include <string.h>

#define SUFFIXED(name) name##_neon
#include "kernels/batch_scale.h"

/* Entries one by one, as nothing is gained from two: int32 sums of the products of words with one weight */
static inline void multiply_words(int16x8_t low, int16x8_t high, int16_t w, int32x4_t *sum) {
    sum[0] = vmlal_n_s16(sum[0], vget_low_s16(low), w);
    sum[1] = vmlal_high_n_s16(sum[1], low, w);
    sum[2] = vmlal_n_s16(sum[2], vget_low_s16(high), w);
    sum[3] = vmlal_high_n_s16(sum[3], high, w);
}

void batch_u8_quad_1x32_neon(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    for (size_t r = 0; r < b->rows; r++) {
        int32_t *y = (int32_t *)sums + b->row[r] * lanes;
        for (size_t l = 0; l < lanes; l += 16, y += 16) {
            int32x4_t sum[4];
            for (int i = 0; i < 4; i++) sum[i] = fresh ? vdupq_n_s32(0) : vld1q_s32(y + 4 * i);
            for (size_t e = 4 * (size_t)b->first[r]; e < 4 * (size_t)b->first[r + 1]; e++) {
                const uint8x16_t here = vld1q_u8((const uint8_t *)x + b->place[e] * (lanes / 4) + l);
                const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(here))), high = vreinterpretq_s16_u16(vmovl_high_u8(here));
                multiply_words(low, high, ((const int8_t *)b->weight)[e], sum);
            }
            for (int i = 0; i < 4; i++) vst1q_s32(y + 4 * i, sum[i]);
        }
    }
}

void batch_i16_pair_1x32_neon(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    for (size_t r = 0; r < b->rows; r++) {
        int64_t *y = (int64_t *)sums + b->row[r] * lanes;
        for (size_t l = 0; l < lanes; l += 16, y += 16) {
            const size_t end = 2 * (size_t)b->first[r + 1];
            if (fresh) memset(y, 0, 16 * sizeof *y);
            for (size_t e = 2 * (size_t)b->first[r]; e < end;) {
                const size_t stop = e + 16 < end ? e + 16 : end; /* sixteen products fit int32: docs/numerics.md */
                int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
                for (; e < stop; e++) {
                    const int16_t *from = (const int16_t *)((const char *)x + b->place[e] * (lanes / 4)) + l;
                    multiply_words(vld1q_s16(from), vld1q_s16(from + 8), ((const int16_t *)b->weight)[e], sum);
                }
                for (int i = 0; i < 4; i++) {
                    vst1q_s64(y + 4 * i, vaddw_s32(vld1q_s64(y + 4 * i), vget_low_s32(sum[i])));
                    vst1q_s64(y + 4 * i + 2, vaddw_high_s32(vld1q_s64(y + 4 * i + 2), sum[i]));
                }
            }
        }
    }
}

/* N registers of four floats */
static inline __attribute__((always_inline)) void floats(const eie_batch *b, const char *x, bool fresh, float *sums, const int N) {
    for (size_t r = 0; r < b->rows; r++) {
        float *y = sums + b->row[r] * 4 * N;
        float32x4_t sum[8];
        for (int i = 0; i < N; i++) sum[i] = fresh ? vdupq_n_f32(0) : vld1q_f32(y + 4 * i);
        for (size_t e = b->first[r]; e < b->first[r + 1]; e++) {
            const float *from = (const float *)(x + b->place[e] * (size_t)N);
            const float w = b->table[((const uint8_t *)b->weight)[e]];
#pragma GCC unroll 8
            for (int i = 0; i < N; i++) sum[i] = vfmaq_n_f32(sum[i], vld1q_f32(from + 4 * i), w);
        }
        for (int i = 0; i < N; i++) vst1q_f32(y + 4 * i, sum[i]);
    }
}

void batch_f32_code_1x32_neon(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    if (lanes == 32) floats(b, x, fresh, sums, 8);
    else floats(b, x, fresh, sums, 4);
}
#endif
