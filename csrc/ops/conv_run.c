/* Running a convolution layer: ops/conv.h says what is computed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"
#include "ops/conv.h"

enum {
    TILE = 224,     /* positions at a time: the registers' worth of one pass of the widest kernel */
    TASK_ROWS = 16, /* rows a task: they share a tile of the input while it is in cache */
};

typedef struct {
    const eie_conv *conv;
    eie_conv_size size;
    const void *x;        /* the sample, [in_channels, positions]: float, or quantized uint8 or int16 */
    void *planes;         /* [in_channels, planes, plane_size]: float or int16 */
    size_t channel_size;  /* planes * plane_size */
    const uint32_t *offset; /* [entries] */
    const float *bias;
    float *y;
    int32_t zero;         /* u8: what padding holds */
    float factor;         /* u8 */
    double power;         /* i16 */
    size_t tiles, chunks;
} eie_conv_call;

eie_status eie_conv_output_dims(const eie_layer *layer, const int64_t *in, int64_t *out) {
    if (layer == NULL || layer->kind != EIE_LAYER_CONV) return EIE_E_ARGUMENT;
    const eie_conv *c = (const eie_conv *)layer;
    eie_conv_size size;
    const eie_status status = eie_conv_measure(c, in, &size);
    if (status != EIE_OK) return status;
    out[0] = (int64_t)c->out_channels;
    for (uint32_t s = 0; s < c->params.spatial; s++) out[1 + s] = size.out[EIE_AXES - c->params.spatial + s];
    return EIE_OK;
}

/* ---- input --------------------------------------------------------------------------------------------------------- */

/* The input coordinate of position j of a plane, on one axis; outside the input: padding. */
static int64_t coordinate(const eie_conv_call *call, int axis, int64_t phase, int64_t j) {
    const eie_conv_axis *a = &call->conv->axis[axis];
    if (call->conv->params.transposed) return j - a->reach + call->size.lowest[axis];
    return j * a->stride + phase - call->size.begin[axis];
}

/* One line of a plane: from is the input's line, or NULL where all is padding. */
static void copy_line(const eie_conv_call *call, int64_t phase, size_t from, bool padding, size_t to) {
    const eie_conv *c = call->conv;
    const int64_t width = call->size.plane[2], in = call->size.in[2], step = c->params.transposed ? 1 : c->axis[2].stride;
    const int64_t start = coordinate(call, 2, phase, 0);
    /* positions [first, last) are inside the input */
    int64_t first = start < 0 ? (-start + step - 1) / step : 0;
    int64_t last = start < in ? (in - 1 - start) / step + 1 : 0;
    first = padding || first > width ? width : first;
    last = padding ? width : last > width ? width : last < first ? first : last;
    if (c->format == EIE_F32) {
        float *line = (float *)call->planes + to;
        const float *x = (const float *)call->x + from;
        for (int64_t j = 0; j < first; j++) line[j] = 0;
        if (step == 1) memcpy(line + first, x + start + first, (size_t)(last - first) * sizeof *line);
        else for (int64_t j = first; j < last; j++) line[j] = x[start + j * step];
        for (int64_t j = last; j < width; j++) line[j] = 0;
        return;
    }
    int16_t *line = (int16_t *)call->planes + to;
    const int16_t pad = (int16_t)call->zero;
    for (int64_t j = 0; j < first; j++) line[j] = pad;
    if (c->format == EIE_I16) {
        const int16_t *x = (const int16_t *)call->x + from;
        if (step == 1) memcpy(line + first, x + start + first, (size_t)(last - first) * sizeof *line);
        else for (int64_t j = first; j < last; j++) line[j] = x[start + j * step];
    } else {
        const uint8_t *x = (const uint8_t *)call->x + from;
        if (step == 1) for (int64_t j = first; j < last; j++) line[j] = x[start + j];
        else for (int64_t j = first; j < last; j++) line[j] = x[start + j * step];
    }
    for (int64_t j = last; j < width; j++) line[j] = pad;
}

