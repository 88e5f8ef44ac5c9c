/* The machine's limits on AArch64. */
#include "bench/limits.h"

#ifdef EIE_ARM
#include <arm_neon.h>

static uint64_t read(const uint8_t *p, size_t blocks) {
    uint8x16_t sums[8];
    for (int i = 0; i < 8; i++) sums[i] = vdupq_n_u8(0);
    for (; blocks > 0; blocks--, p += 512) {
        for (int i = 0; i < 32; i++) sums[i & 7] = veorq_u8(sums[i & 7], vld1q_u8(p + 16 * i));
    }
    for (int i = 1; i < 8; i++) sums[0] = veorq_u8(sums[0], sums[i]);
    const uint64x2_t both = vreinterpretq_u64_u8(sums[0]);
    return vgetq_lane_u64(both, 0) ^ vgetq_lane_u64(both, 1);
}

static double multiply_add(uint64_t rounds, float *sink) {
    float32x4_t a[16];
    const float32x4_t x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.0005f);
    for (int i = 0; i < 16; i++) a[i] = vdupq_n_f32((float)i);
    for (uint64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < 16; i++) a[i] = vfmaq_f32(a[i], a[i], i & 1 ? x : y);
    }
    for (int i = 1; i < 16; i++) a[0] = vaddq_f32(a[0], a[i]);
    *sink = vgetq_lane_f32(a[0], 0);
    return 16.0 * 4.0 * (double)rounds;
}

const eie_limits eie_limits_neon = {"neon", read, multiply_add, NULL};
#endif
