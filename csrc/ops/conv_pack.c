/* Convolution layers: from a weight and its parameters to the rows the kernels take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"
#include "ops/conv.h"

static void conv_free(eie_layer *layer) {
    eie_conv *c = (eie_conv *)layer;
    for (int i = 0; i < EIE_AXES; i++) {
        free(c->axis[i].phase);
        free(c->axis[i].tap_phase);
        free(c->axis[i].tap_shift);
    }
    free(c->first);
    free(c->place);
    free(c->value);
    free(c->row_sums);
    free(c);
}

static eie_status check_params(const eie_weight *w, const eie_conv_params *p) {
    int64_t phases = 1;
    if (p->spatial < 1 || p->spatial > EIE_AXES || w->rank != p->spatial + 2) return EIE_E_SHAPE;
    if (p->group < 1 || p->group > INT32_MAX || w->dims[0] % p->group != 0) return EIE_E_SHAPE;
    if (p->auto_pad < EIE_PAD_EXPLICIT || p->auto_pad > EIE_PAD_VALID) return EIE_E_ARGUMENT;
    for (uint32_t i = 0; i < w->rank; i++) {
        if (w->dims[i] < 1 || w->dims[i] > INT32_MAX) return EIE_E_SHAPE;
    }
    for (uint32_t i = 0; i < p->spatial; i++) {
        const int64_t all[] = {p->strides[i], p->dilations[i], p->pads[i], p->pads[i + p->spatial], p->output_padding[i], p->output_shape[i]};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
            if (all[k] < (k < 2) || all[k] >= INT32_MAX) return EIE_E_ARGUMENT; /* strides and dilations from 1 */
        }
        phases = phases > 1 << 16 ? phases : phases * p->strides[i];
    }
    return p->transposed && phases > 1 << 16 ? EIE_E_UNSUPPORTED : EIE_OK;
}

static eie_status init_axes(eie_conv *c, const eie_weight *w) {
    const eie_conv_params *p = &c->params;
    const uint32_t missing = EIE_AXES - p->spatial;
    size_t phases = 1;
    c->taps = 1;
    for (uint32_t i = 0; i < EIE_AXES; i++) {
        const bool here = i >= missing;
        const size_t kernel = here ? (size_t)w->dims[2 + i - missing] : 1;
        const eie_status status = eie_conv_axis_init(&c->axis[i], kernel, here ? p->strides[i - missing] : 1, here ? p->dilations[i - missing] : 1,
                                                     p->transposed);
        if (status != EIE_OK) return status;
        if (!eie_multiply(c->taps, kernel, &c->taps)) return EIE_E_SHAPE;
        if (p->transposed) phases *= c->axis[i].phases;
    }
    c->group = (size_t)p->group;
    c->in_channels = (size_t)(p->transposed ? w->dims[0] : w->dims[1] * p->group);
    c->out_channels = (size_t)(p->transposed ? w->dims[1] * p->group : w->dims[0]);
    size_t places;
    if (!eie_multiply(c->in_channels / c->group, c->taps, &places) || places > UINT32_MAX) return EIE_E_UNSUPPORTED;
    return eie_multiply(c->out_channels, phases, &c->rows) && c->rows < SIZE_MAX / 16 ? EIE_OK : EIE_E_UNSUPPORTED;
}

/* The row and the place of the weight at dims [a, b, tap]. */
static void locate(const eie_conv *c, size_t a, size_t b, size_t tap, size_t *row, size_t *place) {
    if (!c->params.transposed) {
        *row = a;
        *place = b * c->taps + tap;
        return;
    }
    const size_t z = tap / (c->axis[1].kernel * c->axis[2].kernel), y = tap / c->axis[2].kernel % c->axis[1].kernel, x = tap % c->axis[2].kernel;
    const size_t phase = (c->axis[0].tap_phase[z] * c->axis[1].phases + c->axis[1].tap_phase[y]) * c->axis[2].phases + c->axis[2].tap_phase[x];
    const size_t phases = c->axis[0].phases * c->axis[1].phases * c->axis[2].phases, channels = c->in_channels / c->group;
    *row = (a / channels * (c->out_channels / c->group) + b) * phases + phase;
    *place = a % channels * c->taps + tap;
}

/* Values of the codes: float, or int16 for both integer formats. */
typedef struct {
    float f[256];
    int16_t w[256];
} eie_values;