static void copy_channel(void *context, size_t channel) {
    const eie_conv_call *call = context;
    const eie_conv_axis *axis = call->conv->axis;
    const bool transposed = call->conv->params.transposed;
    const int64_t *in = call->size.in, *plane = call->size.plane;
    const size_t phases[EIE_AXES] = {transposed ? 1 : axis[0].phases, transposed ? 1 : axis[1].phases, transposed ? 1 : axis[2].phases};
    size_t to = channel * call->channel_size;
    for (size_t pz = 0; pz < phases[0]; pz++) {
        for (size_t py = 0; py < phases[1]; py++) {
            for (size_t px = 0; px < phases[2]; px++) {
                for (int64_t z = 0; z < plane[0]; z++) {
                    const int64_t iz = coordinate(call, 0, axis[0].phase[pz], z);
                    for (int64_t y = 0; y < plane[1]; y++, to += (size_t)plane[2]) {
                        const int64_t iy = coordinate(call, 1, axis[1].phase[py], y);
                        const bool padding = iz < 0 || iz >= in[0] || iy < 0 || iy >= in[1];
                        const size_t line = padding ? 0 : ((channel * (size_t)in[0] + (size_t)iz) * (size_t)in[1] + (size_t)iy) * (size_t)in[2];
                        copy_line(call, axis[2].phase[px], line, padding, to);
                    }
                }
            }
        }
    }
}

/* Where the activations of each entry lie, relative to their group's planes. */
static eie_status make_offsets(const eie_conv *c, const eie_conv_size *size, uint32_t **offsets) {
    const size_t channels = c->in_channels / c->group, entries = c->first[c->rows];
    uint32_t *table = malloc((channels * c->taps + 1) * sizeof *table);
    *offsets = malloc((entries + 1) * sizeof **offsets);
    if (table == NULL || *offsets == NULL) {
        free(table);
        free(*offsets);
        *offsets = NULL;
        return EIE_E_MEMORY;
    }
    const eie_conv_axis *a = c->axis;
    for (size_t channel = 0; channel < channels; channel++) {
        for (size_t tap = 0; tap < c->taps; tap++) {
            const size_t k[EIE_AXES] = {tap / (a[1].kernel * a[2].kernel), tap / a[2].kernel % a[1].kernel, tap % a[2].kernel};
            size_t phase = 0, shift = 0;
            for (int i = 0; i < EIE_AXES; i++) {
                const int64_t s = a[i].tap_shift[k[i]];
                shift = shift * (size_t)size->plane[i] + (size_t)(c->params.transposed ? a[i].reach - s : s);
                if (!c->params.transposed) phase = phase * a[i].phases + a[i].tap_phase[k[i]];
            }
            table[channel * c->taps + tap] = (uint32_t)((channel * size->planes + phase) * size->plane_size + shift);
        }
    }
    for (size_t e = 0; e < entries; e++) (*offsets)[e] = table[c->place[e]];
    free(table);
    return EIE_OK;
}

/* ---- output -------------------------------------------------------------------------------------------------------- */

/* Value j goes to place start + j * step of a line, where that is inside; plus the bias, if any. */
static void put_line(float *to, int64_t width, int64_t start, int64_t step, const float *values, int64_t n, const float *bias) {
    int64_t first = start < 0 ? (-start + step - 1) / step : 0;
    int64_t last = start < width ? (width - 1 - start) / step + 1 : 0;
    last = last < n ? last : n;
    if (step == 1 && bias == NULL) {
        if (first < last) memcpy(to + start + first, values + first, (size_t)(last - first) * sizeof *to);
    } else if (step == 1) {
        const float add = *bias;
        for (float *at = to + start; first < last; first++) at[first] = values[first] + add;
    } else {
        for (; first < last; first++) to[start + first * step] = bias != NULL ? values[first] + *bias : values[first];
    }
}

