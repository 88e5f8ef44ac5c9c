/* Matrix kernels for AArch64: one table lookup picks from 64 bytes of activations, so a window is 64 bytes wide. */
#include "kernels/kernels.h"

#ifdef EIE_ARM
#include <arm_neon.h>

/* Adds 16 products of unsigned and signed bytes: each fits int16 (255 * 127), two lanes a row of four entries */
static inline void multiply_bytes(uint8x16_t x, int8x16_t w, int32x4_t *sums) {
    int16x8_t low = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), vmovl_s8(vget_low_s8(w)));
    int16x8_t high = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x))), vmovl_s8(vget_high_s8(w)));
    sums[0] = vpadalq_s16(sums[0], low);
    sums[1] = vpadalq_s16(sums[1], high);
}

static inline void store_rows(const int32x4_t *sums, int32_t *y) {
    for (int i = 0; i < 4; i++) vst1q_s32(y + 4 * i, vpaddq_s32(sums[2 * i], sums[2 * i + 1]));
}

/* A group at a time, so that its weights are read from the cache by all but the first vector. */
#define FOR_VECTORS(element, type, body)                                                                        \
    for (size_t g = begin; g < end; g++) {                                                                      \
        for (size_t v = 0; v < count; v++) {                                                                    \
            body(p, g, (const element *)x + v * stride, (type *)y + (v * (end - begin) + g - begin) * EIE_ROWS); \
        }                                                                                                       \
    }

static void code16(const eie_panel *p, size_t g, const uint8_t *x, int32_t *y) {
    const int8x16_t table = vld1q_s8((const int8_t *)p->table);
    const uint8_t *index = p->index + p->first[g] * 64, *code = p->weight + p->first[g] * 32;
    int32x4_t sums[8];
    for (int i = 0; i < 8; i++) sums[i] = vdupq_n_s32(0);
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 2, index += 128, code += 64) {
        const uint8x16x4_t first = vld1q_u8_x4(x + p->origin[s]), second = vld1q_u8_x4(x + p->origin[s + 1]);
        for (int q = 0; q < 4; q++) {
            const uint8x16_t codes = vld1q_u8(code + 16 * q);
            multiply_bytes(vqtbl4q_u8(first, vld1q_u8(index + 16 * q)), vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15))), sums + 2 * q);
            multiply_bytes(vqtbl4q_u8(second, vld1q_u8(index + 64 + 16 * q)), vqtbl1q_s8(table, vshrq_n_u8(codes, 4)), sums + 2 * q);
        }
    }
    store_rows(sums, y);
}

static void value8(const eie_panel *p, size_t g, const uint8_t *x, int32_t *y) {
    const uint8_t *index = p->index + p->first[g] * 64;
    const int8_t *value = (const int8_t *)p->weight + p->first[g] * 64;
    int32x4_t sums[8];
    for (int i = 0; i < 8; i++) sums[i] = vdupq_n_s32(0);
    for (size_t s = p->first[g]; s < p->first[g + 1]; s++, index += 64, value += 64) {
        const uint8x16x4_t window = vld1q_u8_x4(x + p->origin[s]);
        for (int q = 0; q < 4; q++) multiply_bytes(vqtbl4q_u8(window, vld1q_u8(index + 16 * q)), vld1q_s8(value + 16 * q), sums + 2 * q);
    }
    store_rows(sums, y);
}

static void value16(const eie_panel *p, size_t g, const int16_t *x, int64_t *y) {
    const uint8_t *index = p->index + p->first[g] * 32;
    const int16_t *value = (const int16_t *)p->weight + p->first[g] * 32;
    int64x2_t wide[8];
    for (int i = 0; i < 8; i++) wide[i] = vdupq_n_s64(0);
    for (size_t s = p->first[g]; s < p->first[g + 1]; s++, index += 32, value += 32) {
        const uint8x16x4_t window = vld1q_u8_x4((const uint8_t *)(x + p->origin[s]));
        for (int q = 0; q < 4; q++) { /* 8 words: 4 rows of two entries */
            const uint16x8_t at = vmovl_u8(vld1_u8(index + 8 * q));
            const uint8x16_t bytes = vreinterpretq_u8_u16(vaddq_u16(vmulq_n_u16(at, 0x0202), vdupq_n_u16(0x0100)));
            const int16x8_t picked = vreinterpretq_s16_u8(vqtbl4q_u8(window, bytes)), w = vld1q_s16(value + 8 * q);
            wide[2 * q] = vpadalq_s32(wide[2 * q], vmull_s16(vget_low_s16(picked), vget_low_s16(w)));
            wide[2 * q + 1] = vpadalq_s32(wide[2 * q + 1], vmull_high_s16(picked, w));
        }
    }
    for (int i = 0; i < 8; i++) vst1q_s64(y + 2 * i, wide[i]);
}

static void value32(const eie_panel *p, size_t g, const float *x, float *y) {
    const uint32x4_t bytes_of_a_float = vdupq_n_u32(0x03020100);
    const uint8_t *index = p->index + p->first[g] * 16;
    const float *value = (const float *)p->weight + p->first[g] * 16;
    float32x4_t sums[4];
    for (int i = 0; i < 4; i++) sums[i] = vdupq_n_f32(0);
    for (size_t s = p->first[g]; s < p->first[g + 1]; s++, index += 16, value += 16) {
        const uint8x16x4_t window = vld1q_u8_x4((const uint8_t *)(x + p->origin[s]));
        const uint8x16_t at = vld1q_u8(index);
        const uint16x8_t half[2] = {vmovl_u8(vget_low_u8(at)), vmovl_u8(vget_high_u8(at))};
        for (int q = 0; q < 4; q++) {
            const uint32x4_t column = vmovl_u16(q % 2 ? vget_high_u16(half[q / 2]) : vget_low_u16(half[q / 2]));
            const uint8x16_t bytes = vreinterpretq_u8_u32(vmlaq_n_u32(bytes_of_a_float, column, 0x04040404));
            sums[q] = vfmaq_f32(sums[q], vreinterpretq_f32_u8(vqtbl4q_u8(window, bytes)), vld1q_f32(value + 4 * q));
        }
    }
    for (int i = 0; i < 4; i++) vst1q_f32(y + 4 * i, sums[i]);
}

void gemm_u8_code16_16x64_neon(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(uint8_t, int32_t, code16)
}

void gemm_u8_value_16x64_neon(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(uint8_t, int32_t, value8)
}

void gemm_i16_value_16x32_neon(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(int16_t, int64_t, value16)
}

void gemm_f32_value_16x16_neon(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {
    FOR_VECTORS(float, float, value32)
}
#endif
