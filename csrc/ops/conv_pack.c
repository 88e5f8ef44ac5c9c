/* Convolution layers: from a weight and its parameters to the rows the kernels take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"
#include "ops/conv.h"

static void conv_free(eie_layer *layer) {
    eie_conv *c = (eie_conv *)layer;
    for (int i = 0; i < EIE_AXES; i++) {
        free(c->axis[i].shift);
        free(c->axis[i].column);
    }
    free(c->first);
    free(c->row);
    free(c->flat);
    free(c->stacked);
    free(c->weight);
    free(c->row_sums);
    free(c->fits);
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
    c->taps = c->phases = 1;
    c->pointwise = true;
    for (uint32_t i = 0; i < EIE_AXES; i++) {
        const bool here = i >= missing;
        const size_t kernel = here ? (size_t)w->dims[2 + i - missing] : 1;
        const eie_status status = eie_conv_axis_init(&c->axis[i], kernel, here ? p->strides[i - missing] : 1, here ? p->dilations[i - missing] : 1,
                                                     p->transposed);
        if (status != EIE_OK) return status;
        if (!eie_multiply(c->taps, kernel, &c->taps)) return EIE_E_SHAPE;
        c->phases *= c->axis[i].phases;
        c->pointwise &= kernel == 1 && c->axis[i].stride == 1;
        if (here) c->pointwise &= p->pads[i - missing] == 0 && p->pads[i - missing + p->spatial] == 0 && p->output_shape[i - missing] == 0;
    }
    c->group = (size_t)p->group;
    c->in_channels = (size_t)(p->transposed ? w->dims[0] : w->dims[1] * p->group);
    c->out_channels = (size_t)(p->transposed ? w->dims[1] * p->group : w->dims[0]);
    return eie_multiply(c->out_channels / c->group, c->phases, &c->rows) ? EIE_OK : EIE_E_UNSUPPORTED;
}

/* ---- layouts ------------------------------------------------------------------------------------------------------- */

/* Bytes of a chunk's activations: what the first-level caches of today's cores hold beside weights and sums. */
enum { CHUNK_BYTES = 40 << 10, NARROW_CHUNK_BYTES = 28 << 10, VECTOR = 64 };

static eie_status plan(eie_conv *c) {
    const size_t tile = c->kernel->window, channels = c->in_channels / c->group;
    const eie_conv_axis *y = &c->axis[1];
    size_t flat, across, stacked = 0, all, slots, within;
    c->depth = c->kernel->per;
    c->units = (channels + c->depth - 1) / c->depth;
    if (!eie_multiply(c->axis[0].columns * c->axis[1].columns, c->axis[2].columns * tile, &flat)) return EIE_E_UNSUPPORTED;
    if (c->axis[2].columns <= EIE_CONV_COLUMNS) eie_conv_copy(&c->axis[2], eie_conv_span(c), 0, &within, &c->copies);
    across = c->axis[0].columns * c->copies;
    if (c->params.spatial > 1 && !c->pointwise && across > 0 && y->columns <= EIE_CONV_COLUMNS && y->reach / y->step < (int64_t)(EIE_CONV_COLUMNS * tile)) {
        eie_conv_slot(y, 0, &slots);
        c->lines = slots * (c->stacker->window + (size_t)(y->reach / y->step));
        stacked = across * c->lines;
        if (stacked > flat) c->lines = stacked = 0; /* taps too far apart to share much */
    }
    const size_t unit = stacked > 0 ? stacked : flat;
    c->chunk = (size_t)(c->stacker != c->kernel ? NARROW_CHUNK_BYTES : CHUNK_BYTES) / VECTOR / unit;
    if (c->chunk < 1) c->chunk = 1;
    if (c->chunk > c->units) c->chunk = c->units;
    c->chunks = (c->units + c->chunk - 1) / c->chunk;
    c->chunk = (c->units + c->chunks - 1) / c->chunks; /* alike */
    c->chunks = (c->units + c->chunk - 1) / c->chunk;
    if (!eie_multiply(c->chunk, flat > stacked ? flat : stacked, &c->chunk_vectors) || c->chunk_vectors > UINT32_MAX / VECTOR) return EIE_E_UNSUPPORTED;
    if (!eie_multiply(c->chunks, c->rows, &all) || !eie_multiply(all, c->group, &all) || all > UINT32_MAX / 2) return EIE_E_UNSUPPORTED;
    return EIE_OK;
}

