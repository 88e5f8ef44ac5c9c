/* The kernels for batches of 256-bit registers: included by each instruction set that has them. Activations of the entries of an item
 * are interleaved, so that one multiply-add sums an item for as many vectors as a register has places for sums. The set says how:
 *   DOT_U8(sum, x, w)    int32 sums of four products of unsigned and signed bytes; those of two fit int16
 *   DOT_I16(sum, x, w)   int32 sums of two products of words
 */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS __m256i word32(const void *from) {
    int32_t word;
    memcpy(&word, from, sizeof word);
    return _mm256_set1_epi32(word);
}

/* ---- u8 ------------------------------------------------------------------------------------------------------------ */

/* Bytes of four columns to sums of vectors 0-3 and 16-19, 4-7 and 20-23, 8-11 and 24-27, 12-15 and 28-31 */
ALWAYS void quad(__m256i a, __m256i b, __m256i c, __m256i d, __m256i w, __m256i *sum) {
    const __m256i ab0 = _mm256_unpacklo_epi8(a, b), ab1 = _mm256_unpackhi_epi8(a, b);
    const __m256i cd0 = _mm256_unpacklo_epi8(c, d), cd1 = _mm256_unpackhi_epi8(c, d);
    sum[0] = DOT_U8(sum[0], _mm256_unpacklo_epi16(ab0, cd0), w);
    sum[1] = DOT_U8(sum[1], _mm256_unpackhi_epi16(ab0, cd0), w);
    sum[2] = DOT_U8(sum[2], _mm256_unpacklo_epi16(ab1, cd1), w);
    sum[3] = DOT_U8(sum[3], _mm256_unpackhi_epi16(ab1, cd1), w);
}

ALWAYS void quads32(const eie_batch *b, const char *x, bool fresh, int32_t *sums) {
    for (size_t r = 0; r < b->rows; r++) {
        int32_t *y = sums + b->row[r] * 32;
        const uint16_t *place = b->place + 4 * (size_t)b->first[r], *end = b->place + 4 * (size_t)b->first[r + 1];
        const int8_t *weight = (const int8_t *)b->weight + 4 * (size_t)b->first[r];
        __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
        for (; place < end; place += 4, weight += 4) {
#define COLUMN(i) _mm256_load_si256((const void *)(x + 8 * (size_t)place[i]))
            quad(COLUMN(0), COLUMN(1), COLUMN(2), COLUMN(3), word32(weight), sum);
#undef COLUMN
        }
        for (int i = 0; i < 2; i++) {
            for (int h = 0; h < 2; h++) {
                __m256i all = h ? _mm256_permute2x128_si256(sum[2 * i], sum[2 * i + 1], 0x31) : _mm256_permute2x128_si256(sum[2 * i], sum[2 * i + 1], 0x20);
                int32_t *to = y + 16 * h + 8 * i;
                if (!fresh) all = _mm256_add_epi32(all, _mm256_loadu_si256((const void *)to));
                _mm256_storeu_si256((void *)to, all);
            }
        }
    }
}

/* Sixteen vectors: two items at once, one in each half of a register. */
ALWAYS void quads16(const eie_batch *b, const char *x, bool fresh, int32_t *sums) {
    const __m256i spread = _mm256_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    for (size_t r = 0; r < b->rows; r++) {
        int32_t *y = sums + b->row[r] * 16;
        const uint16_t *place = b->place + 4 * (size_t)b->first[r], *end = b->place + 4 * (size_t)b->first[r + 1];
        const int8_t *weight = (const int8_t *)b->weight + 4 * (size_t)b->first[r];
        __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
#define HALF(i) _mm_load_si128((const void *)(x + 4 * (size_t)place[i]))
#define COLUMN(i) _mm256_inserti128_si256(_mm256_castsi128_si256(HALF(i)), HALF(i + 4), 1)
        for (; end - place >= 8; place += 8, weight += 8) {
            int64_t both;
            memcpy(&both, weight, sizeof both);
            quad(COLUMN(0), COLUMN(1), COLUMN(2), COLUMN(3), _mm256_shuffle_epi8(_mm256_set1_epi64x(both), spread), sum);
        }
#undef COLUMN
#define COLUMN(i) _mm256_zextsi128_si256(HALF(i))
        if (place < end) quad(COLUMN(0), COLUMN(1), COLUMN(2), COLUMN(3), word32(weight), sum);
#undef COLUMN
#undef HALF
        for (int i = 0; i < 4; i++) {
            __m128i all = _mm_add_epi32(_mm256_castsi256_si128(sum[i]), _mm256_extracti128_si256(sum[i], 1));
            if (!fresh) all = _mm_add_epi32(all, _mm_loadu_si128((const void *)(y + 4 * i)));
            _mm_storeu_si128((void *)(y + 4 * i), all);
        }
    }
}

/* ---- i16 ----------------------------------------------------------------------------------------------------------- */

ALWAYS void add_wide(int64_t *y, __m128i sum) {
    _mm256_storeu_si256((void *)y, _mm256_add_epi64(_mm256_loadu_si256((const void *)y), _mm256_cvtepi32_epi64(sum)));
}

/* H registers of sixteen words. Sums of sixteen products fit int32: docs/numerics.md */
ALWAYS void pairs(const eie_batch *b, const char *x, bool fresh, int64_t *sums, const int H) {
    for (size_t r = 0; r < b->rows; r++) {
        int64_t *y = sums + b->row[r] * 16 * H;
        const uint16_t *place = b->place + 2 * (size_t)b->first[r], *end = b->place + 2 * (size_t)b->first[r + 1];
        const int16_t *weight = (const int16_t *)b->weight + 2 * (size_t)b->first[r];
        if (fresh) memset(y, 0, (size_t)H * 16 * sizeof *y);
        while (place < end) {
            const uint16_t *stop = end - place > 16 ? place + 16 : end;
            __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
            for (; place < stop; place += 2, weight += 2) {
                const char *first = x + 4 * H * (size_t)place[0], *second = x + 4 * H * (size_t)place[1];
                const __m256i w = word32(weight);
#pragma GCC unroll 2
                for (int h = 0; h < H; h++) {
                    const __m256i p = _mm256_load_si256((const void *)(first + 32 * h)), q = _mm256_load_si256((const void *)(second + 32 * h));
                    sum[2 * h] = DOT_I16(sum[2 * h], _mm256_unpacklo_epi16(p, q), w);             /* vectors 0-3, 8-11 */
                    sum[2 * h + 1] = DOT_I16(sum[2 * h + 1], _mm256_unpackhi_epi16(p, q), w);     /* 4-7, 12-15 */
                }
            }
#pragma GCC unroll 4
            for (int i = 0; i < 2 * H; i++) {
                add_wide(y + 16 * (i / 2) + 4 * (i % 2), _mm256_castsi256_si128(sum[i]));
                add_wide(y + 16 * (i / 2) + 4 * (i % 2) + 8, _mm256_extracti128_si256(sum[i], 1));
            }
        }
    }
}
