/* A compressed matrix packed for the kernels, and the product with a vector: what Gemm, LSTM and GRU are made of. */
#ifndef EIE_MATRIX_H
#define EIE_MATRIX_H
#include <stdbool.h>

#include "kernels/kernels.h"
#include "ops/layer.h"

typedef struct {
    eie_panel panel;
    size_t column; /* its first column */
} eie_matrix_panel;

typedef struct {
    size_t out, in, padded;    /* padded: columns, rounded up to whole blocks */
    eie_format format;
    const eie_kernel *kernel;
    eie_matrix_panel *panels;  /* one, unless sums could overflow */
    size_t panel_count;
    int64_t *row_sums;         /* u8: of the values of a row */
    float step;                /* u8 */
    int32_t exponent;          /* i16 */
    uint64_t bytes;            /* of everything held */
} eie_matrix;

/* A vector as the kernels want it. */
typedef struct {
    const void *x; /* padded: float, uint8 or int16 */
    bool finite;
    float scale;   /* u8 */
    int32_t zero;  /* u8 */
    int32_t exponent; /* i16 */
} eie_vector;

/* codes [out, in], C order, each below codebook_size. */
eie_status eie_matrix_pack(const uint8_t *codes, const float *codebook, uint32_t codebook_size, size_t out, size_t in,
                           eie_format format, eie_matrix *matrix);
void eie_matrix_free(eie_matrix *matrix); /* what it holds */

/* Bytes of the buffer that eie_matrix_vector fills, a multiple of 64. */
size_t eie_matrix_vector_bytes(const eie_matrix *matrix);
/* Quantizes x[0..in), or copies it; in f32 without a tail to pad, x itself is used. */
void eie_matrix_vector(const eie_matrix *matrix, const float *x, void *buffer, eie_vector *vector);

/* y[begin * 16 .. end * 16), cut at out, of the product; plus bias, unless NULL. */
void eie_matrix_rows(const eie_matrix *matrix, const eie_vector *vector, size_t begin, size_t end, const float *bias, float *y);
static inline size_t eie_matrix_groups(const eie_matrix *matrix) { return (matrix->out + EIE_ROWS - 1) / EIE_ROWS; }

#endif