/* The byte at which a tap's vectors begin in either layout, for each tap of a unit. */
static eie_status layouts(const eie_conv *c, uint32_t **flat, uint32_t **stacked) {
    const eie_conv_axis *a = c->axis;
    const size_t tile = c->kernel->window;
    *flat = malloc((c->taps + 1) * sizeof **flat);
    *stacked = malloc((c->taps + 1) * sizeof **stacked);
    if (*flat == NULL || *stacked == NULL) return EIE_E_MEMORY;
    for (size_t tap = 0; tap < c->taps; tap++) {
        const size_t z = a[0].column[tap / (a[1].kernel * a[2].kernel)], y = a[1].column[tap / a[2].kernel % a[1].kernel];
        const size_t x = a[2].column[tap % a[2].kernel];
        (*flat)[tap] = (uint32_t)(((z * a[1].columns + y) * a[2].columns + x) * tile * VECTOR);
        (*stacked)[tap] = 0;
        if (c->lines == 0) continue;
        size_t slots, copies, within;
        const size_t slot = eie_conv_slot(&a[1], y, &slots), copy = eie_conv_copy(&a[2], eie_conv_span(c), x, &within, &copies);
        const size_t line = (z * copies + copy) * c->lines + slot * (c->lines / slots) + (size_t)(a[1].shift[y] / a[1].step);
        (*stacked)[tap] = (uint32_t)(line * VECTOR + within * sizeof(float));
    }
    return EIE_OK;
}

/* ---- entries ------------------------------------------------------------------------------------------------------- */

/* Values of the codes: a float, an int16 or an int8, in so many of the lowest bits. */
typedef struct {
    uint32_t bits[256];
    int32_t number[256]; /* u8 */
    int width;
} eie_values;

static void values_of(eie_conv *c, const eie_weight *w, eie_values *v) {
    int8_t bytes[256];
    int16_t words[256];
    v->width = c->format == EIE_F32 ? 32 : c->depth == 4 ? 8 : 16;
    if (c->format == EIE_F32) memcpy(v->bits, w->codebook, w->codebook_size * sizeof(float));
    if (c->format == EIE_I16) eie_codebook_i16(w->codebook, w->codebook_size, words, &c->exponent);
    if (c->format == EIE_U8) eie_codebook_u8(w->codebook, w->codebook_size, bytes, &c->step);
    for (uint32_t i = 0; c->format != EIE_F32 && i < w->codebook_size; i++) {
        v->number[i] = c->format == EIE_I16 ? words[i] : bytes[i];
        v->bits[i] = v->width == 8 ? (uint8_t)v->number[i] : (uint16_t)v->number[i];
    }
}

typedef struct {
    const uint8_t *codes;
    size_t channels, row_stride, channel_stride; /* of codes, in elements */
    size_t *taps, *phase;                       /* taps by phase, and where each phase begins */
} eie_reader;

/* Taps by the phase of the output that they meet; Conv has one. */
static eie_status sort_taps(const eie_conv *c, eie_reader *r) {
    r->taps = malloc((c->taps + 1) * sizeof *r->taps);
    r->phase = calloc(c->phases + 2, sizeof *r->phase);
    size_t *of = malloc((c->taps + 1) * sizeof *of);
    if (r->taps == NULL || r->phase == NULL || of == NULL) {
        free(of);
        return EIE_E_MEMORY;
    }
    const eie_conv_axis *a = c->axis;
    for (size_t tap = 0; tap < c->taps; tap++) {
        const size_t k[EIE_AXES] = {tap / (a[1].kernel * a[2].kernel), tap / a[2].kernel % a[1].kernel, tap % a[2].kernel};
        of[tap] = 0;
        for (int i = 0; i < EIE_AXES; i++) of[tap] = of[tap] * a[i].phases + (size_t)((int64_t)k[i] * a[i].dilation % (int64_t)a[i].phases);
        r->phase[of[tap] + 2]++;
    }
    for (size_t p = 0; p < c->phases; p++) r->phase[p + 2] += r->phase[p + 1];
    for (size_t tap = 0; tap < c->taps; tap++) r->taps[r->phase[of[tap] + 1]++] = tap;
    free(of);
    return EIE_OK;
}