static void quantize_values(eie_conv *c, const eie_weight *w, eie_values *values) {
    memcpy(values->f, w->codebook, w->codebook_size * sizeof(float));
    if (c->format == EIE_I16) eie_codebook_i16(w->codebook, w->codebook_size, values->w, &c->exponent);
    if (c->format == EIE_U8) {
        int8_t bytes[256];
        eie_codebook_u8(w->codebook, w->codebook_size, bytes, &c->step);
        for (uint32_t i = 0; i < w->codebook_size; i++) values->w[i] = bytes[i];
    }
}

/* Counts entries of each row into first[row + 1], and makes starts of them; integer rows get an even count. */
static eie_status count_rows(eie_conv *c, const eie_weight *w, size_t *entries) {
    c->first = calloc(c->rows + 2, sizeof *c->first);
    if (c->first == NULL) return EIE_E_MEMORY;
    const uint8_t *code = w->codes;
    for (size_t a = 0; a < w->dims[0]; a++) {
        for (size_t b = 0; b < w->dims[1]; b++) {
            for (size_t tap = 0; tap < c->taps; tap++) {
                size_t row, place;
                if (*code++ == 0) continue;
                locate(c, a, b, tap, &row, &place);
                c->first[row + 1]++;
            }
        }
    }
    for (size_t r = 0; r < c->rows; r++) {
        if (c->format != EIE_F32) c->first[r + 1] += c->first[r + 1] & 1;
        c->first[r + 1] += c->first[r];
    }
    *entries = c->first[c->rows];
    return EIE_OK;
}

static eie_status fill_rows(eie_conv *c, const eie_weight *w, const eie_values *values, size_t entries) {
    const size_t item = c->format == EIE_F32 ? sizeof(float) : sizeof(int16_t);
    size_t *next = malloc((c->rows + 1) * sizeof *next);
    c->place = calloc(entries + 1, sizeof *c->place);
    c->value = calloc(entries + 1, item);
    c->row_sums = c->format == EIE_U8 ? calloc(c->rows + 1, sizeof *c->row_sums) : NULL;
    if (next == NULL || c->place == NULL || c->value == NULL || (c->format == EIE_U8 && c->row_sums == NULL)) {
        free(next);
        return EIE_E_MEMORY;
    }
    memcpy(next, c->first, c->rows * sizeof *next);
    const uint8_t *code = w->codes;
    for (size_t a = 0; a < w->dims[0]; a++) {
        for (size_t b = 0; b < w->dims[1]; b++) {
            for (size_t tap = 0; tap < c->taps; tap++, code++) {
                size_t row, place;
                if (*code == 0) continue;
                locate(c, a, b, tap, &row, &place);
                const size_t e = next[row]++;
                c->place[e] = (uint32_t)place;
                if (c->format == EIE_F32) ((float *)c->value)[e] = values->f[*code];
                else ((int16_t *)c->value)[e] = values->w[*code];
                if (c->format == EIE_U8) c->row_sums[row] += values->w[*code];
            }
        }
    }
    for (size_t r = 0; r < c->rows; r++) { /* the entry that makes a count even: any place of the row, weight 0 */
        if (next[r] < c->first[r + 1]) c->place[next[r]] = c->place[next[r] - 1];
    }
    free(next);
    c->base.bytes = entries * (sizeof *c->place + item) + (c->rows + 1) * sizeof *c->first;
    return EIE_OK;
}

eie_status eie_conv_create(const eie_weight *weight, const eie_conv_params *params, eie_format format, eie_layer **layer) {
    static const eie_kernel_kind kinds[] = {EIE_CONV_F32, EIE_CONV_I16, EIE_CONV_U8};
    size_t elements, entries = 0;
    *layer = NULL;
    if ((int)format < EIE_F32 || format > EIE_U8 || params == NULL) return EIE_E_ARGUMENT;
    eie_status status = eie_weight_check(weight, &elements);
    if (status == EIE_OK) status = check_params(weight, params);
    if (status != EIE_OK) return status;
    eie_conv *c = calloc(1, sizeof *c);
    if (c == NULL) return EIE_E_MEMORY;
    c->base.kind = EIE_LAYER_CONV;
    c->base.free = conv_free;
    c->params = *params;
    c->format = format;
    c->kernel = eie_kernel_find(kinds[format], weight->codebook_size);
    snprintf(c->base.kernel, sizeof c->base.kernel, "%s", c->kernel->name);
    eie_values values;
    quantize_values(c, weight, &values);
    status = init_axes(c, weight);
    if (status == EIE_OK) status = count_rows(c, weight, &entries);
    if (status == EIE_OK) status = fill_rows(c, weight, &values, entries);
    if (status != EIE_OK) {
        conv_free(&c->base);
        return status;
    }
    *layer = &c->base;
    return EIE_OK;
}
