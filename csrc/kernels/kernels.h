/* The kernels: pure functions over packed weights. They allocate nothing, keep nothing, and read x past its end only as far
 * as this file says. kernels.inc lists each once; that list drives dispatch, tests and benchmarks.
 *
 * Names: operation, activation format, form of the weights, tile (rows x columns of a window), instruction set, as in
 * gemm_u8_code16_16x64_avx512.
 */
#ifndef EIE_KERNELS_H
#define EIE_KERNELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eie.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define EIE_X86 1
#elif defined(__aarch64__) && defined(__GNUC__)
#define EIE_ARM 1
#endif

/* ---- matrix times vectors -----------------------------------------------------------------------------------------
 * Rows go in groups of sixteen, or of twice sixteen ("sets"). A step takes up to `per` entries (weight, column) of each of
 * sixteen rows; all lie in a window of x that begins at the step's origin and is as wide as the kernel can pick from. Each
 * row's entries come in the order of their columns, and a window begins no later than the first entry that is left: so it
 * slides as the slowest row allows, and rows lend each other's slack. Entries that a step lacks are column 0, weight 0.
 * With two sets a lane serves two rows, one of them in a step. docs/kernels.md has what this wins.
 *
 * A step holds the entries of lane r at [r * per, (r + 1) * per). How they are written, by form:
 *   EIE_VALUE    index: uint8, column within the window; weight: float, int16 or int8
 *   EIE_CODE4    u8, window 64, for ternary weights: index: a byte of column (six bits, low) and code (two)
 *   EIE_CODE16   u8. index: uint8; weight, of two steps: 64 bytes, the first step's codes in the low nibbles
 *   EIE_SPLIT16  u8, window 128. index: a byte with the code (low) and four bits of the column (high); high, of four steps: 64
 *                bytes with the next two bits of the column, the first step's lowest; upper, of a step: 64 bits, the last one
 *   EIE_WORD16   i16. index, of two steps: 32 words, the first step's column in the low byte; weight, of four steps: 32
 *                words, the first step's codes in the lowest nibbles
 *   EIE_TRIPLE32 f32, window 32. index, of three steps: 16 double words of column (5 bits), code (5 bits), ... from the lowest
 *   EIE_PLANE    window 32. index: uint8, the column's four low bits, and its fifth as the highest. weight: float, int16 or int8, where
 *                unpacking bytes puts the activations (ops/matrix_pack.c)
 *   EIE_PLANE16  index as for EIE_PLANE; weight, of two steps: 32 bytes of codes, one step's in the low nibbles and the other's in the high
 *                ones; in u8, where the steps are unpacked together, those of the first register and of the second
 *   EIE_NIBBLE16 as EIE_PLANE16, window 16. index, of two steps: 32 bytes, the first step's columns in the low nibbles
 * table: what codes stand for: int8[4], int8[16], int16[16], float[16] or float[32].
 * With the last three, i16 and f32 take x as planes of bytes: first those of the lowest bytes, `plane` bytes on the next ones.
 * start: u8 kernels may begin each sum at 128 sum(w) - sum(w < 0), and add |w| (x - 128), or |w| (127 - x) where w < 0. */
enum { EIE_ROWS = 16, EIE_SETS = 2, EIE_VECTORS = 8, EIE_PANEL = 65536 };
typedef enum { EIE_VALUE, EIE_CODE4, EIE_CODE16, EIE_SPLIT16, EIE_WORD16, EIE_TRIPLE32, EIE_PLANE, EIE_PLANE16, EIE_NIBBLE16 } eie_form;

/* Whether i16 and f32 kernels of this form take x as planes of bytes. */
static inline bool eie_form_planes(eie_form form) { return form == EIE_PLANE || form == EIE_PLANE16 || form == EIE_NIBBLE16; }

typedef struct {
    size_t groups;
    const size_t *first;    /* [groups + 1]: the step a group begins with, a multiple of the kernel's `unroll` */
    const uint16_t *origin; /* [steps]: the first column of a window */
    const uint16_t *select; /* [steps], with two sets: the lanes that serve their second row */
    const uint8_t *index, *weight, *high;
    const uint64_t *upper;
    const uint8_t *table;
    const int32_t *start;   /* [groups * 16 * sets], u8 */
    size_t plane;
    bool far; /* the weights don't fit a second-level cache */
} eie_panel;

