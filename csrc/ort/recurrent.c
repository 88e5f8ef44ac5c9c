/* ai.eie.LSTM and ai.eie.GRU: ONNX's, with its default activation functions. */
#include <math.h>
#include <string.h>

#include "ort/op.h"

static OrtStatus *attributes(eie_kernel *kernel, const OrtKernelInfo *info) {
    static const char *const directions[] = {"forward", "reverse", "bidirectional"}; /* in the order of eie_direction */
    eie_recurrent_attributes *a = &kernel->attributes.recurrent;
    eie_recurrent_params *p = &a->params;
    bool layout = false, input_forget = false, linear = false;
    p->cell = strcmp(kernel->op->name, "GRU") == 0 ? EIE_GRU : EIE_LSTM;
    a->hidden = INT64_MIN;
    OrtStatus *status = eie_attribute_choice(kernel, info, "direction", directions, 3, &p->direction);
    if (status == NULL) status = eie_attribute_int(kernel, info, "hidden_size", &a->hidden);
    if (status == NULL) status = eie_attribute_flag(kernel, info, "layout", &layout);
    if (status == NULL && p->cell == EIE_LSTM) status = eie_attribute_flag(kernel, info, "input_forget", &input_forget);
    if (status == NULL && p->cell == EIE_GRU) status = eie_attribute_flag(kernel, info, "linear_before_reset", &linear);
    if (status == NULL) status = eie_attribute_float(kernel, info, "clip", &p->clip);
    if (status == NULL && !(p->clip >= 0 && isfinite(p->clip))) status = eie_fail(kernel, ORT_INVALID_GRAPH, "clip is %g", p->clip);
    p->layout = layout;
    p->input_forget = input_forget;
    p->linear_before_reset = linear;
    return status;
}

static uint64_t directions_of(const eie_kernel *kernel) {
    return kernel->attributes.recurrent.params.direction == EIE_BIDIRECTIONAL ? 2 : 1;
}

static OrtStatus *pack(eie_kernel *kernel, const eie_weight *weights, const OrtKernelInfo *info) {
    (void)info;
    eie_recurrent_attributes *a = &kernel->attributes.recurrent;
    const eie_weight *w = &weights[0], *r = &weights[1];
    uint64_t gates = a->params.cell == EIE_LSTM ? 4 : 3, directions = directions_of(kernel);
    if (w->rank != 3 || r->rank != 3) {
        return eie_fail(kernel, ORT_INVALID_GRAPH, "its weights have %u and %u dimensions instead of three", w->rank, r->rank);
    }
    uint64_t hidden = r->dims[2];
    if (hidden < 1 || hidden > UINT32_MAX || r->dims[0] != directions || r->dims[1] != gates * hidden || w->dims[0] != directions ||
        w->dims[1] != gates * hidden) {
        return eie_fail(kernel, ORT_INVALID_GRAPH,
                        "its weights have the shapes [%llu, %llu, %llu] and [%llu, %llu, %llu], not those of %llu direction(s) "
                        "with %llu gates",
                        (unsigned long long)w->dims[0], (unsigned long long)w->dims[1], (unsigned long long)w->dims[2],
                        (unsigned long long)r->dims[0], (unsigned long long)r->dims[1], (unsigned long long)r->dims[2],
                        (unsigned long long)directions, (unsigned long long)gates);
    }
    if (a->hidden != INT64_MIN && (uint64_t)a->hidden != hidden) {
        return eie_fail(kernel, ORT_INVALID_GRAPH, "hidden_size is %lld, and its weights have %llu", (long long)a->hidden,
                        (unsigned long long)hidden);
    }
    a->params.hidden = hidden;
    a->input = w->dims[2];
    eie_status status = eie_recurrent_create(w, r, &a->params, kernel->format, NULL, &kernel->layer);
    return status == EIE_OK ? NULL : eie_fail_status(kernel, "its weights can't be used", status);
}

static OrtStatus *check(const eie_kernel *kernel, const eie_tensor *x) {
    uint64_t input = kernel->attributes.recurrent.input;
    if (!x->known || (x->rank == 3 && (x->dims[2] < 0 || (uint64_t)x->dims[2] == input))) return NULL;
    char text[160];
    return eie_fail(kernel, ORT_INVALID_ARGUMENT, "X has the shape %s instead of three dimensions, the last %llu",
                    eie_dims_text(x->dims, x->rank, text), (unsigned long long)input);
}

