#include "ops/matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"

/* ---- packing ------------------------------------------------------------------------------------------------------ */

/* What a panel is packed from: columns [column, column + width) of codes [out, in]. */
typedef struct {
    const uint8_t *codes;
    size_t out, in, column, width;
    const eie_kernel *kernel;
    eie_format format;
    const void *values; /* of each code: float, int8 or int16 */
} eie_source;

static size_t weight_bytes(const eie_kernel *k, eie_format format) { /* of a step */
    const size_t entries = EIE_ROWS * k->per;
    if (k->codes > 0) return format == EIE_U8 ? entries / 2 : entries;
    return entries * (format == EIE_F32 ? sizeof(float) : format == EIE_I16 ? sizeof(int16_t) : 1);
}

/* Steps of the block whose columns begin at `from`, in the panel, for the rows of a group. */
static size_t steps_of(const eie_source *s, size_t group, size_t from) {
    size_t longest = 0;
    const size_t stop = from + s->kernel->block < s->width ? from + s->kernel->block : s->width;
    for (size_t r = group * EIE_ROWS; r < (group + 1) * EIE_ROWS && r < s->out; r++) {
        const uint8_t *row = s->codes + r * s->in + s->column;
        size_t count = 0;
        for (size_t c = from; c < stop; c++) count += row[c] != 0;
        longest = count > longest ? count : longest;
    }
    return (longest + s->kernel->per - 1) / s->kernel->per;
}

static void put(const eie_source *s, uint8_t *weight, size_t step, size_t entry, uint8_t code) {
    const size_t entries = EIE_ROWS * s->kernel->per;
    weight += step * weight_bytes(s->kernel, s->format);
    if (s->kernel->codes > 0) {
        if (s->format == EIE_F32) weight[entry] = code;
        else weight[entry % (entries / 2)] |= (uint8_t)(entry < entries / 2 ? code : code << 4);
    } else if (s->format == EIE_F32) {
        ((float *)weight)[entry] = ((const float *)s->values)[code];
    } else if (s->format == EIE_I16) {
        ((int16_t *)weight)[entry] = ((const int16_t *)s->values)[code];
    } else {
        weight[entry] = (uint8_t)((const int8_t *)s->values)[code];
    }
}

static void fill(const eie_source *s, eie_panel *p, uint8_t *index, uint8_t *weight) {
    const size_t per = s->kernel->per, entries = EIE_ROWS * per, block = s->kernel->block;
    for (size_t r = 0; r < s->out; r++) {
        const uint8_t *row = s->codes + r * s->in + s->column, *steps = p->steps + r / EIE_ROWS * p->blocks;
        size_t step = p->first[r / EIE_ROWS];
        for (size_t b = 0; b < p->blocks; step += steps[b], b++) {
            const size_t stop = (b + 1) * block < s->width ? (b + 1) * block : s->width;
            size_t count = 0;
            for (size_t c = b * block; c < stop; c++) {
                if (row[c] == 0) continue;
                const size_t entry = r % EIE_ROWS * per + count % per;
                index[(step + count / per) * entries + entry] = (uint8_t)(c - b * block);
                put(s, weight, step + count / per, entry, row[c]);
                count++;
            }
        }
    }
}

static const uint8_t *table_of(const eie_source *s, uint32_t codebook_size) {
    const size_t item = s->format == EIE_F32 ? sizeof(float) : 1;
    uint8_t *table = calloc(s->kernel->codes, item);
    if (table != NULL) memcpy(table, s->values, codebook_size * item);
    return table;
}

