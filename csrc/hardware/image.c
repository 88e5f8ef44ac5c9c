/* The accelerator's sparse matrix: interleaved compressed sparse columns (EIE, ISCA 2016, section III). Row i belongs to
 * element i mod N; each element holds its slice of every column as codes and the zeros before each, and where columns begin. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "eie.h"

/* Walks the matrix row by row, and calls for each entry, fillers included, its place in the order of its column's slice. */
typedef struct {
    uint32_t *row; /* [element][column] the slice's next row */
    uint32_t *at;  /* [element][column] counts, then places */
} walk;

static void put(uint8_t *codes, uint8_t *runs, size_t at, uint8_t code, uint32_t run) {
    codes[at] = code;
    runs[at] = (uint8_t)run;
}

static void visit(walk *w, const uint8_t *matrix, uint64_t rows, uint64_t columns, uint32_t elements, uint32_t run_bits, uint8_t *codes,
                  uint8_t *runs, const uint64_t *begin) {
    const uint32_t reach = 1u << run_bits; /* rows a filler stands for: as many zeros as fit, and itself */
    memset(w->row, 0, (size_t)columns * elements * sizeof *w->row);
    for (uint64_t i = 0; i < rows; i++) {
        const uint32_t element = (uint32_t)(i % elements), row = (uint32_t)(i / elements);
        uint32_t *next = w->row + (size_t)element * columns, *at = w->at + (size_t)element * columns;
        const uint8_t *line = matrix + (size_t)i * columns;
        for (uint64_t j = 0; j < columns; j++) {
            if (line[j] == 0) continue;
            const uint32_t gap = row - next[j], fillers = gap / reach;
            if (codes != NULL) {
                size_t place = (size_t)begin[element] + at[j];
                for (uint32_t f = 0; f < fillers; f++) put(codes, runs, place++, 0, reach - 1);
                put(codes, runs, place, line[j], gap % reach);
            }
            at[j] += fillers + 1;
            next[j] = row + 1;
        }
    }
}

static bool sized(uint64_t rows, uint64_t columns, uint32_t elements, uint32_t run_bits) {
    return rows >= 1 && columns >= 1 && columns <= EIE_MOST_COLUMNS && elements >= 1 && elements <= EIE_MOST_ELEMENTS &&
           run_bits >= 1 && run_bits <= 8 && (rows + elements - 1) / elements <= UINT16_MAX;
}

eie_status eie_image_measure(const uint8_t *matrix, uint64_t rows, uint64_t columns, uint32_t elements, uint32_t run_bits,
                             uint32_t *pointers, uint64_t *entries) {
    if (!sized(rows, columns, elements, run_bits)) return EIE_E_SHAPE;
    const size_t each = (size_t)columns * elements;
    walk w = {malloc(each * sizeof *w.row), calloc(each, sizeof *w.at)};
    eie_status status = w.row != NULL && w.at != NULL ? EIE_OK : EIE_E_MEMORY;
    if (status == EIE_OK) visit(&w, matrix, rows, columns, elements, run_bits, NULL, NULL, NULL);
    *entries = 0;
    for (uint32_t e = 0; e < elements && status == EIE_OK; e++) {
        uint32_t *p = pointers + (size_t)e * (columns + 1);
        uint64_t total = 0;
        p[0] = 0;
        for (uint64_t j = 0; j < columns; j++) {
            total += w.at[(size_t)e * columns + j];
            if (total > UINT32_MAX) status = EIE_E_UNSUPPORTED;
            p[j + 1] = (uint32_t)total;
        }
        *entries += total;
    }
    free(w.row);
    free(w.at);
    return status;
}

eie_status eie_image_fill(const uint8_t *matrix, uint64_t rows, uint64_t columns, uint32_t elements, uint32_t run_bits,
                          const uint32_t *pointers, uint8_t *codes, uint8_t *runs) {
    if (!sized(rows, columns, elements, run_bits)) return EIE_E_SHAPE;
    const size_t each = (size_t)columns * elements;
    walk w = {malloc(each * sizeof *w.row), malloc(each * sizeof *w.at)};
    uint64_t *begin = malloc(elements * sizeof *begin);
    const eie_status status = w.row != NULL && w.at != NULL && begin != NULL ? EIE_OK : EIE_E_MEMORY;
    if (status == EIE_OK) {
        uint64_t total = 0;
        for (uint32_t e = 0; e < elements; e++) {
            const uint32_t *p = pointers + (size_t)e * (columns + 1);
            memcpy(w.at + (size_t)e * columns, p, (size_t)columns * sizeof *w.at);
            begin[e] = total;
            total += p[columns];
        }
        visit(&w, matrix, rows, columns, elements, run_bits, codes, runs, begin);
    }
    free(w.row);
    free(w.at);
    free(begin);
    return status;
}
