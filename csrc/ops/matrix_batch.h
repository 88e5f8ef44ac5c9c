/* Batches: a matrix's entries once more, row by row, for kernels that have vectors side by side. docs/kernels.md, "Batches". */
#ifndef EIE_MATRIX_BATCH_H
#define EIE_MATRIX_BATCH_H
#include "ops/matrix.h"

typedef struct eie_lists eie_lists;

/* How many of `count` vectors are multiplied faster by lists than by eie_matrix_rows: all, all but a few after the last sixteen, or none. */
size_t eie_lists_share(const eie_matrix *matrix, size_t count);
/* The lists, NULL: memory is short. The first call makes them, which takes about as long as packing; any number of threads may call. */
const eie_lists *eie_matrix_lists(const eie_matrix *matrix);
uint64_t eie_matrix_lists_bytes(const eie_matrix *matrix); /* held by now */

/* y[v][row] = the product of x[v] [in] with a row, plus bias unless NULL; count: up to EIE_MATRIX_VECTORS. In u8 and i16 the same bits as
 * eie_matrix_rows makes. scratch: eie_lists_scratch(matrix, count) bytes at a multiple of 64. */
size_t eie_lists_scratch(const eie_matrix *matrix, size_t count);
void eie_lists_multiply(const eie_matrix *matrix, const eie_lists *lists, const float *x, size_t count, const float *bias, float *y, void *scratch,
                        const eie_parallel *parallel);

/* What eie_matrix holds of it. */
eie_matrix_later *eie_matrix_later_create(void); /* NULL: out of memory */
void eie_matrix_later_free(eie_matrix_later *later);

#endif