static eie_status pack_panel(const eie_source *s, uint32_t codebook_size, eie_panel *p, uint64_t *bytes) {
    const size_t block = s->kernel->block, groups = (s->out + EIE_ROWS - 1) / EIE_ROWS, blocks = (s->width + block - 1) / block;
    p->groups = groups;
    p->blocks = blocks;
    uint8_t *steps = malloc(groups * blocks + 1);
    size_t *first = malloc((groups + 1) * sizeof *first);
    p->steps = steps;
    p->first = first;
    if (steps == NULL || first == NULL) return EIE_E_MEMORY;
    size_t total = 0;
    for (size_t g = 0; g < groups; g++) {
        first[g] = total;
        for (size_t b = 0; b < blocks; b++) total += steps[g * blocks + b] = (uint8_t)steps_of(s, g, b * block);
    }
    first[groups] = total;
    const size_t index_bytes = total * EIE_ROWS * s->kernel->per, weights = total * weight_bytes(s->kernel, s->format);
    uint8_t *index = calloc(index_bytes + 1, 1), *weight = calloc(weights + 1, 1);
    p->index = index;
    p->weight = weight;
    p->table = s->kernel->codes > 0 ? table_of(s, codebook_size) : NULL;
    if (index == NULL || weight == NULL || (s->kernel->codes > 0 && p->table == NULL)) return EIE_E_MEMORY;
    fill(s, p, index, weight);
    *bytes += index_bytes + weights + groups * blocks + (groups + 1) * sizeof *first;
    return EIE_OK;
}

static eie_status sum_rows(const eie_source *s, int64_t **sums) {
    *sums = calloc(s->out + 1, sizeof **sums);
    if (*sums == NULL) return EIE_E_MEMORY;
    const int8_t *values = s->values;
    for (size_t r = 0; r < s->out; r++) {
        for (size_t c = 0; c < s->in; c++) (*sums)[r] += values[s->codes[r * s->in + c]];
    }
    return EIE_OK;
}

eie_status eie_matrix_pack(const uint8_t *codes, const float *codebook, uint32_t codebook_size, size_t out, size_t in,
                           eie_format format, eie_matrix *m) {
    static const eie_kernel_kind kinds[] = {EIE_GEMM_F32, EIE_GEMM_I16, EIE_GEMM_U8};
    int8_t bytes[256];
    int16_t words[256];
    memset(m, 0, sizeof *m);
    m->out = out;
    m->in = in;
    m->format = format;
    m->kernel = eie_kernel_find(kinds[format], codebook_size);
    const size_t block = m->kernel->block, panel = format == EIE_U8 ? EIE_PANEL : in;
    if (in > SIZE_MAX / 16 - block || out > SIZE_MAX / 16 - EIE_ROWS) return EIE_E_SHAPE;
    m->padded = (in + block - 1) / block * block;
    m->panel_count = panel == 0 ? 0 : (in + panel - 1) / panel;
    if (format == EIE_U8) eie_codebook_u8(codebook, codebook_size, bytes, &m->step);
    if (format == EIE_I16) eie_codebook_i16(codebook, codebook_size, words, &m->exponent);
    eie_source s = {codes, out, in, 0, in, m->kernel, format,
                    format == EIE_F32 ? (const void *)codebook : format == EIE_I16 ? (const void *)words : (const void *)bytes};
    m->panels = calloc(m->panel_count + 1, sizeof *m->panels);
    eie_status status = m->panels == NULL ? EIE_E_MEMORY : EIE_OK;
    if (status == EIE_OK && format == EIE_U8) {
        status = sum_rows(&s, &m->row_sums);
        m->bytes += out * sizeof *m->row_sums;
    }
    for (size_t i = 0; i < m->panel_count && status == EIE_OK; i++) {
        s.column = m->panels[i].column = i * panel;
        s.width = in - s.column < panel ? in - s.column : panel;
        status = pack_panel(&s, codebook_size, &m->panels[i].panel, &m->bytes);
    }
    if (status != EIE_OK) eie_matrix_free(m);
    return status;
}

