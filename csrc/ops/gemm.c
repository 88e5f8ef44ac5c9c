/* Gemm: a compressed matrix times a batch of vectors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/matrix_batch.h"

typedef struct {
    struct eie_layer base;
    eie_matrix matrix;
} eie_gemm;

static void gemm_free(eie_layer *layer) {
    eie_matrix_free(&((eie_gemm *)layer)->matrix);
    free(layer);
}

static uint64_t gemm_later(const eie_layer *layer) { return eie_matrix_lists_bytes(&((const eie_gemm *)layer)->matrix); }

eie_status eie_gemm_create(const eie_weight *weight, eie_format format, const eie_parallel *parallel, eie_layer **layer) {
    size_t elements;
    *layer = NULL;
    if ((int)format < EIE_F32 || format > EIE_U8) return EIE_E_ARGUMENT;
    eie_status status = eie_weight_check(weight, &elements);
    if (status != EIE_OK) return status;
    if (weight->rank != 2) return EIE_E_SHAPE;
    eie_gemm *g = calloc(1, sizeof *g);
    if (g == NULL) return EIE_E_MEMORY;
    g->base.kind = EIE_LAYER_GEMM;
    g->base.free = gemm_free;
    g->base.later = gemm_later;
    status = eie_matrix_pack(weight->codes, weight->codebook, weight->codebook_size, (size_t)weight->dims[0], (size_t)weight->dims[1], format,
                             parallel, &g->matrix);
    if (status != EIE_OK) {
        free(g);
        return status;
    }
    g->base.bytes = g->matrix.bytes;
    snprintf(g->base.kernel, sizeof g->base.kernel, "%s", g->matrix.kernel->name);
    *layer = &g->base;
    return EIE_OK;
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

enum { TASK_SUMS = 512 }; /* sums of a task: enough tasks to balance, each long enough to be worth a wake-up */

typedef struct {
    const eie_matrix *matrix;
    const float *x, *bias;
    float *y;
    uint8_t *buffer;
    size_t buffer_bytes;
    eie_vector *vectors;
    size_t count, groups; /* vectors; groups of a task */
} eie_gemm_call;

static void prepare(void *context, size_t b) {
    const eie_gemm_call *c = context;
    eie_matrix_vector(c->matrix, c->x + b * c->matrix->in, c->buffer + b * c->buffer_bytes, &c->vectors[b]);
}

/* Every vector of the batch in turn for a few rows: their weights are read once. */
static void multiply(void *context, size_t i) {
    const eie_gemm_call *c = context;
    const size_t begin = i * c->groups, end = begin + c->groups < c->matrix->groups ? begin + c->groups : c->matrix->groups;
    eie_matrix_rows(c->matrix, c->vectors, c->count, begin, end, c->bias, c->y);
}

/* Multiplies what is faster row by row; returns how many vectors that were. */
static uint64_t run_lists(const eie_matrix *m, const float *x, uint64_t batch, const float *bias, float *y, const eie_parallel *parallel) {
    const size_t first = eie_lists_share(m, batch < EIE_MATRIX_VECTORS ? (size_t)batch : EIE_MATRIX_VECTORS);
    const eie_lists *lists = first > 0 ? eie_matrix_lists(m) : NULL;
    void *scratch = lists != NULL ? eie_scratch_take(eie_lists_scratch(m, first)) : NULL; /* the first share is the largest */
    if (scratch == NULL) return 0;
    uint64_t done = 0;
    for (size_t count = first; count > 0;) {
        eie_lists_multiply(m, lists, x + done * m->in, count, bias, y + done * m->out, scratch, parallel);
        done += count;
        count = eie_lists_share(m, batch - done < EIE_MATRIX_VECTORS ? (size_t)(batch - done) : EIE_MATRIX_VECTORS);
    }
    eie_scratch_give(scratch);
    return done;
}

/* By steps. */
static eie_status run_steps(const eie_matrix *m, const float *x, uint64_t batch, const float *bias, float *y, const eie_parallel *parallel) {
    if (batch == 0) return EIE_OK;
    const size_t held = batch < EIE_MATRIX_VECTORS ? (size_t)batch : EIE_MATRIX_VECTORS;
    eie_vector vectors[EIE_MATRIX_VECTORS];
    eie_gemm_call c = {.matrix = m, .bias = bias, .buffer_bytes = eie_matrix_vector_bytes(m), .vectors = vectors, .groups = TASK_SUMS / m->sums};
    size_t bytes;
    if (!eie_multiply(held, c.buffer_bytes, &bytes)) return EIE_E_MEMORY;
    c.buffer = eie_scratch_take(bytes);
    if (c.buffer == NULL) return EIE_E_MEMORY;
    for (uint64_t b = 0; b < batch; b += held) {
        c.count = batch - b < held ? (size_t)(batch - b) : held;
        c.x = x + b * m->in;
        c.y = y + b * m->out;
        eie_for(parallel, c.count, prepare, &c);
        eie_for(parallel, (m->groups + c.groups - 1) / c.groups, multiply, &c);
    }
    eie_scratch_give(c.buffer);
    return EIE_OK;
}

typedef struct {
    const eie_follower *followers;
    size_t count, out;
    eie_follow_kernel *run;
    float *y;
} eie_gemm_followers;

static void follow(void *context, size_t b) {
    const eie_gemm_followers *g = context;
    for (size_t i = 0; i < g->count; i++) {
        eie_follower f = g->followers[i];
        if (f.kind == EIE_FOLLOW_ADD) f.operand += b * g->out;
        if (f.kind == EIE_FOLLOW_ADD_CHANNEL) f.kind = EIE_FOLLOW_ADD; /* a channel is an output */
        g->run(&f, g->out, g->y + b * g->out);
    }
}

eie_status eie_gemm_run(const eie_layer *layer, const float *x, uint64_t batch, const float *bias, float *y, const eie_parallel *parallel) {
    return eie_gemm_run_followed(layer, x, batch, bias, NULL, 0, y, parallel);
}

eie_status eie_gemm_run_followed(const eie_layer *layer, const float *x, uint64_t batch, const float *bias, const eie_follower *followers, uint64_t count,
                                 float *y, const eie_parallel *parallel) {
    if (layer == NULL || layer->kind != EIE_LAYER_GEMM || !eie_followers_check(followers, count)) return EIE_E_ARGUMENT;
    const eie_matrix *m = &((const eie_gemm *)layer)->matrix;
    if (batch == 0 || m->out == 0) return EIE_OK;
    const uint64_t done = run_lists(m, x, batch, bias, y, parallel);
    const eie_status status = run_steps(m, x + done * m->in, batch - done, bias, y + done * m->out, parallel);
    if (status != EIE_OK) return status;
    eie_gemm_followers after = {followers, (size_t)count, m->out, (eie_follow_kernel *)eie_kernel_find(EIE_FOLLOWERS, 0)->run, y};
    eie_for(parallel, count > 0 ? (size_t)batch : 0, follow, &after);
    return EIE_OK;
}
