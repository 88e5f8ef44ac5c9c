/* LSTM and GRU as ONNX has them, on compressed weights. docs/numerics.md has the order of the operations. */
#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/math.h"
#include "ops/matrix.h"

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

static eie_status pack(eie_recurrent *l, const eie_weight *w, const eie_weight *r, eie_format format) {
    const size_t rows = l->gates * l->hidden, first = l->params.cell == EIE_GRU ? 2 * l->hidden : rows;
    for (size_t d = 0; d < l->directions; d++) {
        eie_direction_weights *to = &l->direction[d];
        const uint8_t *codes = r->codes + d * rows * l->hidden;
        eie_status status = eie_matrix_pack(w->codes + d * rows * l->input, w->codebook, w->codebook_size, rows, l->input, format, &to->w);
        if (status == EIE_OK) status = eie_matrix_pack(codes, r->codebook, r->codebook_size, first, l->hidden, format, &to->r);
        if (status == EIE_OK && first < rows) {
            status = eie_matrix_pack(codes + first * l->hidden, r->codebook, r->codebook_size, l->hidden, l->hidden, format, &to->candidate);
        }
        if (status != EIE_OK) return status;
        l->base.bytes += to->w.bytes + to->r.bytes + to->candidate.bytes;
    }
    return EIE_OK;
}

eie_status eie_recurrent_create(const eie_weight *w, const eie_weight *r, const eie_recurrent_params *params, eie_format format, eie_layer **layer) {
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
    l->params = *params;
    l->directions = (size_t)directions;
    l->gates = (size_t)gates;
    l->input = (size_t)w->dims[2];
    l->hidden = (size_t)params->hidden;
    status = pack(l, w, r, format);
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

/* The state of one sequence. */
typedef struct {
    float *wx, *rh, *bias; /* [gates * hidden]; bias: of W plus of R (GRU's h: of W) */
    float *h, *c;          /* [hidden] */
    float *reset;          /* GRU: [hidden] */
    void *vector;          /* quantized x or h */
} eie_sequence;

static void product(const eie_matrix *m, const float *x, void *buffer, float *y) {
    eie_vector v;
    eie_matrix_vector(m, x, buffer, &v);
    eie_matrix_rows(m, &v, 1, 0, m->groups, NULL, y);
}

static float clipped(float g, float clip) {
    if (clip > 0) g = g < -clip ? -clip : g > clip ? clip : g;
    return g;
}

static void lstm_step(const eie_recurrent *l, eie_sequence *s, const float *peephole) {
    const size_t n = l->hidden;
    const float clip = l->params.clip;
    for (size_t i = 0; i < 4 * n; i++) s->wx[i] = (s->wx[i] + s->rh[i]) + s->bias[i];
    for (size_t j = 0; j < n; j++) {
        float gi = s->wx[j], go = s->wx[n + j], gf = s->wx[2 * n + j];
        const float gc = s->wx[3 * n + j];
        if (peephole != NULL) gi = gi + peephole[j] * s->c[j];
        if (peephole != NULL) gf = gf + peephole[2 * n + j] * s->c[j];
        const float input = eie_sigmoid(clipped(gi, clip));
        const float forget = l->params.input_forget ? 1.0f - input : eie_sigmoid(clipped(gf, clip));
        const float cell = eie_tanh(clipped(gc, clip));
        s->c[j] = forget * s->c[j] + input * cell;
        if (peephole != NULL) go = go + peephole[n + j] * s->c[j];
        s->h[j] = eie_sigmoid(clipped(go, clip)) * eie_tanh(s->c[j]);
    }
}

static void gru_step(const eie_recurrent *l, const eie_direction_weights *w, eie_sequence *s, const float *recurrent_bias) {
    const size_t n = l->hidden;
    const float clip = l->params.clip;
    float *candidate = s->rh + 2 * n, *update = s->wx;
    for (size_t i = 0; i < 2 * n; i++) s->wx[i] = eie_sigmoid(clipped((s->wx[i] + s->rh[i]) + s->bias[i], clip));
    if (l->params.linear_before_reset) {
        product(&w->candidate, s->h, s->vector, candidate);
        for (size_t j = 0; j < n; j++) {
            const float rb = recurrent_bias != NULL ? recurrent_bias[2 * n + j] : 0.0f;
            s->reset[j] = (s->wx[2 * n + j] + s->wx[n + j] * (candidate[j] + rb)) + s->bias[2 * n + j];
        }
    } else {
        for (size_t j = 0; j < n; j++) s->reset[j] = s->wx[n + j] * s->h[j];
        product(&w->candidate, s->reset, s->vector, candidate);
        for (size_t j = 0; j < n; j++) {
            const float rb = recurrent_bias != NULL ? recurrent_bias[2 * n + j] : 0.0f;
            s->reset[j] = (s->wx[2 * n + j] + candidate[j]) + (s->bias[2 * n + j] + rb);
        }
    }
    for (size_t j = 0; j < n; j++) {
        const float fresh = eie_tanh(clipped(s->reset[j], clip));
        s->h[j] = (1.0f - update[j]) * fresh + update[j] * s->h[j];
    }
}

/* Places of a sequence's parts: layout 1 has the batch first. */
static size_t state_at(const eie_recurrent *l, const eie_recurrent_io *io, size_t d, size_t b) {
    return (l->params.layout ? b * l->directions + d : d * (size_t)io->batch + b) * l->hidden;
}

static size_t output_at(const eie_recurrent *l, const eie_recurrent_io *io, size_t t, size_t d, size_t b) {
    const size_t batch = (size_t)io->batch, time = (size_t)io->time;
    return (l->params.layout ? (b * time + t) * l->directions + d : (t * l->directions + d) * batch + b) * l->hidden;
}

static void run_sequence(const eie_recurrent *l, const eie_recurrent_io *io, size_t d, size_t b, eie_sequence *s) {
    const eie_direction_weights *w = &l->direction[d];
    const size_t n = l->hidden, rows = l->gates * n, batch = (size_t)io->batch, time = (size_t)io->time, at = state_at(l, io, d, b);
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
        const float *x = io->x + (l->params.layout ? b * time + t : t * batch + b) * l->input;
        product(&w->w, x, s->vector, s->wx);
        product(&w->r, s->h, s->vector, s->rh);
        if (l->params.cell == EIE_LSTM) lstm_step(l, s, io->peephole != NULL ? io->peephole + d * 3 * n : NULL);
        else gru_step(l, w, s, rb);
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
    const size_t wide = eie_matrix_vector_bytes(&l->direction[0].w), narrow = eie_matrix_vector_bytes(&l->direction[0].r);
    float *floats = malloc((3 * rows + 3 * n) * sizeof(float));
    void *vector = malloc((wide > narrow ? wide : narrow) + 1);
    if (floats == NULL || vector == NULL) {
        atomic_store(&call->status, EIE_E_MEMORY);
    } else {
        eie_sequence s = {.wx = floats, .rh = floats + rows, .bias = floats + 2 * rows, .h = floats + 3 * rows, .c = floats + 3 * rows + n,
                          .reset = floats + 3 * rows + 2 * n, .vector = vector};
        run_sequence(l, call->io, index / (size_t)call->io->batch, index % (size_t)call->io->batch, &s);
    }
    free(floats);
    free(vector);
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