/* Sums of the rows of groups begin to end, for `count` (1 to EIE_VECTORS) vectors, `stride` elements apart: y[vector][group -
 * begin][16 * sets], float (f32), int32 (u8) or int64 (i16). x: float, uint8 or int16; every window is readable. A panel
 * has at most EIE_PANEL columns, so that u8 sums fit int32. */
typedef void eie_gemm_kernel(const eie_panel *panel, const void *x, size_t stride, size_t count, size_t begin, size_t end, void *y);

/* What a sum becomes: to[order[i]] = eie_scale_u8(sum[i] - zero * row_sum[i], factor) (+ bias[order[i]]), for i below n where
 * order[i] is a row, that is below EIE_NO_ROW. bias may be NULL. */
enum { EIE_NO_ROW = UINT32_MAX };
typedef struct {
    const uint32_t *order;
    const int32_t *row_sum;
    const float *bias;
    float factor;
    int32_t zero;
} eie_output_u8;
typedef void eie_output_u8_kernel(const int32_t *sum, size_t n, const eie_output_u8 *how, float *to);

/* ---- matrix times a batch ------------------------------------------------------------------------------------------
 * Entries row by row, of a few rows and a chunk of columns, in items of `per` entries that are anywhere in the chunk; entries that
 * an item lacks are column 0, weight 0. place: column * 4 * the bytes of an activation, so that it times lanes / 4 is where the
 * column lies in x. weight: of u8 int8, and the first two of an item, as the last two, have products that together fit int16
 * for any activations: their signs differ, or the magnitudes are no more than 128 together. Of i16 int16; of f32 codes, uint8,
 * into `table`. */
enum { EIE_BATCH_LANES = 32 };
typedef struct {
    size_t rows;
    const uint8_t *row;    /* [rows]: which one it is; those of as many items follow one another, as branches are predicted better so */
    const uint32_t *first; /* [rows + 1]: items */
    const uint16_t *place;
    const void *weight;
    const float *table;
} eie_batch;

/* sums[row[r]][lane] (+)= the products of the row with vector `lane`, for r below rows. x: [columns][lanes], aligned to 64 bytes; lanes: 16 or 32.
 * fresh: sums hold nothing yet. sums: float, int32 (u8) or int64 (i16). */
typedef void eie_batch_kernel(const eie_batch *batch, const void *x, size_t lanes, bool fresh, void *sums);

/* to[c * to_pitch + r] = from[r * pitch + c] for r below rows, c below columns; elements of 1, 2 or 4 bytes. */
typedef struct {
    size_t rows, columns, pitch, to_pitch; /* elements */
} eie_transposed;
typedef void eie_transpose_kernel(const void *from, const eie_transposed *how, size_t bytes, void *to);

/* to[r * lanes + l] = eie_scale_u8(sums[r * lanes + l] - zero[l] * row_sum[r], factor[l]), for l below lanes, a multiple of 16. to may be sums. */
typedef struct {
    size_t rows, lanes;
    const int32_t *row_sum, *zero;
    const float *factor;
} eie_batch_scale;
typedef void eie_batch_scale_kernel(const int32_t *sums, const eie_batch_scale *how, float *to);

/* ---- convolution ------------------------------------------------------------------------------------------------
 * A vector is sixteen output positions side by side, four bytes each: a float (f32), two int16 (i16), four uint8 or two int16
 * (u8): as many input channels as `per` says. A weight is four bytes likewise: a float, two int16, or four int8. Narrow kernels
 * take vectors of eight positions; those of x lie as far apart as those of sixteen, and may begin anywhere in theirs.
 *
 *     y[r][lane] (+)= sum over e of the products of weight[e] with (x + offset[e])[r][lane], for r below rows
 *
 * rows: 1 to `window`. offset: bytes, a multiple of 64, as x is; of narrow kernels a multiple of 4. fresh: y holds nothing yet. y: float,
 * int32 (u8; a row must have no more than EIE_PANEL products) or int64 (i16). */
typedef void eie_conv_kernel(const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t rows, bool fresh, void *y);

/* y[i] = eie_scale_u8(sum[i] - less, factor) (+ *bias): the difference fits int32, as |q - zero| <= 255. bias may be NULL. */
typedef void eie_scale_kernel(const int32_t *sum, size_t n, int32_t less, float factor, const float *bias, float *y);

