/* Kernels for batches on AVX2. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>

#define SUFFIXED(name) name##_avx2
#include "kernels/batch_scale.h"

#define DOT_U8(sum, x, w) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))
#define DOT_I16(sum, x, w) _mm256_add_epi32(sum, _mm256_madd_epi16(x, w))
#include "kernels/batch_x86.h"

void batch_u8_quad_1x32_avx2(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    if (lanes == 32) quads32(b, x, fresh, sums);
    else quads16(b, x, fresh, sums);
}

void batch_i16_pair_1x32_avx2(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    if (lanes == 32) pairs(b, x, fresh, sums, 2);
    else pairs(b, x, fresh, sums, 1);
}

/* H registers of eight floats; C sums each, for the entries in turn: adding to one takes longer than an entry does. */
ALWAYS void floats(const eie_batch *b, const char *x, bool fresh, float *sums, const int H, const int C) {
    for (size_t r = 0; r < b->rows; r++) {
        float *y = sums + b->row[r] * 8 * H;
        const uint16_t *place = b->place + b->first[r], *end = b->place + b->first[r + 1];
        const uint8_t *code = (const uint8_t *)b->weight + b->first[r];
        __m256 sum[4][4];
#pragma GCC unroll 16
        for (int i = 0; i < C * H; i++) sum[i / H][i % H] = fresh || i >= H ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8 * i);
        for (; end - place >= C; place += C, code += C) {
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) {
                const float *from = (const float *)(x + 2 * H * (size_t)place[c]);
                const __m256 w = _mm256_broadcast_ss(b->table + code[c]);
#pragma GCC unroll 4
                for (int h = 0; h < H; h++) sum[c][h] = _mm256_fmadd_ps(w, _mm256_load_ps(from + 8 * h), sum[c][h]);
            }
        }
        for (; place < end; place++, code++) {
            const float *from = (const float *)(x + 2 * H * (size_t)*place);
            const __m256 w = _mm256_broadcast_ss(b->table + *code);
#pragma GCC unroll 4
            for (int h = 0; h < H; h++) sum[0][h] = _mm256_fmadd_ps(w, _mm256_load_ps(from + 8 * h), sum[0][h]);
        }
#pragma GCC unroll 4
        for (int h = 0; h < H; h++) {
#pragma GCC unroll 4
            for (int c = 1; c < C; c++) sum[0][h] = _mm256_add_ps(sum[0][h], sum[c][h]);
            _mm256_storeu_ps(y + 8 * h, sum[0][h]);
        }
    }
}

void batch_f32_code_1x32_avx2(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    if (lanes == 32) floats(b, x, fresh, sums, 4, 2);
    else floats(b, x, fresh, sums, 2, 4);
}

/* ---- transposing ------------------------------------------------------------------------------------------------------- */

ALWAYS void transpose_floats(const float *from, size_t pitch, float *to, size_t to_pitch) {
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(from + (size_t)i * pitch);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + (size_t)i * to_pitch, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (size_t)(i + 4) * to_pitch, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

ALWAYS void transpose_words(const int16_t *from, size_t pitch, int16_t *to, size_t to_pitch) {
    __m128i a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = _mm_loadu_si128((const void *)(from + (size_t)i * pitch));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]), b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) a[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]), a[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]), b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) _mm_storeu_si128((void *)(to + (size_t)i * to_pitch), b[i]);
}

ALWAYS void transpose_bytes(const uint8_t *from, size_t pitch, uint8_t *to, size_t to_pitch) {
    __m128i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = _mm_loadu_si128((const void *)(from + (size_t)i * pitch));
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) { /* each shuffles the cards once: after four, rows are columns */
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]), b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm_storeu_si128((void *)(to + (size_t)i * to_pitch), a[i]);
}

void transpose_avx2(const void *from, const eie_transposed *how, size_t bytes, void *to) {
    const size_t side = bytes == 1 ? 16 : 8, rows = how->rows / side * side, columns = how->columns / side * side;
    for (size_t c = 0; c < columns; c += side) {
        for (size_t r = 0; r < rows; r += side) {
            const char *source = (const char *)from + (r * how->pitch + c) * bytes;
            char *target = (char *)to + (c * how->to_pitch + r) * bytes;
            if (bytes == 1) transpose_bytes((const void *)source, how->pitch, (void *)target, how->to_pitch);
            else if (bytes == 2) transpose_words((const void *)source, how->pitch, (void *)target, how->to_pitch);
            else transpose_floats((const void *)source, how->pitch, (void *)target, how->to_pitch);
        }
    }
    const eie_transposed right = {rows, how->columns - columns, how->pitch, how->to_pitch};
    transpose_scalar((const char *)from + columns * bytes, &right, bytes, (char *)to + columns * how->to_pitch * bytes);
    const eie_transposed below = {how->rows - rows, how->columns, how->pitch, how->to_pitch};
    transpose_scalar((const char *)from + rows * how->pitch * bytes, &below, bytes, (char *)to + rows * bytes);
}
#endif