/* Copies positions [from, from + n) of a row to the output. */
static void put_row(const eie_conv_call *call, size_t row, size_t from, size_t n, const float *values) {
    const eie_conv *c = call->conv;
    const int64_t *plane = call->size.plane, *domain = call->size.domain, *out = call->size.out;
    const size_t phases = c->params.transposed ? c->axis[0].phases * c->axis[1].phases * c->axis[2].phases : 1;
    const size_t channel = row / phases;
    int64_t phase[EIE_AXES] = {0, 0, 0}, step[EIE_AXES] = {1, 1, 1}, base[EIE_AXES] = {0, 0, 0};
    size_t rest = row % phases;
    for (int i = EIE_AXES - 1; c->params.transposed && i >= 0; i--) {
        phase[i] = (int64_t)(rest % c->axis[i].phases);
        rest /= c->axis[i].phases;
        step[i] = c->axis[i].stride;
        base[i] = call->size.lowest[i] * step[i] + phase[i] - call->size.begin[i];
    }
    float *y = call->y + channel * (size_t)(out[0] * out[1] * out[2]);
    const float bias = call->bias != NULL ? call->bias[channel] : 0;
    for (size_t done = 0; done < n;) {
        const int64_t at = (int64_t)(from + done), qx = at % plane[2], qy = at / plane[2] % plane[1], qz = at / plane[2] / plane[1];
        const size_t line = (size_t)(plane[2] - qx) < n - done ? (size_t)(plane[2] - qx) : n - done; /* up to the end of the line */
        const int64_t oz = qz * step[0] + base[0], oy = qy * step[1] + base[1];
        if (qz < domain[0] && qy < domain[1] && oz >= 0 && oz < out[0] && oy >= 0 && oy < out[1]) {
            put_line(y + (oz * out[1] + oy) * out[2], out[2], qx * step[2] + base[2], step[2], values + done,
                     (int64_t)line < domain[2] - qx ? (int64_t)line : domain[2] - qx, call->bias != NULL ? &bias : NULL);
        }
        done += line;
    }
}

/* One row on n positions, n <= TILE, a multiple of EIE_LANES; x: the row's group, at the tile. */
static void compute_row(const eie_conv_call *call, size_t row, const void *x, size_t n, float *values) {
    const eie_conv *c = call->conv;
    const size_t begin = c->first[row], count = c->first[row + 1] - begin;
    eie_conv_kernel *run = (eie_conv_kernel *)c->kernel->run;
    if (c->format == EIE_F32) {
        run(call->offset + begin, (const float *)c->value + begin, count, x, n, values);
        return;
    }
    int64_t sums[TILE];
    const int16_t *value = (const int16_t *)c->value + begin;
    if (c->format == EIE_I16) {
        run(call->offset + begin, value, count, x, n, sums);
        for (size_t i = 0; i < n; i++) values[i] = eie_scale_i16(sums[i], call->power);
        return;
    }
    int32_t part[TILE];
    const int64_t correction = -(int64_t)call->zero * c->row_sums[row];
    for (size_t i = 0; i < n; i++) sums[i] = correction;
    for (size_t e = 0; e < count; e += EIE_PANEL) {
        run(call->offset + begin + e, value + e, count - e < EIE_PANEL ? count - e : EIE_PANEL, x, n, part);
        for (size_t i = 0; i < n; i++) sums[i] += part[i];
    }
    for (size_t i = 0; i < n; i++) values[i] = eie_scale_u8(sums[i], call->factor);
}

static void compute(void *context, size_t i) {
    const eie_conv_call *call = context;
    const eie_conv *c = call->conv;
    const size_t from = i / call->chunks * TILE, first = i % call->chunks * TASK_ROWS;
    const size_t last = first + TASK_ROWS < c->rows ? first + TASK_ROWS : c->rows;
    const size_t n = call->size.length - from < TILE ? call->size.length - from : TILE;
    const size_t rounded = (n + EIE_LANES - 1) / EIE_LANES * EIE_LANES, item = c->format == EIE_F32 ? sizeof(float) : sizeof(int16_t);
    const size_t rows_per_group = c->rows / c->group, group_size = c->in_channels / c->group * call->channel_size;
    float values[TILE];
    for (size_t row = first; row < last; row++) {
        const uint8_t *x = (const uint8_t *)call->planes + (row / rows_per_group * group_size + from) * item;
        compute_row(call, row, x, rounded, values);
        put_row(call, row, from, n, values);
    }
}

