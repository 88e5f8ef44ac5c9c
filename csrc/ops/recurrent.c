/* LSTM and GRU as ONNX has them, on compressed weights. docs/numerics.md has the order of the operations. */
#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/matrix_batch.h"

typedef struct {
    eie_matrix w;         /* [gates * hidden, input] */
    eie_matrix r;         /* [gates * hidden, hidden]; GRU: without the gate h */
    eie_matrix candidate; /* GRU: the gate h of R, [hidden, hidden] */
} eie_direction_weights;

typedef struct {
    struct eie_layer base;
    eie_recurrent_params params;
    size_t directions, gates, input, hidden;
    eie_direction_weights direction[2];
    float clip; /* INFINITY: none */
    eie_cell_lstm_kernel *cell_lstm;
    eie_cell_gates_kernel *cell_gates;
    eie_cell_blend_kernel *cell_blend;
} eie_recurrent;

static void recurrent_free(eie_layer *layer) {
    eie_recurrent *l = (eie_recurrent *)layer;
    for (int d = 0; d < 2; d++) {
        eie_matrix_free(&l->direction[d].w);
        eie_matrix_free(&l->direction[d].r);
        eie_matrix_free(&l->direction[d].candidate);
    }
    free(l);
}

static uint64_t recurrent_later(const eie_layer *layer) {
    const eie_recurrent *l = (const eie_recurrent *)layer;
    return eie_matrix_lists_bytes(&l->direction[0].w) + eie_matrix_lists_bytes(&l->direction[1].w);
}

static eie_status pack(eie_recurrent *l, const eie_weight *w, const eie_weight *r, eie_format format, const eie_parallel *parallel) {
    const size_t rows = l->gates * l->hidden, first = l->params.cell == EIE_GRU ? 2 * l->hidden : rows;
    for (size_t d = 0; d < l->directions; d++) {
        eie_direction_weights *to = &l->direction[d];
        const uint8_t *codes = r->codes + d * rows * l->hidden;
        eie_status status = eie_matrix_pack(w->codes + d * rows * l->input, w->codebook, w->codebook_size, rows, l->input, format, parallel, &to->w);
        if (status == EIE_OK) status = eie_matrix_pack(codes, r->codebook, r->codebook_size, first, l->hidden, format, parallel, &to->r);
        if (status == EIE_OK && first < rows) {
            status = eie_matrix_pack(codes + first * l->hidden, r->codebook, r->codebook_size, l->hidden, l->hidden, format, parallel, &to->candidate);
        }
        if (status != EIE_OK) return status;
        l->base.bytes += to->w.bytes + to->r.bytes + to->candidate.bytes;
    }
    return EIE_OK;
}

eie_status eie_recurrent_create(const eie_weight *w, const eie_weight *r, const eie_recurrent_params *params, eie_format format,
                                const eie_parallel *parallel, eie_layer **layer) {
    size_t elements;
    *layer = NULL;
    if ((int)format < EIE_F32 || format > EIE_U8 || params == NULL) return EIE_E_ARGUMENT;
    if (params->cell < EIE_LSTM || params->cell > EIE_GRU || params->direction < EIE_FORWARD || params->direction > EIE_BIDIRECTIONAL ||
        !(params->clip >= 0) || isinf(params->clip)) {
        return EIE_E_ARGUMENT;
    }
    eie_status status = eie_weight_check(w, &elements);
    if (status == EIE_OK) status = eie_weight_check(r, &elements);
    if (status != EIE_OK) return status;
    const uint64_t directions = params->direction == EIE_BIDIRECTIONAL ? 2 : 1, gates = params->cell == EIE_LSTM ? 4 : 3;
    if (w->rank != 3 || r->rank != 3 || params->hidden < 1 || params->hidden > INT_MAX || w->dims[2] > INT_MAX || w->dims[0] != directions ||
        r->dims[0] != directions || w->dims[1] != gates * params->hidden || r->dims[1] != gates * params->hidden || r->dims[2] != params->hidden) {
        return EIE_E_SHAPE;
    }
    eie_recurrent *l = calloc(1, sizeof *l);
    if (l == NULL) return EIE_E_MEMORY;
    l->base.kind = EIE_LAYER_RECURRENT;
    l->base.free = recurrent_free;
    l->base.later = recurrent_later;
    l->params = *params;
    l->directions = (size_t)directions;
    l->gates = (size_t)gates;
    l->input = (size_t)w->dims[2];
    l->hidden = (size_t)params->hidden;
    l->clip = params->clip > 0 ? params->clip : INFINITY;
    l->cell_lstm = (eie_cell_lstm_kernel *)eie_kernel_find(EIE_CELL_LSTM, 0)->run;
    l->cell_gates = (eie_cell_gates_kernel *)eie_kernel_find(EIE_CELL_GATES, 0)->run;
    l->cell_blend = (eie_cell_blend_kernel *)eie_kernel_find(EIE_CELL_BLEND, 0)->run;
    status = pack(l, w, r, format, parallel);
    if (status != EIE_OK) {
        recurrent_free(&l->base);
        return status;
    }
    snprintf(l->base.kernel, sizeof l->base.kernel, "%s", l->direction[0].w.kernel->name);
    *layer = &l->base;
    return EIE_OK;
}

