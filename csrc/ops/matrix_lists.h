/* What matrix_lists.c makes and matrix_batch.c runs. */
#ifndef EIE_MATRIX_LISTS_H
#define EIE_MATRIX_LISTS_H
#include "ops/matrix_batch.h"

/* Rows, whose sums fit the first-level cache beside a chunk, and each of which a byte can name; bytes that a vector has of a chunk. */
enum { EIE_TILE = 256, EIE_CHUNK = 2 << 10 };

/* Rows in tiles, columns in chunks whose activations stay in the first-level cache. */
struct eie_lists {
    size_t tiles, chunks, chunk; /* chunk: columns of one */
    uint32_t *first;             /* [(tile * chunks + chunk) * EIE_TILE + place, and one more]: items of an eie_batch */
    uint8_t *row;                /* [(tile * chunks + chunk) * EIE_TILE + place]: of the tile, those of as many items together */
    uint16_t *place;
    uint8_t *weight;
    int32_t *row_sum;            /* u8: [out] */
    float table[256];            /* f32 */
    uint64_t bytes;
};

eie_lists *eie_lists_make(const eie_matrix *matrix, const eie_kernel *kernel); /* NULL: out of memory */
void eie_lists_free(eie_lists *lists);

#endif
