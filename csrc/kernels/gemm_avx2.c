/* Matrix kernels for AVX2. It picks bytes out of 16: numbers of more bytes are picked plane by plane and put together again, so that
 * a pick out of 16 columns is a shuffle whatever the format, and one out of 32 two. kernels.h has how the weights lie. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#include <immintrin.h>

#define ALWAYS static inline __attribute__((always_inline))

typedef __m256i bytes32;

static inline bytes32 load(const void *from) {
    bytes32 v = _mm256_loadu_si256(from);
    __asm__("" : "+x"(v)); /* else compilers read it again for each use, and loads are what there is least of */
    return v;
}
static inline bytes32 twice(const void *from) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(from)); }
static inline bytes32 low_nibbles(bytes32 v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
static inline bytes32 high_nibbles(bytes32 v) { return low_nibbles(_mm256_srli_epi16(v, 4)); }

/* Where the 32 entries of two steps lie in their windows. `narrow`: of 16 columns, two indices a byte. */
ALWAYS void places(const uint8_t *index, bytes32 *at, const int narrow) {
    const bytes32 first = load(index);
    at[0] = narrow ? low_nibbles(first) : first;
    at[1] = narrow ? high_nibbles(first) : load(index + 32);
}

/* 32 bytes out of 16 or 32: a shuffle gives zero where the highest bit is set, which says that the other half is meant. */
ALWAYS bytes32 pick(const uint8_t *window, bytes32 at, const int narrow) {
    if (narrow) return _mm256_shuffle_epi8(twice(window), at);
    const bytes32 other = _mm256_xor_si256(at, _mm256_set1_epi8(-128));
    return _mm256_or_si256(_mm256_shuffle_epi8(twice(window), at), _mm256_shuffle_epi8(twice(window + 16), other));
}

/* ---- u8 ----------------------------------------------------------------------------------------------------------------
 * A product of unsigned x and signed w saturates where two are added as words. With u = x - 128 it can't: |w| times u, or times
 * -1 - u where w is negative, which is u with every bit turned. So x is turned by 128 or by 127, |w| multiplies, and what the
 * row then lacks, 128 sum(w) - sum(w < 0), is where its sum starts. */

static inline bytes32 add_products(bytes32 sum, bytes32 size, bytes32 x, bytes32 turn) {
    const bytes32 pairs = _mm256_maddubs_epi16(size, _mm256_xor_si256(x, turn));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline bytes32 turn_of(bytes32 w) { return _mm256_xor_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), w), _mm256_set1_epi8(-128)); }

/* Sums lie as unpacking leaves them: rows 0 to 3 and 8 to 11 in the first register, the others in the second. */
static inline void start(const eie_panel *p, size_t g, bytes32 *sum) {
    const bytes32 a = load(p->start + g * EIE_ROWS), b = load(p->start + g * EIE_ROWS + 8);
    sum[0] = _mm256_permute2x128_si256(a, b, 0x20);
    sum[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

static inline void finish(const bytes32 *sum, int32_t *y) {
    _mm256_storeu_si256((void *)y, _mm256_permute2x128_si256(sum[0], sum[1], 0x20));
    _mm256_storeu_si256((void *)(y + 8), _mm256_permute2x128_si256(sum[0], sum[1], 0x31));
}

ALWAYS void codes_u8(const eie_panel *p, size_t g, const uint8_t *x, int32_t *y, const int narrow) {
    const bytes32 table = twice(p->table), size = _mm256_abs_epi8(table), turn = turn_of(table);
    const size_t pitch = narrow ? 32 : 64;
    const uint8_t *index = p->index + p->first[g] / 2 * pitch, *code = p->weight + p->first[g] * 16;
    bytes32 sum[2], at[2];
    start(p, g, sum);
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 2, index += pitch, code += 32) {
        places(index, at, narrow);
        const bytes32 a = pick(x + p->origin[s], at[0], narrow), b = pick(x + p->origin[s + 1], at[1], narrow);
        const bytes32 both = load(code), low = low_nibbles(both), high = high_nibbles(both);
        sum[0] = add_products(sum[0], _mm256_shuffle_epi8(size, low), _mm256_unpacklo_epi16(a, b), _mm256_shuffle_epi8(turn, low));
        sum[1] = add_products(sum[1], _mm256_shuffle_epi8(size, high), _mm256_unpackhi_epi16(a, b), _mm256_shuffle_epi8(turn, high));
    }
    finish(sum, y);
}

static void values_u8(const eie_panel *p, size_t g, const uint8_t *x, int32_t *y) {
    const uint8_t *index = p->index + p->first[g] * 32, *value = p->weight + p->first[g] * 32;
    bytes32 sum[2];
    start(p, g, sum);
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 2, index += 64, value += 64) {
        const bytes32 a = pick(x + p->origin[s], load(index), 0), b = pick(x + p->origin[s + 1], load(index + 32), 0);
        const bytes32 low = load(value), high = load(value + 32);
        sum[0] = add_products(sum[0], _mm256_abs_epi8(low), _mm256_unpacklo_epi16(a, b), turn_of(low));
        sum[1] = add_products(sum[1], _mm256_abs_epi8(high), _mm256_unpackhi_epi16(a, b), turn_of(high));
    }
    finish(sum, y);
}

