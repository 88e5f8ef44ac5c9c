/* Kernels for batches on AVX-512. In the integer formats interleaving is the work, which wider registers do no faster; the
 * products, with VNNI, are one instruction. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>

#define DOT_U8(sum, x, w) _mm256_dpbusd_epi32(sum, x, w)
#define DOT_I16(sum, x, w) _mm256_dpwssd_epi32(sum, x, w)
#include "kernels/batch_x86.h"

void batch_u8_quad_1x32_avx512(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    if (lanes == 32) quads32(b, x, fresh, sums);
    else quads16(b, x, fresh, sums);
}

void batch_i16_pair_1x32_avx512(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    if (lanes == 32) pairs(b, x, fresh, sums, 2);
    else pairs(b, x, fresh, sums, 1);
}

/* H registers of sixteen floats; C sums each, for the entries in turn: adding to one takes longer than an entry does. */
ALWAYS void floats(const eie_batch *b, const char *x, bool fresh, float *sums, const int H, const int C) {
    for (size_t r = 0; r < b->rows; r++) {
        float *y = sums + b->row[r] * 16 * H;
        const uint16_t *place = b->place + b->first[r], *end = b->place + b->first[r + 1];
        const uint8_t *code = (const uint8_t *)b->weight + b->first[r];
        __m512 sum[8][2];
#pragma GCC unroll 16
        for (int i = 0; i < C * H; i++) sum[i / H][i % H] = fresh || i >= H ? _mm512_setzero_ps() : _mm512_loadu_ps(y + 16 * i);
        for (; end - place >= C; place += C, code += C) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                const float *from = (const float *)(x + 4 * H * (size_t)place[c]);
                const __m512 w = _mm512_set1_ps(b->table[code[c]]);
#pragma GCC unroll 2
                for (int h = 0; h < H; h++) sum[c][h] = _mm512_fmadd_ps(w, _mm512_load_ps(from + 16 * h), sum[c][h]);
            }
        }
        for (; place < end; place++, code++) {
            const float *from = (const float *)(x + 4 * H * (size_t)*place);
            const __m512 w = _mm512_set1_ps(b->table[*code]);
#pragma GCC unroll 2
            for (int h = 0; h < H; h++) sum[0][h] = _mm512_fmadd_ps(w, _mm512_load_ps(from + 16 * h), sum[0][h]);
        }
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) {
#pragma GCC unroll 8
            for (int c = 1; c < C; c++) sum[0][h] = _mm512_add_ps(sum[0][h], sum[c][h]);
            _mm512_storeu_ps(y + 16 * h, sum[0][h]);
        }
    }
}

void batch_f32_code_1x32_avx512(const eie_batch *b, const void *x, size_t lanes, bool fresh, void *sums) {
    if (lanes == 32) floats(b, x, fresh, sums, 2, 4);
    else floats(b, x, fresh, sums, 1, 8);
}
#endif
