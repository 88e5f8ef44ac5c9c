/* Gather: rows of a compressed table, looked up a row at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/layer.h"

typedef struct {
    struct eie_layer base;
    uint64_t rows;
    size_t columns;
    uint8_t *codes; /* [rows, columns] */
    float codebook[256];
} eie_gather;

static void gather_free(eie_layer *layer) {
    free(((eie_gather *)layer)->codes);
    free(layer);
}

eie_status eie_gather_create(const eie_weight *weight, eie_layer **layer) {
    size_t elements;
    *layer = NULL;
    const eie_status status = eie_weight_check(weight, &elements);
    if (status != EIE_OK) return status;
    if (weight->rank < 1) return EIE_E_SHAPE;
    eie_gather *g = calloc(1, sizeof *g);
    if (g == NULL) return EIE_E_MEMORY;
    g->base.kind = EIE_LAYER_GATHER;
    g->base.free = gather_free;
    g->rows = weight->dims[0];
    g->columns = 1;
    for (uint32_t i = 1; i < weight->rank; i++) {
        if (!eie_multiply(g->columns, (size_t)weight->dims[i], &g->columns)) g->columns = 0; /* only where rows are 0 */
    }
    g->codes = malloc(elements + 1);
    if (g->codes == NULL) {
        free(g);
        return EIE_E_MEMORY;
    }
    if (elements > 0) memcpy(g->codes, weight->codes, elements);
    memcpy(g->codebook, weight->codebook, weight->codebook_size * sizeof(float));
    g->base.bytes = elements + sizeof g->codebook;
    snprintf(g->base.kernel, sizeof g->base.kernel, "gather_f32_code256_scalar");
    *layer = &g->base;
    return EIE_OK;
}

eie_status eie_gather_run(const eie_layer *layer, const int64_t *indices, uint64_t count, float *y) {
    if (layer == NULL || layer->kind != EIE_LAYER_GATHER) return EIE_E_ARGUMENT;
    const eie_gather *g = (const eie_gather *)layer;
    for (uint64_t i = 0; i < count; i++) {
        const int64_t at = indices[i];
        if (at >= 0 ? (uint64_t)at >= g->rows : (uint64_t)(-(at + 1)) >= g->rows) return EIE_E_ARGUMENT;
    }
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t row = indices[i] < 0 ? g->rows - 1 - (uint64_t)(-(indices[i] + 1)) : (uint64_t)indices[i];
        const uint8_t *codes = g->codes + row * g->columns;
        for (size_t c = 0; c < g->columns; c++) *y++ = g->codebook[codes[c]];
    }
    return EIE_OK;
}