/* Entries of a row in a chunk: counted, and written where `to` is not SIZE_MAX. */
static size_t entries(eie_conv *c, const eie_reader *r, const eie_values *v, const uint32_t *const *layout, size_t group, size_t chunk, size_t row, size_t to) {
    const size_t channel0 = chunk * c->chunk * c->depth, end = channel0 + c->chunk * c->depth;
    const size_t channels = end < r->channels ? end - channel0 : r->channels - channel0, phase = row % c->phases;
    const size_t outer = c->rows / c->phases; /* output channels of a group */
    const uint8_t *codes = c->params.transposed ? r->codes + group * r->channels * r->channel_stride + row / c->phases * r->row_stride
                                                : r->codes + (group * outer + row) * r->row_stride;
    size_t count = 0;
    if (r->phase[phase] == r->phase[phase + 1]) return 0;
    for (size_t i = 0; i < channels; i += c->depth) {
        const uint8_t *unit = codes + (channel0 + i) * r->channel_stride;
        const size_t here = channels - i < c->depth ? channels - i : c->depth;
        for (size_t t = r->phase[phase]; t < r->phase[phase + 1]; t++) {
            uint32_t word = 0, any = 0;
            for (size_t d = 0; d < here; d++) {
                const uint8_t code = unit[d * r->channel_stride + r->taps[t]];
                any |= code;
                if (to != SIZE_MAX) word |= v->bits[code] << (d * (size_t)v->width % 32);
                if (to != SIZE_MAX && c->format == EIE_U8) c->row_sums[group * c->rows + row] += v->number[code];
            }
            if (any == 0) continue;
            if (to != SIZE_MAX) {
                const size_t base = i / c->depth, e = to + count;
                c->flat[e] = (uint32_t)(base * c->axis[0].columns * c->axis[1].columns * c->axis[2].columns * c->kernel->window * VECTOR) + layout[0][r->taps[t]];
                if (c->lines > 0) c->stacked[e] = (uint32_t)(base * c->axis[0].columns * c->copies * c->lines * VECTOR) + layout[1][r->taps[t]];
                c->weight[e] = word;
            }
            count++;
        }
    }
    return count;
}

/* The rows of a block by how many entries they have: the same number of turns again and again is what processors foresee. */
static void order(const uint32_t *count, uint32_t first, size_t n, uint32_t *row) {
    for (size_t i = 0; i < n; i++) {
        size_t at = i;
        for (; at > 0 && count[row[at - 1] - first] < count[i]; at--) row[at] = row[at - 1];
        row[at] = first + (uint32_t)i;
    }
}

static eie_status count_entries(eie_conv *c, const eie_reader *r, const eie_values *v, uint64_t *total) {
    const size_t all = c->group * c->chunks * c->rows;
    uint32_t count[EIE_CONV_BLOCK];
    c->first = malloc((all + 1) * sizeof *c->first);
    c->row = malloc((all + 1) * sizeof *c->row);
    if (c->first == NULL || c->row == NULL) return EIE_E_MEMORY;
    *total = 0;
    for (size_t i = 0; i < c->group * c->chunks; i++) {
        for (size_t row = 0; row < c->rows; row += EIE_CONV_BLOCK) {
            const size_t n = c->rows - row < EIE_CONV_BLOCK ? c->rows - row : EIE_CONV_BLOCK, at = i * c->rows + row;
            for (size_t k = 0; k < n; k++) {
                const size_t found = entries(c, r, v, NULL, i / c->chunks, i % c->chunks, row + k, SIZE_MAX);
                if (found > UINT32_MAX / 2) return EIE_E_UNSUPPORTED;
                count[k] = (uint32_t)found;
            }
            order(count, (uint32_t)row, n, c->row + at);
            for (size_t k = 0; k < n; k++) {
                c->first[at + k] = (uint32_t)*total;
                *total += count[c->row[at + k] - row];
                if (*total > UINT32_MAX / 2) return EIE_E_UNSUPPORTED;
            }
        }
    }
    c->first[all] = (uint32_t)*total;
    return EIE_OK;
}