/* ---- i16 --------------------------------------------------------------------------------------------------------------- */

enum { STEPS_I16 = 8 }; /* 16 products of a row fit int32 */

typedef struct {
    bytes32 low, high; /* first and second bytes of the table's words */
} planes_i16;

static inline planes_i16 planes_of_words(const uint8_t *table) {
    const __m128i a = _mm_loadu_si128((const void *)table), b = _mm_loadu_si128((const void *)(table + 16)), byte = _mm_set1_epi16(255);
    return (planes_i16){_mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_and_si128(a, byte), _mm_and_si128(b, byte))),
                        _mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_srli_epi16(a, 8), _mm_srli_epi16(b, 8)))};
}

ALWAYS void step_i16(const eie_panel *p, const uint8_t *x, bytes32 at, bytes32 w0, bytes32 w1, bytes32 *sum, const int narrow) {
    const bytes32 low = pick(x, at, narrow), high = pick(x + p->plane, at, narrow);
    sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, high), w0));
    sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, high), w1));
}

static inline void widen(bytes32 *wide, const bytes32 *sum) {
    for (int i = 0; i < 2; i++) {
        wide[i] = _mm256_add_epi64(wide[i], _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sum[i])));
        wide[i + 2] = _mm256_add_epi64(wide[i + 2], _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sum[i], 1)));
    }
}

ALWAYS void codes_i16(const eie_panel *p, size_t g, const uint8_t *x, int64_t *y, const int narrow) {
    const planes_i16 table = planes_of_words(p->table);
    const size_t pitch = narrow ? 32 : 64;
    const uint8_t *index = p->index + p->first[g] / 2 * pitch, *code = p->weight + p->first[g] * 16;
    bytes32 wide[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t s = p->first[g]; s < p->first[g + 1];) {
        const size_t stop = s + STEPS_I16 < p->first[g + 1] ? s + STEPS_I16 : p->first[g + 1];
        bytes32 sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, at[2];
        for (; s < stop; s += 2, index += pitch, code += 32) {
            const bytes32 both = load(code);
            places(index, at, narrow);
            for (int h = 0; h < 2; h++) {
                const bytes32 nibble = h == 0 ? low_nibbles(both) : high_nibbles(both);
                const bytes32 low = _mm256_shuffle_epi8(table.low, nibble), high = _mm256_shuffle_epi8(table.high, nibble);
                step_i16(p, x + p->origin[s + h], at[h], _mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high), sum, narrow);
            }
        }
        widen(wide, sum);
    }
    for (int i = 0; i < 4; i++) _mm256_storeu_si256((void *)(y + 4 * i), wide[i]);
}

static void values_i16(const eie_panel *p, size_t g, const uint8_t *x, int64_t *y) {
    const uint8_t *index = p->index + p->first[g] * 32, *value = p->weight + p->first[g] * 64;
    bytes32 wide[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t s = p->first[g]; s < p->first[g + 1];) {
        const size_t stop = s + STEPS_I16 < p->first[g + 1] ? s + STEPS_I16 : p->first[g + 1];
        bytes32 sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (; s < stop; s++, index += 32, value += 64) step_i16(p, x + p->origin[s], load(index), load(value), load(value + 32), sum, 0);
        widen(wide, sum);
    }
    for (int i = 0; i < 4; i++) _mm256_storeu_si256((void *)(y + 4 * i), wide[i]);
}

/* ---- f32 --------------------------------------------------------------------------------------------------------------- */

