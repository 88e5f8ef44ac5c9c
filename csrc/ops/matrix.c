#include "ops/matrix.h"

#include <math.h>
#include <string.h>

#include "kernels/quantize.h"

static size_t item_bytes(eie_format format) { return format == EIE_F32 ? sizeof(float) : format == EIE_I16 ? sizeof(int16_t) : 1; }

static size_t lines(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

size_t eie_matrix_plane(const eie_matrix *m) { return m->format != EIE_U8 && eie_form_planes(m->kernel->form) ? lines(m->padded) : 0; }

/* i16 is quantized behind the first of its planes, and taken apart in place. */
size_t eie_matrix_vector_bytes(const eie_matrix *m) {
    const size_t plane = eie_matrix_plane(m);
    return plane > 0 ? plane * (m->format == EIE_F32 ? 4 : 3) : lines(m->padded * item_bytes(m->format));
}

static bool used_as_it_is(const eie_matrix *m) { return m->format == EIE_F32 && m->padded == m->in && eie_matrix_plane(m) == 0; }

/* The bytes of n numbers, the first of each to the first plane, and so on. int16 may begin at the second plane: what is written is read
 * by then, in blocks of fixed size, which compilers turn into shuffles. */
enum { SPLIT = 32 };

static void split_i16(const int16_t *q, size_t n, size_t plane, uint8_t *to) {
    for (size_t at = 0; at < n; at += SPLIT) {
        uint16_t word[SPLIT] = {0};
        uint8_t byte[2][SPLIT];
        const size_t count = n - at < SPLIT ? n - at : SPLIT;
        memcpy(word, q + at, count * sizeof *word);
        for (size_t i = 0; i < SPLIT; i++) byte[0][i] = (uint8_t)word[i];
        for (size_t i = 0; i < SPLIT; i++) byte[1][i] = (uint8_t)(word[i] >> 8);
        for (size_t b = 0; b < 2; b++) memcpy(to + b * plane + at, byte[b], count);
    }
}

static void split_f32(const float *x, size_t n, size_t plane, uint8_t *to) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        for (size_t b = 0; b < 4; b++) to[b * plane + i] = (uint8_t)(bits >> 8 * b);
    }
}

void eie_matrix_vector(const eie_matrix *m, const float *x, void *buffer, eie_vector *v) {
    const size_t item = item_bytes(m->format), plane = eie_matrix_plane(m);
    v->x = buffer;
    v->finite = true;
    if (used_as_it_is(m)) {
        v->x = x;
        return;
    }
    if (plane > 0) {
        uint8_t *to = buffer;
        int16_t *q = (int16_t *)(to + plane);
        if (m->format == EIE_I16) v->finite = m->quantize_i16(x, m->in, q, &v->exponent);
        const size_t kept = v->finite ? m->in : 0;
        if (m->format == EIE_I16) split_i16(q, kept, plane, to);
        else split_f32(x, kept, plane, to);
        for (size_t b = 0; b < item; b++) memset(to + b * plane + kept, 0, m->padded - kept);
        return;
    }
    if (m->format == EIE_F32) {
        memcpy(buffer, x, m->in * item);
    } else if (m->format == EIE_I16) {
        v->finite = m->quantize_i16(x, m->in, buffer, &v->exponent);
    } else {
        v->finite = m->quantize_u8(x, m->in, buffer, &v->scale, &v->zero);
    }
    const size_t kept = v->finite ? m->in : 0; /* what isn't finite was not written */
    memset((uint8_t *)buffer + kept * item, 0, (m->padded - kept) * item);
}

enum { SUMS = 4096 }; /* computed before they become outputs */

typedef union {
    float f[SUMS];
    int32_t i[SUMS];
    int64_t l[SUMS];
} eie_sums;

/* The outputs of n sums of one vector, from sum `at` of the matrix on. `sums` begins with those. */
static void output(const eie_matrix *m, const eie_vector *v, const void *sums, size_t at, size_t n, const float *bias, float *y) {
    const uint32_t *order = m->order + at;
    if (!v->finite) {
        for (size_t i = 0; i < n; i++) {
            if (order[i] != EIE_NO_ROW) y[order[i]] = NAN;
        }
        return;
    }
    if (m->format == EIE_U8 && m->panel_count == 1) {
        const eie_output_u8 how = {order, m->panels[0].row_sum + at, bias, v->scale * m->step, v->zero};
        m->output_u8(sums, n, &how, y);
        return;
    }
    const double factor_i16 = m->format == EIE_I16 ? ldexp(1.0, -(v->exponent + m->exponent)) : 0;
    const float factor_u8 = m->format == EIE_U8 ? v->scale * m->step : 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t row = order[i];
        if (row == EIE_NO_ROW) continue;
        const float made = m->format == EIE_F32 ? ((const float *)sums)[i]
                           : m->format == EIE_I16 ? eie_scale_i16(((const int64_t *)sums)[i], factor_i16)
                                                  : eie_scale_u8(((const int64_t *)sums)[i], factor_u8);
        y[row] = bias != NULL ? made + bias[row] : made;
    }
}

/* Adds the sums of a further panel; those of u8 are int64 and less zero times the sum of the row, where there are several. */
static void add_panel(const eie_matrix *m, const eie_vector *vectors, size_t count, size_t p, size_t at, size_t n, const eie_sums *part, eie_sums *sums) {
    for (size_t i = 0; i < count * n; i++) {
        if (m->format == EIE_F32) sums->f[i] = part->f[i] + (p > 0 ? sums->f[i] : 0);
        else if (m->format == EIE_I16) sums->l[i] = part->l[i] + (p > 0 ? sums->l[i] : 0);
        else sums->l[i] = part->i[i] - (int64_t)vectors[i / n].zero * m->panels[p].row_sum[at + i % n] + (p > 0 ? sums->l[i] : 0);
    }
}

void eie_matrix_rows(const eie_matrix *m, const eie_vector *vectors, size_t count, size_t begin, size_t end, const float *bias, float *y) {
    const size_t item = item_bytes(m->format), stride = used_as_it_is(m) ? m->in : eie_matrix_vector_bytes(m) / item;
    const size_t at_once = SUMS / (m->sums * count);
    const size_t sum_bytes = m->format == EIE_I16 || (m->format == EIE_U8 && m->panel_count != 1) ? sizeof(int64_t) : sizeof(float);
    eie_gemm_kernel *run = (eie_gemm_kernel *)m->kernel->run;
    for (size_t g = begin; g < end; g += at_once) {
        const size_t stop = g + at_once < end ? g + at_once : end, n = (stop - g) * m->sums;
        eie_sums sums, part;
        if (m->panel_count == 0) memset(&sums, 0, sizeof sums);
        for (size_t p = 0; p < m->panel_count; p++) {
            const void *x = (const uint8_t *)vectors[0].x + m->panels[p].column * (eie_matrix_plane(m) > 0 ? 1 : item);
            run(&m->panels[p].panel, x, stride, count, g, stop, m->panel_count > 1 ? &part : &sums);
            if (m->panel_count > 1) add_panel(m, vectors, count, p, g * m->sums, n, &part, &sums);
        }
        for (size_t v = 0; v < count; v++) {
            output(m, &vectors[v], (const uint8_t *)&sums + v * n * sum_bytes, g * m->sums, n, bias, y + v * m->out);
        }
    }
}
