/* Sizes of convolutions: ONNX's rules for padding and output shapes, and the coordinates behind them. */
#include <stdlib.h>

#include "ops/conv.h"

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

eie_status eie_conv_axis_init(eie_conv_axis *a, size_t kernel, int64_t stride, int64_t dilation, bool transposed) {
    a->kernel = kernel;
    a->stride = stride;
    a->dilation = dilation;
    a->step = transposed ? 1 : stride;
    a->phases = transposed ? (size_t)stride : 1;
    if (kernel > SIZE_MAX / 32) return EIE_E_SHAPE;
    a->shift = calloc(kernel + 1, sizeof *a->shift);
    a->column = calloc(kernel + 1, sizeof *a->column);
    if (a->shift == NULL || a->column == NULL) return EIE_E_MEMORY;
    a->reach = (int64_t)(kernel - 1) * dilation / (transposed ? stride : 1);
    for (size_t i = 0; i < kernel; i++) { /* ConvTranspose: from the last tap, whose shift is the least */
        const size_t k = transposed ? kernel - 1 - i : i;
        const int64_t shift = transposed ? a->reach - (int64_t)k * dilation / stride : (int64_t)k * dilation;
        if (a->columns == 0 || a->shift[a->columns - 1] != shift) a->shift[a->columns++] = shift;
        a->column[k] = a->columns - 1;
    }
    return EIE_OK;
}

size_t eie_conv_slot(const eie_conv_axis *a, size_t column, size_t *slots) {
    size_t found = 0;
    *slots = 0;
    for (size_t c = 0; c < a->columns; c++) { /* shifts ascend: a phase is new where no earlier column has it */
        size_t before = 0;
        while (before < c && a->shift[before] % a->step != a->shift[c] % a->step) before++;
        if (before == c) {
            if (a->shift[c] % a->step == a->shift[column] % a->step) found = *slots;
            ++*slots;
        }
    }
    return found;
}

size_t eie_conv_copy(const eie_conv_axis *a, size_t span, size_t column, size_t *within, size_t *copies) {
    const int64_t n = (int64_t)span * a->step; /* shifts of a phase that a copy serves lie in a range of this many */
    size_t found = 0;
    *copies = 0;
    for (size_t c = 0; c < a->columns; c++) {
        size_t before = 0;
        while (before < c && (a->shift[before] % a->step != a->shift[c] % a->step || a->shift[before] / n != a->shift[c] / n)) before++;
        if (before == c) {
            if (a->shift[c] % a->step == a->shift[column] % a->step && a->shift[c] / n == a->shift[column] / n) found = *copies;
            ++*copies;
        }
    }
    *within = (size_t)(a->shift[column] % n / a->step);
    return found;
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
    size->in_size = size->out_size = size->positions = 1;
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
        size->base[i] = -size->begin[i];
        if (c->params.transposed) {
            size->lowest[i] = floor_div(size->begin[i], a->stride);
            size->domain[i] = floor_div(size->out[i] - 1 + size->begin[i], a->stride) - size->lowest[i] + 1;
            size->base[i] = size->lowest[i] - a->reach;
        }
        if (!eie_multiply(size->in_size, (size_t)size->in[i], &size->in_size) || !eie_multiply(size->out_size, (size_t)size->out[i], &size->out_size) ||
            !eie_multiply(size->positions, (size_t)size->domain[i], &size->positions)) {
            return EIE_E_UNSUPPORTED;
        }
    }
    size_t bytes; /* everything can be addressed */
    if (!eie_multiply(size->in_size, c->in_channels + 4 * c->group, &bytes) || bytes > PTRDIFF_MAX / 8) return EIE_E_UNSUPPORTED;
    if (!eie_multiply(size->out_size, c->out_channels, &bytes) || bytes > PTRDIFF_MAX / 8 || size->positions > PTRDIFF_MAX / 8) return EIE_E_UNSUPPORTED;
    return EIE_OK;
}