/* ---- a batch ------------------------------------------------------------------------------------------------------- */

/* Quantizes a sample into `buffer`; false: it is not finite. */
static bool quantize(eie_conv_call *call, const float *x, size_t n, void *buffer) {
    const eie_conv *c = call->conv;
    call->x = buffer;
    if (c->format == EIE_I16) {
        int32_t exponent;
        if (!((eie_quantize_i16_kernel *)eie_kernel_find(EIE_QUANTIZE_I16, 0)->run)(x, n, buffer, &exponent)) return false;
        call->power = ldexp(1.0, -(exponent + c->exponent));
        return true;
    }
    float scale;
    if (!((eie_quantize_u8_kernel *)eie_kernel_find(EIE_QUANTIZE_U8, 0)->run)(x, n, buffer, &scale, &call->zero)) return false;
    call->factor = scale * c->step;
    return true;
}

static void run_batch(eie_conv_call *call, const float *x, uint64_t n, float *y, void *quantized, const eie_parallel *parallel) {
    const eie_conv *c = call->conv;
    const size_t in = c->in_channels * (size_t)(call->size.in[0] * call->size.in[1] * call->size.in[2]);
    const size_t out = c->out_channels * (size_t)(call->size.out[0] * call->size.out[1] * call->size.out[2]);
    for (uint64_t b = 0; b < n; b++, x += in, y += out) {
        call->x = x;
        call->y = y;
        if (c->format != EIE_F32 && !quantize(call, x, in, quantized)) {
            for (size_t i = 0; i < out; i++) y[i] = NAN;
            continue;
        }
        eie_for(parallel, c->in_channels, copy_channel, call);
        eie_for(parallel, call->tiles * call->chunks, compute, call);
    }
}

eie_status eie_conv_run(const eie_layer *layer, const float *x, uint64_t n, const int64_t *in, const float *bias, float *y,
                        const eie_parallel *parallel) {
    if (layer == NULL || layer->kind != EIE_LAYER_CONV) return EIE_E_ARGUMENT;
    const eie_conv *c = (const eie_conv *)layer;
    eie_conv_call call = {.conv = c, .bias = bias};
    eie_status status = eie_conv_measure(c, in, &call.size);
    if (status != EIE_OK || n == 0) return status;
    const size_t item = c->format == EIE_F32 ? sizeof(float) : sizeof(int16_t);
    const size_t positions = (size_t)(call.size.in[0] * call.size.in[1] * call.size.in[2]);
    size_t bytes, held = 0;
    call.channel_size = call.size.planes * call.size.plane_size;
    call.tiles = (call.size.length + TILE - 1) / TILE;
    call.chunks = (c->rows + TASK_ROWS - 1) / TASK_ROWS;
    if (!eie_multiply(c->in_channels, call.channel_size, &bytes) || bytes > SIZE_MAX / 16 || !eie_multiply(c->in_channels, positions, &held)) {
        return EIE_E_MEMORY;
    }
    uint32_t *offset = NULL;
    status = make_offsets(c, &call.size, &offset);
    if (status != EIE_OK) return status;
    call.offset = offset;
    call.planes = malloc((bytes + EIE_LANES) * item);
    void *quantized = c->format == EIE_F32 ? NULL : malloc(held * sizeof(int16_t));
    if (call.planes == NULL || (c->format != EIE_F32 && quantized == NULL)) {
        status = EIE_E_MEMORY;
    } else {
        memset((uint8_t *)call.planes + bytes * item, 0, EIE_LANES * item);
        run_batch(&call, x, n, y, quantized, parallel);
    }
    free(offset);
    free(call.planes);
    free(quantized);
    return status;
}
