/* A compressed matrix packed for the kernels, and the product with vectors: what Gemm, LSTM and GRU are made of. */
#ifndef EIE_MATRIX_H
#define EIE_MATRIX_H
#include <stdbool.h>

#include "kernels/kernels.h"
#include "ops/layer.h"

typedef struct {
    eie_panel panel;
    size_t column;    /* its first column */
    int32_t *row_sum; /* u8: of the values of a row, in the order of the sums */
    void *memory;     /* one allocation that holds all of it */
} eie_matrix_panel;

typedef struct eie_matrix_later eie_matrix_later; /* what batches make: ops/matrix_batch.h */

typedef struct {
    size_t out, in;
    size_t padded;             /* elements of a vector that kernels may read, at least `in` and a window */
    size_t groups, sums;       /* sums: of a group, 16 for each set */
    eie_format format;
    const eie_kernel *kernel;
    eie_quantize_u8_kernel *quantize_u8;
    eie_quantize_i16_kernel *quantize_i16;
    eie_output_u8_kernel *output_u8;
    uint32_t *order;           /* [groups * sums]: the row a sum belongs to, or EIE_NO_ROW. In blocks of rows, the fullest first */
    eie_matrix_panel *panels;  /* one, unless columns are too many for one */
    size_t panel_count;
    float step;                /* u8 */
    int32_t exponent;          /* i16 */
    uint64_t bytes;            /* of everything held but what is `later` */
    eie_matrix_later *later;
} eie_matrix;

/* EIE_PLANE: the place among a panel's weights of an entry (two a row) of a step, such that it meets its activation: unpacking takes the
 * halves of 16 bytes apart, for each byte that a number has more; in u8 two steps are unpacked together. */
static inline size_t eie_plane_place(eie_format format, size_t step, size_t entry) {
    const size_t lane = entry / 16, at = entry % 16;
    if (format == EIE_F32) return step * 32 + at / 4 * 8 + lane * 4 + at % 4;
    if (format == EIE_I16) return step * 32 + at / 8 * 16 + lane * 8 + at % 8;
    return step / 2 * 64 + at / 8 * 32 + lane * 16 + at % 8 / 2 * 4 + step % 2 * 2 + at % 2;
}

/* EIE_PLANE16, EIE_NIBBLE16: the place of its code among the 64 nibbles of two steps, the low ones first. */
static inline size_t eie_plane_code(eie_format format, size_t step, size_t entry) {
    return format == EIE_U8 ? eie_plane_place(EIE_U8, step % 2, entry) : step % 2 * 32 + entry;
}

/* A vector as the kernels want it. */
typedef struct {
    const void *x; /* padded: float, uint8 or int16, or planes of the bytes of those */
    bool finite;
    float scale;   /* u8 */
    int32_t zero;  /* u8 */
    int32_t exponent; /* i16 */
} eie_vector;

/* codes [out, in], C order, each below codebook_size. The packed form is the same for any number of threads. */
eie_status eie_matrix_pack(const uint8_t *codes, const float *codebook, uint32_t codebook_size, size_t out, size_t in,
                           eie_format format, const eie_parallel *parallel, eie_matrix *matrix);
void eie_matrix_free(eie_matrix *matrix); /* what it holds */

/* Bytes between the planes of a vector; 0: the kernel takes none. */
size_t eie_matrix_plane(const eie_matrix *matrix);
/* Bytes of the buffer that eie_matrix_vector fills, a multiple of 64. */
size_t eie_matrix_vector_bytes(const eie_matrix *matrix);
/* Quantizes x[0..in), or copies it; in f32, where nothing needs padding, x itself is used. */
void eie_matrix_vector(const eie_matrix *matrix, const float *x, void *buffer, eie_vector *vector);

/* The product of the rows of groups begin to end with `count` vectors, plus bias unless NULL: y[v * out + row]. The vectors
 * were made of rows of one x, in buffers that lie eie_matrix_vector_bytes apart. */
enum { EIE_MATRIX_VECTORS = 64 }; /* the most at once */
void eie_matrix_rows(const eie_matrix *matrix, const eie_vector *vectors, size_t count, size_t begin, size_t end, const float *bias, float *y);

#endif