/* What weights of magnitude w add to a sum is at most 32767 w: how many entries can be added before int32 overflows. */
static eie_status measure_fits(eie_conv *c, uint64_t total) {
    int64_t sum = 0;
    size_t end = (size_t)total;
    c->fits = malloc(total + 1);
    if (c->fits == NULL) return EIE_E_MEMORY;
    for (size_t e = (size_t)total; e-- > 0;) {
        int16_t w[2], last[2];
        memcpy(w, c->weight + e, sizeof w);
        for (sum += abs(w[0]) + abs(w[1]); sum > INT32_MAX / 32767; sum -= abs(last[0]) + abs(last[1])) memcpy(last, c->weight + --end, sizeof last);
        c->fits[e] = (uint8_t)(end - e < UINT8_MAX ? end - e : UINT8_MAX);
    }
    return EIE_OK;
}

static eie_status fill_entries(eie_conv *c, const eie_reader *r, const eie_values *v, uint64_t total) {
    uint32_t *layout[2] = {NULL, NULL};
    uint64_t *products = calloc(c->group * c->rows + 1, sizeof *products);
    eie_status status = layouts(c, &layout[0], &layout[1]);
    c->flat = malloc((total + 1) * sizeof *c->flat);
    c->stacked = c->lines > 0 ? malloc((total + 1) * sizeof *c->stacked) : NULL;
    c->weight = malloc((total + 1) * sizeof *c->weight);
    c->row_sums = c->format == EIE_U8 ? calloc(c->group * c->rows + 1, sizeof *c->row_sums) : NULL;
    if (products == NULL || c->flat == NULL || c->weight == NULL || (c->lines > 0 && c->stacked == NULL) || (c->format == EIE_U8 && c->row_sums == NULL)) {
        status = EIE_E_MEMORY;
    }
    for (size_t i = 0; status == EIE_OK && i < c->group * c->chunks * c->rows; i++) {
        const size_t group = i / c->rows / c->chunks;
        const size_t count = entries(c, r, v, (const uint32_t *const *)layout, group, i / c->rows % c->chunks, c->row[i], c->first[i]);
        uint64_t *of = &products[group * c->rows + c->row[i]];
        *of += (uint64_t)count * c->depth;
        if (*of > c->most) c->most = *of;
    }
    if (status == EIE_OK && c->format == EIE_I16 && c->kernel->unroll == 0) status = measure_fits(c, total);
    free(products);
    free(layout[0]);
    free(layout[1]);
    c->base.bytes = total * ((c->lines > 0 ? 12 : 8) + (c->fits != NULL)) + c->group * c->rows * (8 * c->chunks + (c->format == EIE_U8 ? 8 : 0));
    return status;
}

static eie_status pack(eie_conv *c, const eie_weight *w) {
    eie_values values;
    uint64_t total;
    eie_reader reader = {.codes = w->codes, .channels = c->in_channels / c->group};
    const size_t outer = c->out_channels / c->group;
    reader.row_stride = c->params.transposed ? c->taps : reader.channels * c->taps;
    reader.channel_stride = c->params.transposed ? outer * c->taps : c->taps;
    values_of(c, w, &values);
    eie_status status = sort_taps(c, &reader);
    if (status == EIE_OK) status = count_entries(c, &reader, &values, &total);
    if (status == EIE_OK) status = fill_entries(c, &reader, &values, total);
    free(reader.taps);
    free(reader.phase);
    return status;
}

eie_status eie_conv_create(const eie_weight *weight, const eie_conv_params *params, eie_format format, eie_layer **layer) {
    static const eie_kernel_kind kinds[] = {EIE_CONV_F32, EIE_CONV_I16, EIE_CONV_U8};
    size_t elements;
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
    c->stacker = eie_kernel_narrow(c->kernel);
    if (c->stacker == NULL) c->stacker = c->kernel;
    status = init_axes(c, weight);
    if (status == EIE_OK) status = plan(c);
    if (status == EIE_OK) status = pack(c, weight);
    snprintf(c->base.kernel, sizeof c->base.kernel, "%s", (c->lines > 0 ? c->stacker : c->kernel)->name);
    if (status != EIE_OK) {
        conv_free(&c->base);
        return status;
    }
    *layer = &c->base;
    return EIE_OK;
}
