/* Products with batches: vectors side by side, a chunk of columns at a time, so that an entry meets all of them where they lie. */
#include "ops/matrix_batch.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"
#include "ops/matrix_lists.h"

struct eie_matrix_later {
    _Atomic(eie_lists *) lists;
};

eie_matrix_later *eie_matrix_later_create(void) {
    eie_matrix_later *later = calloc(1, sizeof *later);
    if (later != NULL) atomic_init(&later->lists, NULL);
    return later;
}

void eie_matrix_later_free(eie_matrix_later *later) {
    if (later == NULL) return;
    eie_lists_free(atomic_load(&later->lists));
    free(later);
}

static const eie_kernel *kernel_of(eie_format format) {
    static const eie_kernel_kind kinds[] = {EIE_BATCH_F32, EIE_BATCH_I16, EIE_BATCH_U8};
    return eie_kernel_find(kinds[format], 0);
}

/* The smallest batch that lists are faster for: vectors that a block of sixteen lacks cost as much as those it has. AVX2: measured on the
 * nine layers; the others: estimated. */
static size_t worth_from(eie_format format, const char *isa) {
    static const struct {
        const char *isa;
        size_t from[3]; /* f32, i16, u8 */
    } FROM[] = {{"avx512", {5, 8, 8}}, {"avx2", {4, 9, 8}}, {"neon", {8, 8, 8}}, {"scalar", {8, 8, 8}}};
    size_t i = 0;
    while (i + 1 < sizeof FROM / sizeof FROM[0] && strcmp(FROM[i].isa, isa) != 0) i++;
    return FROM[i].from[format];
}

size_t eie_lists_share(const eie_matrix *m, size_t count) {
    if (m->panel_count != 1) return 0; /* wider ones are rare: sums of u8 would not fit int32 */
    const size_t rest = count % (EIE_BATCH_LANES / 2);
    return rest < worth_from(m->format, m->kernel->isa) ? count - rest : count;
}

const eie_lists *eie_matrix_lists(const eie_matrix *m) {
    eie_lists *lists = atomic_load_explicit(&m->later->lists, memory_order_acquire);
    if (lists != NULL) return lists;
    eie_lists *made = eie_lists_make(m, kernel_of(m->format));
    if (made == NULL || atomic_compare_exchange_strong(&m->later->lists, &lists, made)) return made;
    eie_lists_free(made); /* another thread was first */
    return lists;
}

uint64_t eie_matrix_lists_bytes(const eie_matrix *m) {
    const eie_lists *lists = m->later != NULL ? atomic_load_explicit(&m->later->lists, memory_order_acquire) : NULL;
    return lists != NULL ? lists->bytes : 0;
}

/* ---- running ---------------------------------------------------------------------------------------------------------- */

enum { LANES = EIE_BATCH_LANES, BLOCKS = EIE_MATRIX_VECTORS / LANES };

typedef struct {
    const eie_matrix *matrix;
    const eie_lists *lists;
    const float *x, *bias;
    float *y;
    size_t count, item, pitch; /* vectors; bytes of an activation; of a quantized vector */
    size_t blocks, lanes[BLOCKS], at[BLOCKS], wide; /* lanes of each block, the first one, all of them */
    uint8_t *quantized, *laid; /* [count][pitch]; [chunk][block][column][lane] */
    bool finite[EIE_MATRIX_VECTORS];
    int32_t zero[EIE_MATRIX_VECTORS], exponent[EIE_MATRIX_VECTORS];
    float scale[EIE_MATRIX_VECTORS]; /* u8: of a sum */
    eie_batch_kernel *multiply;
    eie_transpose_kernel *transpose;
    eie_batch_scale_kernel *scale_u8;
} eie_batch_call;

static size_t item_of(eie_format format) { return format == EIE_F32 ? 4 : format == EIE_I16 ? 2 : 1; }

/* Blocks of 32 vectors, the last one of 16 where it has no more. */
static void cut(eie_batch_call *c) {
    for (size_t v = 0; v < c->count; v += LANES, c->blocks++) {
        c->lanes[c->blocks] = c->count - v > LANES / 2 ? LANES : LANES / 2;
        c->at[c->blocks] = v;
        c->wide = v + c->lanes[c->blocks];
    }
}

/* A line more than it takes: vectors a power of two apart would share the sets of a cache. */
static size_t pitch_of(const eie_matrix *m) { return ((m->in * item_of(m->format) + 63) & ~(size_t)63) + 64; }

size_t eie_lists_scratch(const eie_matrix *m, size_t count) {
    const size_t item = item_of(m->format);
    const size_t lanes = (count + LANES / 2 - 1) / (LANES / 2) * (LANES / 2);
    const size_t quantized = m->format == EIE_F32 ? 0 : count * pitch_of(m);
    return quantized + (m->in * item + EIE_CHUNK) * lanes;
}

static void quantize(void *context, size_t v) {
    eie_batch_call *c = context;
    const eie_matrix *m = c->matrix;
    const float *x = c->x + v * m->in;
    uint8_t *to = c->quantized + v * c->pitch;
    float scale = 0;
    if (m->format == EIE_I16) c->finite[v] = m->quantize_i16(x, m->in, (int16_t *)(void *)to, &c->exponent[v]);
    else c->finite[v] = m->quantize_u8(x, m->in, to, &scale, &c->zero[v]);
    c->scale[v] = scale * m->step;
    if (!c->finite[v]) memset(to, 0, m->in * c->item); /* it was not written */
}