/* 32 floats of four planes of bytes, as unpacking leaves them: eight each */
static inline void floats_of(const bytes32 *plane, __m256 *to) {
    const bytes32 a = _mm256_unpacklo_epi8(plane[0], plane[1]), b = _mm256_unpacklo_epi8(plane[2], plane[3]);
    const bytes32 c = _mm256_unpackhi_epi8(plane[0], plane[1]), d = _mm256_unpackhi_epi8(plane[2], plane[3]);
    to[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(a, b));
    to[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(a, b));
    to[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(c, d));
    to[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(c, d));
}

ALWAYS void pick_floats(const eie_panel *p, const uint8_t *x, bytes32 at, __m256 *to, const int narrow) {
    bytes32 plane[4];
    for (int i = 0; i < 4; i++) plane[i] = pick(x + (size_t)i * p->plane, at, narrow);
    floats_of(plane, to);
}

static inline void finish_f32(const __m256 *sum, float *y) { /* a row's two sums lie side by side */
    const __m256 a = _mm256_hadd_ps(sum[0], sum[1]), b = _mm256_hadd_ps(sum[2], sum[3]);
    _mm256_storeu_ps(y, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(y + 8, _mm256_permute2f128_ps(a, b, 0x31));
}

ALWAYS void codes_f32(const eie_panel *p, size_t g, const uint8_t *x, float *y, const int narrow) {
    uint8_t split[4][16];
    bytes32 table[4], at[2];
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 16; k++) split[i][k] = p->table[4 * k + i];
        table[i] = twice(split[i]);
    }
    const size_t pitch = narrow ? 32 : 64;
    const uint8_t *index = p->index + p->first[g] / 2 * pitch, *code = p->weight + p->first[g] * 16;
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t s = p->first[g]; s < p->first[g + 1]; s += 2, index += pitch, code += 32) {
        const bytes32 both = load(code);
        places(index, at, narrow);
        for (int h = 0; h < 2; h++) {
            const bytes32 nibble = h == 0 ? low_nibbles(both) : high_nibbles(both);
            bytes32 plane[4];
            __m256 from[4], w[4];
            for (int i = 0; i < 4; i++) plane[i] = _mm256_shuffle_epi8(table[i], nibble);
            floats_of(plane, w);
            pick_floats(p, x + p->origin[s + h], at[h], from, narrow);
            for (int i = 0; i < 4; i++) sum[i] = _mm256_fmadd_ps(from[i], w[i], sum[i]);
        }
    }
    finish_f32(sum, y);
}

static void values_f32(const eie_panel *p, size_t g, const uint8_t *x, float *y) {
    const uint8_t *index = p->index + p->first[g] * 32;
    const float *value = (const float *)p->weight + p->first[g] * 32;
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t s = p->first[g]; s < p->first[g + 1]; s++, index += 32, value += 32) {
        __m256 from[4];
        pick_floats(p, x + p->origin[s], load(index), from, 0);
        for (int i = 0; i < 4; i++) sum[i] = _mm256_fmadd_ps(from[i], _mm256_loadu_ps(value + 8 * i), sum[i]);
    }
    finish_f32(sum, y);
}

/* A group at a time, so that its weights are read from the cache by all but the first vector. */
#define KERNEL(name, item, type, body, ...)                                                                                            \
    void name(const eie_panel *p, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y) {                     \
        for (size_t g = begin; g < end; g++) {                                                                                        \
            for (size_t v = 0; v < count; v++) {                                                                                      \
                body(p, g, (const uint8_t *)x + v * stride * sizeof(item), (type *)y + (v * (end - begin) + g - begin) * EIE_ROWS __VA_ARGS__); \
            }                                                                                                                         \
        }                                                                                                                             \
    }
#define WIDE , 0
#define NARROW , 1

KERNEL(gemm_u8_plane16_16x32_avx2, uint8_t, int32_t, codes_u8, WIDE)
KERNEL(gemm_u8_nibble16_16x16_avx2, uint8_t, int32_t, codes_u8, NARROW)
KERNEL(gemm_u8_plane_16x32_avx2, uint8_t, int32_t, values_u8, )
KERNEL(gemm_i16_plane16_16x32_avx2, int16_t, int64_t, codes_i16, WIDE)
KERNEL(gemm_i16_nibble16_16x16_avx2, int16_t, int64_t, codes_i16, NARROW)
KERNEL(gemm_i16_plane_16x32_avx2, int16_t, int64_t, values_i16, )
KERNEL(gemm_f32_plane16_16x32_avx2, float, float, codes_f32, WIDE)
KERNEL(gemm_f32_nibble16_16x16_avx2, float, float, codes_f32, NARROW)
KERNEL(gemm_f32_plane_16x32_avx2, float, float, values_f32, )
#endif