/* ---- running: one sequence after the other -------------------------------------------------------------------------- */

typedef struct {
    const eie_recurrent *layer;
    const eie_recurrent_io *io;
    atomic_int status;
} eie_recurrent_call;

enum { AHEAD = 16 }; /* steps whose inputs are multiplied at once: they don't wait for one another, and weights are decoded once */

/* The state of one sequence. */
typedef struct {
    float *wx;             /* [AHEAD][gates * hidden]: of the steps to come */
    float *x;              /* [AHEAD][input] */
    float *rh, *bias;      /* [gates * hidden]; bias: of W plus of R (GRU's h: of W) */
    float *h, *c;          /* [hidden] */
    float *reset;          /* GRU: [hidden] */
    uint8_t *vector;       /* quantized h, or AHEAD quantized x */
} eie_sequence;

static void product(const eie_matrix *m, const float *x, void *buffer, float *y) {
    eie_vector v;
    eie_matrix_vector(m, x, buffer, &v);
    eie_matrix_rows(m, &v, 1, 0, m->groups, NULL, y);
}

static void lstm_step(const eie_recurrent *l, const eie_sequence *s, const float *wx, const float *peephole) {
    const eie_cell_gates gates = {wx, s->rh, s->bias, peephole, l->clip, l->params.input_forget != 0};
    l->cell_lstm(&gates, l->hidden, s->c, s->h);
}

static void gru_step(const eie_recurrent *l, const eie_direction_weights *w, const eie_sequence *s, float *wx, const float *recurrent_bias) {
    const size_t n = l->hidden;
    float *candidate = s->rh + 2 * n;
    l->cell_gates(s->rh, s->bias, l->clip, 2 * n, wx);
    if (l->params.linear_before_reset) {
        product(&w->candidate, s->h, s->vector, candidate);
        for (size_t j = 0; j < n; j++) {
            const float rb = recurrent_bias != NULL ? recurrent_bias[2 * n + j] : 0.0f;
            s->reset[j] = (wx[2 * n + j] + wx[n + j] * (candidate[j] + rb)) + s->bias[2 * n + j];
        }
    } else {
        for (size_t j = 0; j < n; j++) s->reset[j] = wx[n + j] * s->h[j];
        product(&w->candidate, s->reset, s->vector, candidate);
        for (size_t j = 0; j < n; j++) {
            const float rb = recurrent_bias != NULL ? recurrent_bias[2 * n + j] : 0.0f;
            s->reset[j] = (wx[2 * n + j] + candidate[j]) + (s->bias[2 * n + j] + rb);
        }
    }
    l->cell_blend(s->reset, wx, l->clip, n, s->h);
}

/* Places of a sequence's parts: layout 1 has the batch first. */
static size_t state_at(const eie_recurrent *l, const eie_recurrent_io *io, size_t d, size_t b) {
    return (l->params.layout ? b * l->directions + d : d * (size_t)io->batch + b) * l->hidden;
}

static size_t output_at(const eie_recurrent *l, const eie_recurrent_io *io, size_t t, size_t d, size_t b) {
    const size_t batch = (size_t)io->batch, time = (size_t)io->time;
    return (l->params.layout ? (b * time + t) * l->directions + d : (t * l->directions + d) * batch + b) * l->hidden;
}

/* W x of steps `step` to step + AHEAD. */
static void multiply_inputs(const eie_recurrent *l, const eie_recurrent_io *io, size_t b, const eie_direction_weights *w, const eie_sequence *s,
                            size_t step, size_t steps, bool backwards) {
    const size_t count = steps - step < AHEAD ? steps - step : AHEAD, bytes = eie_matrix_vector_bytes(&w->w);
    const eie_lists *lists = eie_lists_share(&w->w, count) == count ? eie_matrix_lists(&w->w) : NULL;
    eie_vector vectors[AHEAD];
    for (size_t k = 0; k < count; k++) {
        const size_t t = backwards ? steps - 1 - step - k : step + k;
        const float *x = io->x + (l->params.layout ? b * (size_t)io->time + t : t * (size_t)io->batch + b) * l->input;
        memcpy(s->x + k * l->input, x, l->input * sizeof *x);
        if (lists == NULL) eie_matrix_vector(&w->w, s->x + k * l->input, s->vector + k * bytes, &vectors[k]);
    }
    if (lists != NULL) {
        eie_lists_multiply(&w->w, lists, s->x, count, NULL, s->wx, s->vector, NULL);
        return;
    }
    eie_matrix_rows(&w->w, vectors, count, 0, w->w.groups, NULL, s->wx);
}