/* Lines of an input where they are wanted: to[l * to_pitch + i] = x[l * pitch + first + i * step], or pad where first + i * step
 * is not in [0, width); for l below count, i below lanes. Nothing else is read or written. */
typedef struct {
    size_t pitch, count;
    int64_t first, step, width; /* step from 1 */
    size_t lanes, to_pitch;
    uint32_t pad;
} eie_lines;
typedef void eie_lines_kernel(const uint32_t *x, const eie_lines *lines, uint32_t *to);

/* ---- followers: eie.h has what they compute --------------------------------------------------------------------- */
/* y[i] of one follower, in place. EIE_FOLLOW_ADD adds operand[i], EIE_FOLLOW_ADD_CHANNEL operand[0]. */
typedef void eie_follow_kernel(const eie_follower *follower, size_t n, float *y);

/* ---- cells of LSTM and GRU: docs/numerics.md has the operations -------------------------------------------------- */
typedef struct {
    const float *wx, *rh, *bias; /* [4 * n]: gates i, o, f, c */
    const float *peephole;       /* [3 * n]: of i, o, f; NULL: none */
    float clip;                  /* INFINITY: none */
    bool coupled;                /* the forget gate is one less the input gate */
} eie_cell_gates;
typedef void eie_cell_lstm_kernel(const eie_cell_gates *gates, size_t n, float *c, float *h);
/* wx[i] = sigmoid(clip(wx[i] + rh[i] + bias[i])) */
typedef void eie_cell_gates_kernel(const float *rh, const float *bias, float clip, size_t n, float *wx);
/* h[i] = (1 - update[i]) tanh(clip(fresh[i])) + update[i] h[i] */
typedef void eie_cell_blend_kernel(const float *fresh, const float *update, float clip, size_t n, float *h);

/* ---- quantization: kernels/quantize.h has what they compute ------------------------------------------------------ */
typedef bool eie_quantize_u8_kernel(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero);
typedef bool eie_quantize_i16_kernel(const float *x, size_t n, int16_t *q, int32_t *exponent);

/* ---- the list -------------------------------------------------------------------------------------------------- */
typedef enum {
    EIE_GEMM_F32, EIE_GEMM_I16, EIE_GEMM_U8, EIE_CONV_F32, EIE_CONV_I16, EIE_CONV_U8, EIE_QUANTIZE_I16, EIE_QUANTIZE_U8, EIE_OUTPUT_U8, EIE_SCALE_U8, EIE_CONV_LINES,
    EIE_FOLLOWERS, EIE_CELL_LSTM, EIE_CELL_GATES, EIE_CELL_BLEND, EIE_BATCH_F32, EIE_BATCH_I16, EIE_BATCH_U8, EIE_BATCH_TRANSPOSE, EIE_BATCH_SCALE_U8,
} eie_kernel_kind;

typedef struct {
    eie_kernel_kind kind;
    const char *isa;
    const char *name;
    eie_form form; /* gemm and convolution, and what follows */
    size_t window; /* columns; of a convolution: vectors; of a batch: lanes */
    size_t per;    /* entries of a lane in a step; of a convolution: channels; of a batch: entries of an item */
    size_t sets;   /* rows of a lane; of a convolution: positions of a vector */
    size_t unroll; /* steps of a group: a multiple; of a convolution in i16: 0 where the sums of one call must fit int32 */
    size_t codes;  /* the largest codebook it takes, 0: values, any codebook */
    void (*run)(void);
} eie_kernel;

extern const eie_kernel eie_kernels[];
extern const size_t eie_kernel_count;

/* The best kernel of a kind for a codebook of this size on the instruction set in use. */
const eie_kernel *eie_kernel_find(eie_kernel_kind kind, uint32_t codebook_size);
/* Another one of the same instruction set that takes this codebook too, by tables, and lies behind `than` in the list; NULL. */
const eie_kernel *eie_kernel_other(const eie_kernel *than, uint32_t codebook_size);

/* The narrow form of a convolution kernel; NULL where there is none. */
const eie_kernel *eie_kernel_narrow(const eie_kernel *of);

#define EIE_KERNEL(kind, type, name, isa, form, window, per, sets, unroll, codes) type name##_##isa;
#include "kernels/kernels.inc"
#undef EIE_KERNEL

#endif
