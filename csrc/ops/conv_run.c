/* Running a convolution layer: ops/conv.h says what is computed. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"
#include "ops/conv.h"

enum {
    LANES = EIE_ROWS,
    MOST_TILE = 16 * LANES, /* positions, in the widest kernel's tile */
    SUM_BYTES = 512 << 10,  /* of sums kept while chunks go by: they fit the second-level cache */
    TASKS = 16,             /* at least so many where there is a pool */
};

/* A tile of positions. Stacked: lines y0 to y0 + vectors of plane z, from x0 on. Flat: from `first` on. */
typedef struct {
    size_t vectors;
    int64_t z, y, x;
    size_t first, count; /* flat: positions */
} eie_tile;

typedef struct {
    const eie_conv *conv;
    eie_conv_size size;
    const uint32_t *x;    /* the sample: [group * units] maps of four-byte places */
    const float *bias;
    float *y;
    uint32_t pad;
    int32_t zero;         /* u8 */
    float factor;         /* u8 */
    double power;         /* i16 */
    bool stacked, wide;   /* wide: a row of u8 sums may pass int32 */
    size_t tiles, vectors, down, across; /* vectors: of a tile; stacked: tiles of a column and of a line */
    size_t blocks, block; /* of rows: how many, and rows of one */
    const eie_kernel *kernel;
    size_t lanes;         /* of a vector */
    size_t slots;         /* stacked: phases of the input */
    int64_t phase[EIE_CONV_COLUMNS], copy[EIE_CONV_COLUMNS]; /* copy: the first shift of each copy of a line */
    size_t places[EIE_CONV_COLUMNS]; /* of each copy, in use */
    eie_lines_kernel *lines;
    eie_scale_kernel *scale;
    eie_follow_kernel *follow;
    const eie_follower *followers;
    size_t follower_count, sample; /* sample: where the sample's outputs begin, in elements */
    atomic_bool failed;   /* out of memory */
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

/* ---- tiles --------------------------------------------------------------------------------------------------------- */

static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

static void plan_copies(eie_conv_call *call) {
    const eie_conv *c = call->conv;
    const eie_conv_axis *a = &c->axis[2];
    for (size_t x = a->columns; x-- > 0;) { /* shifts ascend: the last has the most places, the first is where it begins */
        size_t within, copies;
        const size_t copy = eie_conv_copy(a, eie_conv_span(c), x, &within, &copies), places = call->lanes + within;
        call->copy[copy] = a->shift[x] - (int64_t)within * a->step;
        if (places > call->places[copy]) call->places[copy] = places;
    }
}

static void cut(eie_conv_call *call, const eie_parallel *parallel) {
    const eie_conv *c = call->conv;
    const int64_t *d = call->size.domain;
    const size_t flat = ceil_div(call->size.positions, LANES);
    call->across = ceil_div((size_t)d[2], c->stacker->sets);
    const size_t stacked = ceil_div((size_t)d[0] * (size_t)d[1] * call->across * c->stacker->sets, LANES);
    call->stacked = c->lines > 0 && stacked <= flat + flat / 4 && d[1] >= 4;
    call->kernel = call->stacked ? c->stacker : c->kernel;
    call->lanes = call->kernel->sets;
    const size_t most = call->kernel->window;
    if (call->stacked) plan_copies(call);
    const size_t length = call->stacked ? (size_t)d[1] : flat;
    for (size_t y = 0; call->stacked && y < c->axis[1].columns; y++) {
        size_t slots;
        if (eie_conv_slot(&c->axis[1], y, &slots) == call->slots) call->phase[call->slots++] = c->axis[1].shift[y] % c->axis[1].step;
    }
    call->down = ceil_div(length, most);
    call->vectors = ceil_div(length, call->down);
    call->down = ceil_div(length, call->vectors);
    call->tiles = call->stacked ? (size_t)d[0] * call->down * call->across : call->down;
    const size_t sum = c->format == EIE_I16 || call->wide ? sizeof(int64_t) : sizeof(float);
    size_t rows = SUM_BYTES / (call->vectors * call->lanes * sum);
    if (parallel != NULL && call->tiles * c->group < TASKS) {
        const size_t shared = ceil_div(c->rows * call->tiles * c->group, TASKS);
        rows = shared < rows ? shared : rows;
    }
    call->block = ceil_div(rows, EIE_CONV_BLOCK) * EIE_CONV_BLOCK;
    call->blocks = ceil_div(c->rows, call->block);
}

static eie_tile tile_of(const eie_conv_call *call, size_t i) {
    const int64_t *d = call->size.domain;
    eie_tile t = {.vectors = call->vectors};
    if (call->stacked) {
        t.x = (int64_t)(i % call->across * call->lanes);
        t.y = (int64_t)(i / call->across % call->down * call->vectors);
        t.z = (int64_t)(i / call->across / call->down);
        if (d[1] - t.y < (int64_t)t.vectors) t.vectors = (size_t)(d[1] - t.y);
        return t;
    }
    t.first = i * call->vectors * LANES;
    t.count = call->size.positions - t.first < t.vectors * LANES ? call->size.positions - t.first : t.vectors * LANES;
    t.vectors = ceil_div(t.count, LANES);
    return t;
}

/* ---- activations --------------------------------------------------------------------------------------------------- */

/* `count` lines of a map, from coordinate y on by `step`, with what is outside of the map. how: the rest is set. */
static void copy_lines(const eie_conv_call *call, const uint32_t *map, int64_t z, int64_t y, int64_t step, size_t count, eie_lines how, uint32_t *to) {
    const int64_t *in = call->size.in;
    int64_t begin = y < 0 ? (-y + step - 1) / step : 0, end = y < in[1] ? (in[1] - 1 - y) / step + 1 : 0;
    if (end > (int64_t)count) end = (int64_t)count;
    if (z < 0 || z >= in[0] || begin > end || end < 0) begin = end = 0;
    how.pad = call->pad;
    how.pitch = (size_t)(step * in[2]);
    const int64_t width = how.width;
    how.width = 0;
    how.count = (size_t)begin;
    if (begin > 0) call->lines(map, &how, to);
    how.count = count - (size_t)end;
    if (how.count > 0) call->lines(map, &how, to + (size_t)end * how.to_pitch);
    how.width = width;
    how.count = (size_t)(end - begin);
    if (how.count > 0) call->lines(map + (z * in[1] + y + begin * step) * in[2], &how, to + (size_t)begin * how.to_pitch);
}

static void lay_stacked(const eie_conv_call *call, const eie_tile *t, const uint32_t *map, uint32_t *to) {
    const eie_conv_axis *a = call->conv->axis;
    const size_t lines = call->conv->lines / call->slots;
    for (size_t z = 0; z < a[0].columns; z++) {
        const int64_t iz = t->z * a[0].step + call->size.base[0] + a[0].shift[z];
        for (size_t x = 0; x < call->conv->copies; x++) {
            const eie_lines how = {.first = t->x * a[2].step + call->size.base[2] + call->copy[x], .step = a[2].step, .width = call->size.in[2],
                                   .lanes = call->places[x], .to_pitch = LANES};
            for (size_t slot = 0; slot < call->slots; slot++, to += lines * LANES) {
                copy_lines(call, map, iz, t->y * a[1].step + call->size.base[1] + call->phase[slot], a[1].step,
                           t->vectors + (size_t)(a[1].reach / a[1].step), how, to);
            }
        }
    }
}

/* One tap's positions, a line's or several whole lines' at a time. */
static void lay_flat_tap(const eie_conv_call *call, const eie_tile *t, const uint32_t *map, const int64_t *shift, uint32_t *to) {
    const eie_conv_axis *a = call->conv->axis;
    const int64_t *d = call->size.domain, *base = call->size.base;
    for (size_t done = 0; done < t->count;) {
        const int64_t at = (int64_t)(t->first + done), left = (int64_t)(t->count - done), x = at % d[2], y = at / d[2] % d[1], z = at / d[2] / d[1];
        int64_t n = d[2] - x < left ? d[2] - x : left, lines = 1;
        if (x == 0 && left >= d[2]) lines = left / d[2] < d[1] - y ? left / d[2] : d[1] - y;
        const eie_lines how = {.first = x * a[2].step + base[2] + shift[2], .step = a[2].step, .width = call->size.in[2], .lanes = (size_t)n,
                               .to_pitch = (size_t)n};
        copy_lines(call, map, z * a[0].step + base[0] + shift[0], y * a[1].step + base[1] + shift[1], a[1].step, (size_t)lines, how, to + done);
        done += (size_t)(n * lines);
    }
}

static void lay_flat(const eie_conv_call *call, const eie_tile *t, const uint32_t *map, uint32_t *to) {
    const eie_conv *c = call->conv;
    const eie_conv_axis *a = c->axis;
    if (c->pointwise) {
        const eie_lines how = {.count = 1, .first = (int64_t)t->first, .step = 1, .width = (int64_t)call->size.in_size, .lanes = t->count, .pad = call->pad};
        call->lines(map, &how, to);
        return;
    }
    for (size_t z = 0; z < a[0].columns; z++) {
        for (size_t y = 0; y < a[1].columns; y++) {
            for (size_t x = 0; x < a[2].columns; x++, to += c->kernel->window * LANES) {
                const int64_t shift[EIE_AXES] = {a[0].shift[z], a[1].shift[y], a[2].shift[x]};
                lay_flat_tap(call, t, map, shift, to);
            }
        }
    }
}

static void lay(const eie_conv_call *call, const eie_tile *t, size_t group, size_t chunk, uint32_t *to) {
    const eie_conv *c = call->conv;
    const eie_conv_axis *a = c->axis;
    const size_t begin = chunk * c->chunk, end = begin + c->chunk < c->units ? begin + c->chunk : c->units;
    const size_t vectors = a[0].columns * (call->stacked ? c->copies * c->lines : a[2].columns * a[1].columns * c->kernel->window);
    for (size_t u = begin; u < end; u++, to += vectors * LANES) {
        const uint32_t *map = call->x + (group * c->units + u) * call->size.in_size;
        if (call->stacked) lay_stacked(call, t, map, to);
        else lay_flat(call, t, map, to);
    }
}

/* ---- sums ---------------------------------------------------------------------------------------------------------- */

/* Sums of a row in a chunk that may be too many for int32: they are taken in parts. */
static void add_parts(const eie_conv_call *call, const uint32_t *offset, const uint32_t *weight, size_t entries, const void *x, size_t vectors, bool fresh,
                      int64_t *sums) {
    const size_t most = EIE_PANEL / call->conv->depth;
    int32_t part[MOST_TILE];
    const size_t n = vectors * call->lanes;
    if (fresh) memset(sums, 0, n * sizeof *sums);
    for (size_t e = 0; e < entries; e += most) {
        ((eie_conv_kernel *)call->kernel->run)(offset + e, weight + e, entries - e < most ? entries - e : most, x, vectors, true, part);
        for (size_t i = 0; i < n; i++) sums[i] += part[i];
    }
}

/* Sums in i16 that a kernel widens once a call: as many entries at a time as are sure to fit int32. */
static void add_fitting(const eie_conv_call *call, const uint32_t *offset, size_t e, size_t count, const void *x, size_t vectors, bool fresh, void *sums) {
    const eie_conv *c = call->conv;
    for (const size_t end = e + count; e < end || fresh; fresh = false) {
        const size_t n = e < end && c->fits[e] < end - e ? c->fits[e] : end - e;
        ((eie_conv_kernel *)call->kernel->run)(offset + e, c->weight + e, n, x, vectors, fresh, sums);
        e += n;
    }
}

static void add_chunk(const eie_conv_call *call, const eie_tile *t, size_t group, size_t chunk, size_t begin, size_t end, const void *x, uint8_t *sums) {
    const eie_conv *c = call->conv;
    const uint32_t *offset = call->stacked ? c->stacked : c->flat;
    const size_t at = (group * c->chunks + chunk) * c->rows;
    const size_t bytes = call->vectors * call->lanes * (c->format == EIE_I16 || call->wide ? sizeof(int64_t) : sizeof(float));
    eie_conv_kernel *run = (eie_conv_kernel *)call->kernel->run;
    for (size_t i = at + begin; i < at + end; i++) {
        const size_t e = c->first[i], count = c->first[i + 1] - e;
        uint8_t *to = sums + (c->row[i] - begin) * bytes;
        if (count == 0 && chunk > 0) continue;
        if (call->wide) add_parts(call, offset + e, c->weight + e, count, x, t->vectors, chunk == 0, (int64_t *)to);
        else if (c->fits != NULL) add_fitting(call, offset, e, count, x, t->vectors, chunk == 0, to);
        else run(offset + e, c->weight + e, count, x, t->vectors, chunk == 0, to);
    }
}

/* ---- output -------------------------------------------------------------------------------------------------------- */

/* ConvTranspose: n positions of a row, from (z, y, x) on, which are of one line. */
static void put_line(const eie_conv_call *call, float *to, const int64_t *phase, int64_t z, int64_t y, int64_t x, int64_t n, const float *values) {
    const int64_t *out = call->size.out, p[EIE_AXES] = {z, y, x};
    int64_t at[EIE_AXES];
    for (int i = 0; i < EIE_AXES; i++) at[i] = (call->size.lowest[i] + p[i]) * call->conv->axis[i].stride + phase[i] - call->size.begin[i];
    if (at[0] < 0 || at[0] >= out[0] || at[1] < 0 || at[1] >= out[1]) return;
    to += (at[0] * out[1] + at[1]) * out[2];
    for (int64_t i = 0; i < n; i++, at[2] += call->conv->axis[2].stride) {
        if (at[2] >= 0 && at[2] < out[2]) to[at[2]] = values[i];
    }
}

/* Sums of a row to outputs: scaled, the bias added. Into `values`, or in place, for floats. */
static float *finish(const eie_conv_call *call, size_t row, size_t channel, size_t n, void *sums, float *values) {
    const eie_conv *c = call->conv;
    const float *bias = call->bias != NULL ? call->bias + channel : NULL;
    if (c->format == EIE_U8 && !call->wide) { /* zero times the sum of a row that fits int32 fits it too */
        call->scale(sums, n, (int32_t)(call->zero * c->row_sums[row]), call->factor, bias, values);
        return values;
    }
    if (c->format == EIE_F32) {
        values = sums;
    } else if (c->format == EIE_I16) {
        for (size_t i = 0; i < n; i++) values[i] = eie_scale_i16(((const int64_t *)sums)[i], call->power);
    } else {
        const int64_t less = (int64_t)call->zero * c->row_sums[row];
        for (size_t i = 0; i < n; i++) values[i] = eie_scale_u8(((const int64_t *)sums)[i] - less, call->factor);
    }
    for (size_t i = 0; bias != NULL && i < n; i++) values[i] += *bias;
    return values;
}

/* The followers of n values of a channel that lie side by side in the output, from position `at` of it on. */
static void follow(const eie_conv_call *call, size_t channel, size_t at, size_t n, float *values) {
    for (size_t i = 0; i < call->follower_count; i++) {
        eie_follower f = call->followers[i];
        if (f.kind == EIE_FOLLOW_ADD) f.operand += call->sample + channel * call->size.out_size + at;
        if (f.kind == EIE_FOLLOW_ADD_CHANNEL) f.operand += channel;
        call->follow(&f, n, values);
    }
}

/* The same for the lines of a stacked tile, `lanes` wide, as the kernel leaves them: operands are laid out alike. */
static void follow_lines(const eie_conv_call *call, size_t channel, size_t at, size_t lines, size_t lanes, float *values) {
    float operand[MOST_TILE] = {0};
    const size_t width = (size_t)call->size.out[2];
    for (size_t i = 0; i < call->follower_count; i++) {
        eie_follower f = call->followers[i];
        if (f.kind == EIE_FOLLOW_ADD) {
            const eie_lines how = {.pitch = width, .count = lines, .step = 1, .width = (int64_t)lanes, .lanes = lanes, .to_pitch = call->lanes};
            call->lines((const uint32_t *)(const void *)(f.operand + call->sample + channel * call->size.out_size + at), &how, (uint32_t *)(void *)operand);
            f.operand = operand;
        }
        if (f.kind == EIE_FOLLOW_ADD_CHANNEL) f.operand += channel;
        call->follow(&f, lines * call->lanes, values);
    }
}

/* A channel whose outputs are all there: those of ConvTranspose, whose phases lie between each other, and of a sample that is not finite. */
static void follow_channel(void *context, size_t channel) {
    const eie_conv_call *call = context;
    follow(call, channel, 0, call->size.out_size, call->y + channel * call->size.out_size);
}

static void put_row(const eie_conv_call *call, const eie_tile *t, size_t group, size_t row, void *sums) {
    const eie_conv *c = call->conv;
    const int64_t *d = call->size.domain;
    const size_t outer = c->rows / c->phases, channel = group * outer + row / c->phases;
    float scaled[MOST_TILE], *to = call->y + channel * call->size.out_size;
    if (!call->stacked && !c->params.transposed && c->format != EIE_F32) { /* straight to where they belong */
        finish(call, group * c->rows + row, channel, t->count, sums, to + t->first);
        follow(call, channel, t->first, t->count, to + t->first);
        return;
    }
    float *values = finish(call, group * c->rows + row, channel, t->vectors * call->lanes, sums, scaled);
    const int64_t lanes = d[2] - t->x < (int64_t)call->lanes ? d[2] - t->x : (int64_t)call->lanes;
    if (!c->params.transposed) { /* positions are outputs */
        const size_t at = call->stacked ? (size_t)((t->z * d[1] + t->y) * d[2] + t->x) : t->first;
        if (call->stacked) follow_lines(call, channel, at, t->vectors, (size_t)lanes, values);
        else follow(call, channel, at, t->count, values);
        const eie_lines how = {.pitch = call->lanes, .count = t->vectors, .step = 1, .width = (int64_t)call->lanes, .lanes = (size_t)lanes, .to_pitch = (size_t)d[2]};
        if (call->stacked) call->lines((const uint32_t *)(const void *)values, &how, (uint32_t *)(void *)(to + at));
        else memcpy(to + at, values, t->count * sizeof *values);
        return;
    }
    int64_t phase[EIE_AXES];
    size_t rest = row % c->phases;
    for (int i = EIE_AXES - 1; i >= 0; i--) {
        phase[i] = (int64_t)(rest % c->axis[i].phases);
        rest /= c->axis[i].phases;
    }
    for (size_t v = 0; call->stacked && v < t->vectors; v++) put_line(call, to, phase, t->z, t->y + (int64_t)v, t->x, lanes, values + v * call->lanes);
    for (size_t done = 0; !call->stacked && done < t->count;) {
        const int64_t at = (int64_t)(t->first + done), x = at % d[2], left = (int64_t)(t->count - done), n = d[2] - x < left ? d[2] - x : left;
        put_line(call, to, phase, at / d[2] / d[1], at / d[2] % d[1], x, n, values + done);
        done += (size_t)n;
    }
}

/* ---- a batch ------------------------------------------------------------------------------------------------------- */

/* A block of rows of a group on a tile. */
static void compute(void *context, size_t i) {
    eie_conv_call *call = context;
    const eie_conv *c = call->conv;
    const size_t group = i / call->blocks % c->group, begin = i % call->blocks * call->block;
    const size_t end = begin + call->block < c->rows ? begin + call->block : c->rows;
    const eie_tile t = tile_of(call, i / call->blocks / c->group);
    const size_t bytes = call->vectors * call->lanes * (c->format == EIE_I16 || call->wide ? sizeof(int64_t) : sizeof(float));
    uint8_t *x = eie_scratch_take(c->chunk_vectors * 64 + (end - begin) * bytes);
    if (x == NULL) {
        atomic_store(&call->failed, true);
        return;
    }
    uint8_t *sums = x + c->chunk_vectors * 64;
    memset(x, 0, c->chunk_vectors * 64); /* lanes past the last position are computed too, of numbers that don't slow it down */
    for (size_t chunk = 0; chunk < c->chunks; chunk++) {
        lay(call, &t, group, chunk, (uint32_t *)x);
        add_chunk(call, &t, group, chunk, begin, end, x, sums);
    }
    for (size_t row = begin; row < end; row++) put_row(call, &t, group, row, sums + (row - begin) * bytes);
    eie_scratch_give(x);
}

/* Four bytes a position of a unit of channels. q: uint8 or int16. */
static void interleave(const eie_conv *c, const void *q, size_t size, uint32_t *to) {
    const size_t channels = c->in_channels / c->group;
    for (size_t g = 0; g < c->group; g++) {
        for (size_t u = 0; u < c->units; u++, to += size) {
            const size_t first = u * c->depth, here = channels - first < c->depth ? channels - first : c->depth;
            const size_t at = (g * channels + first) * size;
            if (c->depth == 4) {
                const uint8_t *from = (const uint8_t *)q + at;
                const uint8_t *a = from, *b = from + (here > 1) * size, *d = from + 2 * (here > 2) * size, *e = from + 3 * (here > 3) * size;
                uint8_t *restrict bytes = (uint8_t *)to; /* in this form compilers see an interleaving */
                for (size_t i = 0; i < size; i++) {
                    bytes[4 * i] = a[i];
                    bytes[4 * i + 1] = b[i];
                    bytes[4 * i + 2] = d[i];
                    bytes[4 * i + 3] = e[i];
                }
            } else if (c->format == EIE_U8) {
                const uint8_t *a = (const uint8_t *)q + at, *b = a + (here > 1) * size;
                for (size_t i = 0; i < size; i++) to[i] = (uint32_t)a[i] | (uint32_t)b[i] << 16;
            } else {
                const uint16_t *a = (const uint16_t *)q + at, *b = a + (here > 1) * size;
                for (size_t i = 0; i < size; i++) to[i] = (uint32_t)a[i] | (uint32_t)b[i] << 16;
            }
        }
    }
}

/* Quantizes a sample; false: it is not finite. */
static bool quantize(eie_conv_call *call, const float *x, void *q, uint32_t *to) {
    const eie_conv *c = call->conv;
    const size_t n = c->in_channels * call->size.in_size;
    call->x = to;
    if (c->format == EIE_I16) {
        int32_t exponent;
        if (!((eie_quantize_i16_kernel *)eie_kernel_find(EIE_QUANTIZE_I16, 0)->run)(x, n, q, &exponent)) return false;
        call->power = ldexp(1.0, -(exponent + c->exponent));
    } else {
        float scale;
        if (!((eie_quantize_u8_kernel *)eie_kernel_find(EIE_QUANTIZE_U8, 0)->run)(x, n, q, &scale, &call->zero)) return false;
        call->factor = scale * c->step;
        call->pad = (uint32_t)call->zero * (c->depth == 4 ? 0x01010101u : 0x00010001u);
    }
    interleave(c, q, call->size.in_size, to);
    return true;
}

static void run_batch(eie_conv_call *call, const float *x, uint64_t n, float *y, void *quantized, const eie_parallel *parallel) {
    const eie_conv *c = call->conv;
    const size_t in = c->in_channels * call->size.in_size, out = c->out_channels * call->size.out_size;
    for (uint64_t b = 0; b < n; b++, x += in, y += out) {
        call->x = (const uint32_t *)(const void *)x;
        call->y = y;
        if (c->format != EIE_F32 && !quantize(call, x, (uint32_t *)quantized + c->group * c->units * call->size.in_size, quantized)) {
            for (size_t i = 0; i < out; i++) y[i] = NAN;
            eie_for(parallel, call->follower_count > 0 ? c->out_channels : 0, follow_channel, call);
        } else {
            eie_for(parallel, call->tiles * c->group * call->blocks, compute, call);
            eie_for(parallel, call->follower_count > 0 && c->params.transposed ? c->out_channels : 0, follow_channel, call);
        }
        call->sample += out;
    }
}

eie_status eie_conv_run(const eie_layer *layer, const float *x, uint64_t n, const int64_t *in, const float *bias, float *y,
                        const eie_parallel *parallel) {
    return eie_conv_run_followed(layer, x, n, in, bias, NULL, 0, y, parallel);
}

eie_status eie_conv_run_followed(const eie_layer *layer, const float *x, uint64_t n, const int64_t *in, const float *bias, const eie_follower *followers,
                                 uint64_t count, float *y, const eie_parallel *parallel) {
    if (layer == NULL || layer->kind != EIE_LAYER_CONV || !eie_followers_check(followers, count)) return EIE_E_ARGUMENT;
    const eie_conv *c = (const eie_conv *)layer;
    eie_conv_call call = {.conv = c, .bias = bias, .lines = (eie_lines_kernel *)eie_kernel_find(EIE_CONV_LINES, 0)->run,
                          .scale = (eie_scale_kernel *)eie_kernel_find(EIE_SCALE_U8, 0)->run,
                          .follow = (eie_follow_kernel *)eie_kernel_find(EIE_FOLLOWERS, 0)->run, .followers = followers, .follower_count = (size_t)count};
    eie_status status = eie_conv_measure(c, in, &call.size);
    if (status != EIE_OK || n == 0) return status;
    call.wide = c->format == EIE_U8 && c->most > EIE_PANEL;
    cut(&call, parallel);
    void *quantized = NULL;
    if (c->format != EIE_F32) {
        const size_t places = c->group * c->units * call.size.in_size, q = c->in_channels * call.size.in_size * (c->format == EIE_I16 ? 2 : 1);
        quantized = eie_scratch_take(places * sizeof(uint32_t) + q);
        if (quantized == NULL) return EIE_E_MEMORY;
    }
    run_batch(&call, x, n, y, quantized, parallel);
    eie_scratch_give(quantized);
    return atomic_load(&call.failed) ? EIE_E_MEMORY : EIE_OK;
}