static OrtStatus *lengths(const eie_kernel *kernel, const OrtKernelContext *context, eie_recurrent_io *io) {
    eie_tensor tensor;
    bool present = false;
    OrtStatus *status = eie_input(kernel, context, 4, "sequence_lens", ORT_INT32, &tensor, &present);
    if (status != NULL || !present) return status;
    if (tensor.rank != 1 || (uint64_t)tensor.dims[0] != io->batch) {
        char text[160];
        return eie_fail(kernel, ORT_INVALID_ARGUMENT, "sequence_lens has the shape %s instead of [%llu]",
                        eie_dims_text(tensor.dims, tensor.rank, text), (unsigned long long)io->batch);
    }
    io->sequence_lengths = tensor.data;
    for (uint64_t i = 0; i < io->batch; i++) {
        if (io->sequence_lengths[i] < 0 || (uint64_t)io->sequence_lengths[i] > io->time) {
            return eie_fail(kernel, ORT_INVALID_ARGUMENT, "sequence_lens has the value %d, and X has %llu steps",
                            io->sequence_lengths[i], (unsigned long long)io->time);
        }
    }
    return NULL;
}

/* Reads the inputs into `io`; `state` gets the shape of the initial and final states. */
static OrtStatus *inputs(const eie_kernel *kernel, const OrtKernelContext *context, eie_recurrent_io *io, int64_t state[3]) {
    const eie_recurrent_params *p = &kernel->attributes.recurrent.params;
    eie_tensor x;
    OrtStatus *status = eie_input(kernel, context, 0, "X", ORT_FLOAT, &x, NULL);
    if (status == NULL) status = check(kernel, &x);
    if (status != NULL) return status;
    int64_t directions = (int64_t)directions_of(kernel), hidden = (int64_t)p->hidden, gates = p->cell == EIE_LSTM ? 4 : 3;
    io->x = x.data;
    io->time = (uint64_t)x.dims[p->layout];
    io->batch = (uint64_t)x.dims[1 - p->layout];
    state[p->layout] = directions;
    state[1 - p->layout] = (int64_t)io->batch;
    state[2] = hidden;
    status = eie_optional_floats(kernel, context, 3, "bias", (int64_t[]){directions, 2 * gates * hidden}, 2, &io->bias);
    if (status == NULL) status = lengths(kernel, context, io);
    if (status == NULL) status = eie_optional_floats(kernel, context, 5, "initial_h", state, 3, &io->initial_h);
    if (status != NULL || p->cell != EIE_LSTM) return status;
    status = eie_optional_floats(kernel, context, 6, "initial_c", state, 3, &io->initial_c);
    if (status != NULL) return status;
    return eie_optional_floats(kernel, context, 7, "peephole", (int64_t[]){directions, 3 * hidden}, 2, &io->peephole);
}

static OrtStatus *run(const eie_kernel *kernel, OrtKernelContext *context) {
    const eie_recurrent_params *p = &kernel->attributes.recurrent.params;
    eie_recurrent_io io = {.x = NULL};
    int64_t state[3];
    OrtStatus *status = inputs(kernel, context, &io, state);
    if (status != NULL) return status;
    int64_t time = (int64_t)io.time, batch = (int64_t)io.batch, directions = (int64_t)directions_of(kernel);
    int64_t all[4] = {time, directions, batch, state[2]};
    if (p->layout) memcpy(all, (int64_t[]){batch, time, directions, state[2]}, sizeof all);
    void *out[3] = {NULL, NULL, NULL};
    status = eie_output(kernel, context, 0, all, 4, &out[0], NULL);
    if (status == NULL) status = eie_output(kernel, context, 1, state, 3, &out[1], NULL);
    if (status == NULL && p->cell == EIE_LSTM) status = eie_output(kernel, context, 2, state, 3, &out[2], NULL);
    if (status != NULL || batch == 0) return status;
    io.y = out[0];
    io.y_h = out[1];
    io.y_c = out[2];
    eie_pool pool;
    eie_parallel threads = eie_ort_threads(&pool, kernel, context);
    return eie_finish(kernel, eie_recurrent_run(kernel->layer, &io, &threads), &pool);
}

#define RECURRENT .required = 3, .payload = 1, .payloads = 2, .computes = true, .output_type = ORT_FLOAT,          \
    .input_types = {ORT_FLOAT, ORT_UINT8, ORT_UINT8, ORT_FLOAT, ORT_INT32, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT},     \
    .attributes = attributes, .pack = pack, .check = check, .run = run

const eie_op eie_op_lstm = {.name = "LSTM", .inputs = 8, .outputs = 3, RECURRENT};
const eie_op eie_op_gru = {.name = "GRU", .inputs = 6, .outputs = 2, RECURRENT};
