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
    uint64_t bytes;            /* of everything held */
} eie_matrix;

/* A vector as the kernels want it. */
typedef struct {
    const void *x; /* padded: float, uint8 or int16, or planes of the bytes of those */
    bool finite;
    float scale;   /* u8 */
    int32_t zero;  /* u8 */
    int32_t exponent; /* i16 */
} eie_vector;

/* codes [out, in], C order, each below codebook_size. */
eie_status eie_matrix_pack(const uint8_t *codes, const float *codebook, uint32_t codebook_size, size_t out, size_t in,
                           eie_format format, eie_matrix *matrix);
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
