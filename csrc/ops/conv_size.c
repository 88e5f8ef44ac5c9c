/* Sizes of convolutions: ONNX's rules for padding and output shapes, and the planes behind them. */
#include <stdlib.h>

#include "ops/conv.h"

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

eie_status eie_conv_axis_init(eie_conv_axis *a, size_t kernel, int64_t stride, int64_t dilation, bool transposed) {
    a->kernel = kernel;
    a->stride = stride;
    a->dilation = dilation;
    const size_t most = transposed ? (size_t)stride : kernel;
    if (most > SIZE_MAX / 16 || kernel > SIZE_MAX / 16) return EIE_E_SHAPE;
    a->phase = calloc(most + 1, sizeof *a->phase);
    a->tap_phase = calloc(kernel + 1, sizeof *a->tap_phase);
    a->tap_shift = calloc(kernel + 1, sizeof *a->tap_shift);
    if (a->phase == NULL || a->tap_phase == NULL || a->tap_shift == NULL) return EIE_E_MEMORY;
    if (transposed) {
        a->phases = (size_t)stride;
        for (size_t p = 0; p < a->phases; p++) a->phase[p] = (int64_t)p;
    }
    for (size_t k = 0; k < kernel; k++) {
        const int64_t at = (int64_t)k * dilation, phase = at % stride;
        size_t p = transposed ? (size_t)phase : 0;
        while (!transposed && p < a->phases && a->phase[p] != phase) p++;
        if (p == a->phases) a->phase[a->phases++] = phase;
        a->tap_phase[k] = p;
        a->tap_shift[k] = at / stride;
        a->reach = a->tap_shift[k];
    }
    return EIE_OK;
}

/* Padding and output size of one axis; in, out: positions. */
static eie_status conv_axis(const eie_conv_params *p, const eie_conv_axis *a, uint32_t s, int64_t in, int64_t *begin, int64_t *out) {
    const int64_t span = (int64_t)(a->kernel - 1) * a->dilation + 1;
    int64_t before = p->pads[s], after = p->pads[s + p->spatial];
    if (p->auto_pad == EIE_PAD_VALID) before = after = 0;
    if (p->auto_pad == EIE_PAD_SAME_UPPER || p->auto_pad == EIE_PAD_SAME_LOWER) {
        const int64_t want = (in + a->stride - 1) / a->stride;
        const int64_t total = (want - 1) * a->stride + span - in;
        const int64_t small = total > 0 ? total / 2 : 0, large = total > 0 ? total - small : 0;
        before = p->auto_pad == EIE_PAD_SAME_UPPER ? small : large;
        after = p->auto_pad == EIE_PAD_SAME_UPPER ? large : small;
    }
    const int64_t room = in + before + after - span;
    if (room < 0) return EIE_E_SHAPE;
    *begin = before;
    *out = room / a->stride + 1;
    return EIE_OK;
}

static eie_status transposed_axis(const eie_conv_params *p, const eie_conv_axis *a, uint32_t s, int64_t in, int64_t *begin, int64_t *out) {
    const int64_t span = (int64_t)(a->kernel - 1) * a->dilation + 1, full = (in - 1) * a->stride + p->output_padding[s] + span;
    int64_t before = p->pads[s], after = p->pads[s + p->spatial];
    bool wanted = false;
    for (uint32_t i = 0; i < p->spatial; i++) wanted |= p->output_shape[i] != 0;
    if (p->auto_pad == EIE_PAD_VALID && !wanted) before = after = 0;
    if (wanted || p->auto_pad == EIE_PAD_SAME_UPPER || p->auto_pad == EIE_PAD_SAME_LOWER) {
        const int64_t target = wanted ? p->output_shape[s] : in * a->stride;
        const int64_t total = full - target > 0 ? full - target : 0;
        const int64_t small = total / 2, large = total - small;
        before = p->auto_pad == EIE_PAD_SAME_UPPER ? small : large;
        after = p->auto_pad == EIE_PAD_SAME_UPPER ? large : small;
        *out = wanted ? target : full - total; /* SAME never makes it larger than the kernel reaches, as in ONNX Runtime */
        *begin = before;
        return *out < 1 ? EIE_E_SHAPE : EIE_OK;
    }
    *begin = before;
    *out = full - before - after;
    return *out < 1 ? EIE_E_SHAPE : EIE_OK;
}

eie_status eie_conv_measure(const eie_conv *c, const int64_t *in, eie_conv_size *size) {
    const uint32_t spatial = c->params.spatial, missing = EIE_AXES - spatial;
    const int64_t limit = INT32_MAX;
    if (in[0] != (int64_t)c->in_channels) return EIE_E_SHAPE;
    size->plane_size = size->planes = 1;
    for (uint32_t i = 0; i < EIE_AXES; i++) {
        const eie_conv_axis *a = &c->axis[i];
        size->in[i] = size->out[i] = 1;
        size->begin[i] = size->lowest[i] = 0;
        if (i >= missing) {
            const uint32_t s = i - missing;
            size->in[i] = in[1 + s];
            if (size->in[i] < 1 || size->in[i] > limit) return EIE_E_SHAPE;
            const eie_status status = c->params.transposed ? transposed_axis(&c->params, a, s, size->in[i], &size->begin[i], &size->out[i])
                                                           : conv_axis(&c->params, a, s, size->in[i], &size->begin[i], &size->out[i]);
            if (status != EIE_OK) return status;
            if (size->out[i] > limit || size->begin[i] > limit) return EIE_E_UNSUPPORTED;
        }
        size->domain[i] = size->out[i];
        if (c->params.transposed) {
            size->lowest[i] = floor_div(size->begin[i], a->stride);
            size->domain[i] = floor_div(size->out[i] - 1 + size->begin[i], a->stride) - size->lowest[i] + 1;
        } else if (!eie_multiply(size->planes, a->phases, &size->planes)) {
            return EIE_E_UNSUPPORTED;
        }
        size->plane[i] = size->domain[i] + a->reach;
        if (!eie_multiply(size->plane_size, (size_t)size->plane[i], &size->plane_size)) return EIE_E_UNSUPPORTED;
    }
    size->length = (size_t)(((size->domain[0] - 1) * size->plane[1] + size->domain[1] - 1) * size->plane[2] + size->domain[2]);
    size_t all; /* places are 32 bits, and shifts reach past a plane */
    if (!eie_multiply(size->plane_size, size->planes, &all) || !eie_multiply(all, c->in_channels / c->group, &all) || all > UINT32_MAX / 2) {
        return EIE_E_UNSUPPORTED;
    }
    return EIE_OK;
}