static void run_sequence(const eie_recurrent *l, const eie_recurrent_io *io, size_t d, size_t b, eie_sequence *s) {
    const eie_direction_weights *w = &l->direction[d];
    const size_t n = l->hidden, rows = l->gates * n, time = (size_t)io->time, at = state_at(l, io, d, b);
    const size_t steps = io->sequence_lengths != NULL ? (size_t)io->sequence_lengths[b] : time;
    const bool backwards = d == 1 || l->params.direction == EIE_REVERSE;
    const float *wb = io->bias != NULL ? io->bias + d * 2 * rows : NULL, *rb = wb != NULL ? wb + rows : NULL;
    for (size_t i = 0; i < rows; i++) {
        const bool apart = l->params.cell == EIE_GRU && i >= 2 * n; /* the bias of R for h comes in elsewhere */
        s->bias[i] = wb == NULL ? 0.0f : apart ? wb[i] : wb[i] + rb[i];
    }
    for (size_t j = 0; j < n; j++) s->h[j] = io->initial_h != NULL ? io->initial_h[at + j] : 0.0f;
    for (size_t j = 0; j < n; j++) s->c[j] = io->initial_c != NULL ? io->initial_c[at + j] : 0.0f;
    for (size_t step = 0; step < steps; step++) {
        const size_t t = backwards ? steps - 1 - step : step;
        float *wx = s->wx + step % AHEAD * rows;
        if (step % AHEAD == 0) multiply_inputs(l, io, b, w, s, step, steps, backwards);
        product(&w->r, s->h, s->vector, s->rh);
        if (l->params.cell == EIE_LSTM) lstm_step(l, s, wx, io->peephole != NULL ? io->peephole + d * 3 * n : NULL);
        else gru_step(l, w, s, wx, rb);
        if (io->y != NULL) memcpy(io->y + output_at(l, io, t, d, b), s->h, n * sizeof(float));
    }
    for (size_t t = steps; io->y != NULL && t < time; t++) memset(io->y + output_at(l, io, t, d, b), 0, n * sizeof(float));
    if (io->y_h != NULL) memcpy(io->y_h + at, s->h, n * sizeof(float));
    if (io->y_c != NULL) memcpy(io->y_c + at, s->c, n * sizeof(float));
}

static void run_task(void *context, size_t index) {
    eie_recurrent_call *call = context;
    const eie_recurrent *l = call->layer;
    const size_t n = l->hidden, rows = l->gates * n;
    const size_t ahead = call->io->time < AHEAD ? (size_t)call->io->time : AHEAD;
    size_t wide = ahead * eie_matrix_vector_bytes(&l->direction[0].w);
    const size_t narrow = eie_matrix_vector_bytes(&l->direction[0].r), lists = eie_lists_scratch(&l->direction[0].w, ahead);
    if (lists > wide) wide = lists;
    float *floats = malloc(((2 + ahead) * rows + 3 * n + ahead * l->input + 1) * sizeof(float));
    uint8_t *vector = eie_scratch_take(wide > narrow ? wide : narrow);
    if (floats == NULL || vector == NULL) {
        atomic_store(&call->status, EIE_E_MEMORY);
    } else {
        eie_sequence s = {.rh = floats, .bias = floats + rows, .h = floats + 2 * rows, .c = floats + 2 * rows + n, .reset = floats + 2 * rows + 2 * n};
        s.wx = s.reset + n;
        s.x = s.wx + ahead * rows;
        s.vector = vector;
        run_sequence(l, call->io, index / (size_t)call->io->batch, index % (size_t)call->io->batch, &s);
    }
    free(floats);
    eie_scratch_give(vector);
}

eie_status eie_recurrent_run(const eie_layer *layer, const eie_recurrent_io *io, const eie_parallel *parallel) {
    if (layer == NULL || layer->kind != EIE_LAYER_RECURRENT || io == NULL) return EIE_E_ARGUMENT;
    const eie_recurrent *l = (const eie_recurrent *)layer;
    if (io->time > INT_MAX || io->batch > INT_MAX) return EIE_E_SHAPE;
    for (uint64_t b = 0; io->sequence_lengths != NULL && b < io->batch; b++) {
        if (io->sequence_lengths[b] < 0 || (uint64_t)io->sequence_lengths[b] > io->time) return EIE_E_ARGUMENT;
    }
    eie_recurrent_call call = {.layer = l, .io = io};
    atomic_init(&call.status, EIE_OK);
    eie_for(parallel, l->directions * (size_t)io->batch, run_task, &call);
    return (eie_status)atomic_load(&call.status);
}