void eie_matrix_free(eie_matrix *m) {
    for (size_t i = 0; m->panels != NULL && i < m->panel_count; i++) {
        const eie_panel *p = &m->panels[i].panel;
        free((void *)p->steps);
        free((void *)p->first);
        free((void *)p->index);
        free((void *)p->weight);
        free((void *)p->table);
    }
    free(m->panels);
    free(m->row_sums);
    m->panels = NULL;
    m->row_sums = NULL;
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

static size_t item_bytes(eie_format format) { return format == EIE_F32 ? sizeof(float) : format == EIE_I16 ? sizeof(int16_t) : 1; }

size_t eie_matrix_vector_bytes(const eie_matrix *m) { return (m->padded * item_bytes(m->format) + 63) & ~(size_t)63; }

void eie_matrix_vector(const eie_matrix *m, const float *x, void *buffer, eie_vector *v) {
    const size_t item = item_bytes(m->format);
    v->x = buffer;
    v->finite = true;
    if (m->format == EIE_F32) {
        if (m->padded == m->in) {
            v->x = x;
            return;
        }
        memcpy(buffer, x, m->in * item);
    } else if (m->format == EIE_I16) {
        eie_quantize_i16_kernel *quantize = (eie_quantize_i16_kernel *)eie_kernel_find(EIE_QUANTIZE_I16, 0)->run;
        v->finite = quantize(x, m->in, buffer, &v->exponent);
    } else {
        eie_quantize_u8_kernel *quantize = (eie_quantize_u8_kernel *)eie_kernel_find(EIE_QUANTIZE_U8, 0)->run;
        v->finite = quantize(x, m->in, buffer, &v->scale, &v->zero);
    }
    memset((uint8_t *)buffer + m->in * item, 0, (m->padded - m->in) * item);
}

enum { CHUNK = 16 }; /* groups computed before their sums become outputs */

typedef union {
    float f[CHUNK * EIE_ROWS];
    int32_t i[CHUNK * EIE_ROWS];
    int64_t l[CHUNK * EIE_ROWS];
} eie_sums;

/* The exact sums of all panels, as float (f32) or int64. */
static void sums_of(const eie_matrix *m, const eie_vector *v, size_t begin, size_t end, eie_sums *sums) {
    const size_t rows = (end - begin) * EIE_ROWS;
    eie_gemm_kernel *run = (eie_gemm_kernel *)m->kernel->run;
    if (m->panel_count == 0) memset(sums, 0, sizeof *sums);
    if (m->format != EIE_U8) {
        if (m->panel_count > 0) run(&m->panels[0].panel, v->x, begin, end, sums);
        return;
    }
    eie_sums part;
    for (size_t p = 0; p < m->panel_count; p++) {
        run(&m->panels[p].panel, (const uint8_t *)v->x + m->panels[p].column, begin, end, &part);
        for (size_t r = 0; r < rows; r++) sums->l[r] = part.i[r] + (p > 0 ? sums->l[r] : 0);
    }
}

void eie_matrix_rows(const eie_matrix *m, const eie_vector *v, size_t begin, size_t end, const float *bias, float *y) {
    for (size_t g = begin; g < end; g += CHUNK) {
        const size_t stop = g + CHUNK < end ? g + CHUNK : end, from = g * EIE_ROWS;
        const size_t rows = (stop * EIE_ROWS < m->out ? stop * EIE_ROWS : m->out) - from;
        eie_sums sums;
        float *to = y + from;
        if (!v->finite) {
            for (size_t r = 0; r < rows; r++) to[r] = NAN;
            continue;
        }
        sums_of(m, v, g, stop, &sums);
        if (m->format == EIE_F32) {
            memcpy(to, sums.f, rows * sizeof *to);
        } else if (m->format == EIE_I16) {
            const double factor = ldexp(1.0, -(v->exponent + m->exponent));
            for (size_t r = 0; r < rows; r++) to[r] = eie_scale_i16(sums.l[r], factor);
        } else {
            const float factor = v->scale * m->step;
            for (size_t r = 0; r < rows; r++) to[r] = eie_scale_u8(sums.l[r] - v->zero * m->row_sums[from + r], factor);
        }
        for (size_t r = 0; bias != NULL && r < rows; r++) to[r] += bias[from + r];
    }
}