static void lay(void *context, size_t chunk) {
    const eie_batch_call *c = context;
    const eie_matrix *m = c->matrix;
    const size_t begin = chunk * c->lists->chunk, columns = m->in - begin < c->lists->chunk ? m->in - begin : c->lists->chunk;
    for (size_t b = 0; b < c->blocks; b++) {
        const size_t count = c->count - c->at[b] < c->lanes[b] ? c->count - c->at[b] : c->lanes[b];
        uint8_t *to = c->laid + (begin * c->wide + c->lists->chunk * c->at[b]) * c->item;
        const uint8_t *from = m->format == EIE_F32 ? (const uint8_t *)(c->x + c->at[b] * m->in) : c->quantized + c->at[b] * c->pitch;
        const eie_transposed how = {count, columns, m->format == EIE_F32 ? m->in : c->pitch / c->item, c->lanes[b]};
        if (count < c->lanes[b]) memset(to, 0, columns * c->lanes[b] * c->item); /* what is there might slow multiplications down */
        c->transpose(from + begin * c->item, &how, c->item, to);
    }
}

typedef union {
    float f[EIE_TILE * LANES];
    int32_t i[EIE_TILE * LANES];
    int64_t l[EIE_TILE * LANES];
} eie_tile_sums;

/* Outputs of a tile's rows for a block of vectors. */
static void finish(const eie_batch_call *c, size_t tile, size_t rows, size_t b, eie_tile_sums *sums) {
    const eie_matrix *m = c->matrix;
    const size_t lanes = c->lanes[b], row = tile * EIE_TILE, at = c->at[b], count = c->count - at < lanes ? c->count - at : lanes;
    float scaled[EIE_TILE * LANES], *made = m->format == EIE_F32 ? sums->f : scaled;
    if (m->format == EIE_U8) {
        const eie_batch_scale how = {rows, lanes, c->lists->row_sum + row, c->zero + at, c->scale + at};
        c->scale_u8(sums->i, &how, scaled);
    } else if (m->format == EIE_I16) {
        double factor[LANES];
        for (size_t l = 0; l < lanes; l++) factor[l] = ldexp(1.0, -(c->exponent[at + l] + m->exponent));
        for (size_t i = 0; i < rows * lanes; i++) scaled[i] = eie_scale_i16(sums->l[i], factor[i % lanes]);
    }
    for (size_t r = 0; c->bias != NULL && r < rows; r++) {
        for (size_t l = 0; l < lanes; l++) made[r * lanes + l] += c->bias[row + r];
    }
    const eie_transposed how = {rows, count, lanes, m->out};
    c->transpose(made, &how, sizeof *made, c->y + at * m->out + row);
    for (size_t v = at; v < at + count; v++) {
        for (size_t r = 0; !c->finite[v] && r < rows; r++) c->y[v * m->out + row + r] = NAN;
    }
}

/* A tile's rows with a block of vectors. Blocks in turn: all tiles read the activations of one. */
static void multiply(void *context, size_t i) {
    const eie_batch_call *c = context;
    const eie_lists *l = c->lists;
    const size_t b = i / l->tiles, tile = i % l->tiles, row = tile * EIE_TILE, rows = c->matrix->out - row < EIE_TILE ? c->matrix->out - row : EIE_TILE;
    eie_tile_sums sums;
    for (size_t chunk = 0; chunk < l->chunks; chunk++) {
        const size_t at = (tile * l->chunks + chunk) * EIE_TILE;
        const eie_batch batch = {rows, l->row + at, l->first + at, l->place, l->weight, l->table};
        c->multiply(&batch, c->laid + (chunk * c->wide + c->at[b]) * l->chunk * c->item, c->lanes[b], chunk == 0, &sums);
    }
    finish(c, tile, rows, b, &sums);
}

void eie_lists_multiply(const eie_matrix *m, const eie_lists *lists, const float *x, size_t count, const float *bias, float *y, void *scratch,
                        const eie_parallel *parallel) {
    eie_batch_call c = {.matrix = m, .lists = lists, .x = x, .bias = bias, .y = y, .count = count, .item = item_of(m->format), .pitch = pitch_of(m)};
    c.multiply = (eie_batch_kernel *)kernel_of(m->format)->run;
    c.transpose = (eie_transpose_kernel *)eie_kernel_find(EIE_BATCH_TRANSPOSE, 0)->run;
    c.scale_u8 = (eie_batch_scale_kernel *)eie_kernel_find(EIE_BATCH_SCALE_U8, 0)->run;
    c.quantized = scratch;
    c.laid = (uint8_t *)scratch + (m->format == EIE_F32 ? 0 : count * c.pitch);
    for (size_t v = 0; v < count; v++) c.finite[v] = true;
    cut(&c);
    if (m->format != EIE_F32) eie_for(parallel, count, quantize, &c);
    eie_for(parallel, lists->chunks, lay, &c);
    eie_for(parallel, lists->tiles * c.blocks, multiply, &c);
}
