/* The kernels: pure functions over packed weights. They allocate nothing, keep nothing, and read x past its end only as far
 * as this file says. kernels.inc lists each once; that list drives dispatch, tests and benchmarks.
 *
 * Names: operation, activation format, form of the weights, tile (rows x columns of a block), instruction set, as in
 * gemm_u8_code16_16x128_avx512.
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

/* ---- matrix times vector ------------------------------------------------------------------------------------------
 * Rows go in groups of 16, columns in blocks. In a block each row has a list of entries (column within the block, weight);
 * a step holds the next `per` entries of all 16 rows: those of row r at [r * per, (r + 1) * per). Rows with fewer entries
 * than the longest are padded with column 0, weight 0. */
enum { EIE_ROWS = 16 };

typedef struct {
    size_t groups, blocks;
    const uint8_t *steps;  /* [groups, blocks]: steps of a block */
    const size_t *first;   /* [groups]: the step a group begins with */
    const uint8_t *index;  /* [steps, 16 * per]: column within the block */
    const uint8_t *weight; /* [steps, ...]: by form */
    const uint8_t *table;  /* what codes stand for, by form */
} eie_panel;

/* Forms of the weights of a step:
 *   value:   16 * per numbers: float, int16 or int8
 *   code16:  u8 only: 8 * per bytes; byte i holds the codes of entries i (low nibble) and i + 8 * per; table int8[16]
 *   code32:  f32 only: 16 bytes, one code each; table float[32]
 *
 * y[r] for the 16 rows of groups begin to end: float (f32), int32 (u8) or int64 (i16). x: float, uint8 or int16, [blocks *
 * block] of them, all readable. u8 sums must fit int32: at most EIE_PANEL columns. */
typedef void eie_gemm_kernel(const eie_panel *panel, const void *x, size_t begin, size_t end, void *y);
enum { EIE_PANEL = 65536 };

/* ---- convolution ------------------------------------------------------------------------------------------------
 * y[i] = sum over e of value[e] * x[offset[e] + i], for i below n, a multiple of EIE_LANES. x: float (f32), int16 (u8 and
 * i16); value: float or int16; y: float, int32 (u8: at most EIE_PANEL entries) or int64 (i16). In the integer formats
 * `entries` is even. x is readable to offset[e] + n. */
enum { EIE_LANES = 32 };
typedef void eie_conv_kernel(const uint32_t *offset, const void *value, size_t entries, const void *x, size_t n, void *y);

/* ---- quantization: kernels/quantize.h has what they compute ------------------------------------------------------ */
typedef bool eie_quantize_u8_kernel(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero);
typedef bool eie_quantize_i16_kernel(const float *x, size_t n, int16_t *q, int32_t *exponent);

/* ---- the list -------------------------------------------------------------------------------------------------- */
typedef enum {
    EIE_GEMM_F32, EIE_GEMM_I16, EIE_GEMM_U8, EIE_CONV_F32, EIE_CONV_I16, EIE_CONV_U8, EIE_QUANTIZE_I16, EIE_QUANTIZE_U8,
} eie_kernel_kind;

typedef struct {
    eie_kernel_kind kind;
    const char *isa;
    const char *name;
    size_t block; /* columns of a block (gemm) */
    size_t per;   /* entries of a row in a step (gemm) */
    size_t codes; /* the largest codebook it takes, 0: values, any codebook (gemm) */
    void (*run)(void);
} eie_kernel;

extern const eie_kernel eie_kernels[];
extern const size_t eie_kernel_count;

/* The best kernel of a kind for a codebook of this size on the instruction set in use. */
const eie_kernel *eie_kernel_find(eie_kernel_kind kind, uint32_t codebook_size);

#define EIE_KERNEL(kind, type, name, isa, block, per, codes) type name##_##isa;
#include "kernels/kernels.inc"
#undef EIE_KERNEL

#endif
