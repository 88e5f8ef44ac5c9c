/* How the entries of a matrix become the steps of a panel. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels/quantize.h"
#include "ops/matrix_batch.h"

enum { LANES = EIE_ROWS, MOST_ROWS = EIE_ROWS * EIE_SETS };

/* What a panel is packed from: columns [column, column + width) of codes [out, in]. */
typedef struct {
    const eie_matrix *matrix;
    const uint8_t *codes;
    const void *values; /* of each code: float, int8 or int16 */
    uint32_t codebook_size;
    size_t column, width;
    size_t room; /* entries that a group has at most */
    const eie_parallel *parallel;
} eie_source;

/* The entries of a group's rows, in the order of their columns. */
typedef struct {
    uint16_t *column;
    uint8_t *code;
    size_t begin[MOST_ROWS + 1]; /* of the rows: set by set, lane by lane */
} eie_entries;

static size_t item_bytes(eie_format format) { return format == EIE_F32 ? sizeof(float) : format == EIE_I16 ? sizeof(int16_t) : 1; }

/* Bit 8 i + 7 of the result is set where byte i in memory order of v, counted from the lowest, is not zero. */
static uint64_t nonzero_bytes(uint64_t v) {
    const uint64_t low = 0x7f7f7f7f7f7f7f7fu;
    return (((v & low) + low) | v) & ~low;
}

static size_t lowest_byte(uint64_t flags) {
#if defined(__GNUC__)
    return (size_t)__builtin_ctzll(flags) / 8;
#else
    size_t i = 0;
    while (!(flags >> 8 * i & 0x80)) i++;
    return i;
#endif
}

static uint64_t eight_bytes(const uint8_t *from, size_t n) {
    uint64_t v = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    for (size_t i = 0; i < n; i++) v |= (uint64_t)from[i] << 8 * i;
#else
    memcpy(&v, from, n);
#endif
    return v;
}

static bool entries_make(const eie_source *s, eie_entries *to) {
    *to = (eie_entries){malloc(s->room * sizeof(uint16_t)), malloc(s->room), {0}};
    return to->column != NULL && to->code != NULL;
}

static void entries_free(eie_entries *e) {
    free(e->column);
    free(e->code);
}

static void collect(const eie_source *s, size_t group, eie_entries *to) {
    const eie_matrix *m = s->matrix;
    size_t count = 0;
    for (size_t i = 0; i < m->sums; i++) {
        const uint32_t r = m->order[group * m->sums + i];
        to->begin[i] = count;
        if (r == EIE_NO_ROW) continue;
        const uint8_t *row = s->codes + (size_t)r * m->in + s->column;
        for (size_t c = 0; c < s->width; c += 8) {
            const uint64_t eight = s->width - c >= 8 ? eight_bytes(row + c, 8) : eight_bytes(row + c, s->width - c);
            for (uint64_t flags = nonzero_bytes(eight); flags != 0; flags &= flags - 1) {
                const size_t at = lowest_byte(flags);
                to->column[count] = (uint16_t)(c + at);
                to->code[count++] = (uint8_t)(eight >> 8 * at);
            }
        }
    }
    to->begin[m->sums] = count;
}

/* ---- writing the steps by form --------------------------------------------------------------------------------------- */

typedef struct {
    uint16_t *origin, *select;
    uint8_t *index, *weight, *high;
    uint64_t *upper;
} eie_writer;

static void put(const eie_source *s, const eie_writer *w, size_t step, size_t entry, size_t column, uint8_t code) {
    const eie_kernel *k = s->matrix->kernel;
    const size_t at = step * LANES * k->per + entry;
    switch (k->form) {
    case EIE_VALUE:
        w->index[at] = (uint8_t)column;
        memcpy(w->weight + at * item_bytes(s->matrix->format), (const uint8_t *)s->values + code * item_bytes(s->matrix->format),
               item_bytes(s->matrix->format));
        break;
    case EIE_CODE4:
        w->index[at] = (uint8_t)(column | (size_t)code << 6);
        break;
    case EIE_CODE16:
        w->index[at] = (uint8_t)column;
        w->weight[step / 2 * 64 + entry] |= (uint8_t)(code << step % 2 * 4);
        break;
    case EIE_SPLIT16:
        w->index[at] = (uint8_t)(column << 4 | code);
        w->high[step / 4 * 64 + entry] |= (uint8_t)((column >> 4 & 3) << step % 4 * 2);
        w->upper[step] |= (uint64_t)(column >> 6) << entry;
        break;
    case EIE_WORD16:
        w->index[(step / 2 * 32 + entry) * 2 + step % 2] = (uint8_t)column;
        w->weight[(step / 4 * 32 + entry) * 2 + step % 4 / 2] |= (uint8_t)(code << step % 2 * 4);
        break;
    case EIE_PLANE:
        w->index[at] = (uint8_t)((column & 15) | (column & 16) << 3);
        memcpy(w->weight + eie_plane_place(s->matrix->format, step, entry) * item_bytes(s->matrix->format),
               (const uint8_t *)s->values + code * item_bytes(s->matrix->format), item_bytes(s->matrix->format));
        break;
    case EIE_PLANE16:
    case EIE_NIBBLE16: {
        const size_t place = eie_plane_code(s->matrix->format, step, entry);
        if (k->form == EIE_PLANE16) w->index[at] = (uint8_t)((column & 15) | (column & 16) << 3);
        else w->index[step / 2 * 32 + entry] |= (uint8_t)(column << step % 2 * 4);
        w->weight[step / 2 * 32 + place % 32] |= (uint8_t)(code << place / 32 * 4);
        break;
    }
    case EIE_TRIPLE32: {
        uint32_t word;
        memcpy(&word, w->index + (step / 3 * LANES + entry) * 4, sizeof word);
        word |= (uint32_t)(column | (size_t)code << 5) << step % 3 * 10;
        memcpy(w->index + (step / 3 * LANES + entry) * 4, &word, sizeof word);
        break;
    }
    }
}

/* ---- the schedule ---------------------------------------------------------------------------------------------------- */

/* How many entries of a row a step could take now. */
static size_t reach(const eie_entries *e, size_t at, size_t end, size_t beyond, size_t per) {
    size_t n = 0;
    while (n < per && at + n < end && e->column[at + n] < beyond) n++;
    return n;
}

/* The steps of a group, written from `step` on unless `to` is NULL. A window can begin no later than the first entry that is
 * left, so it begins there; each lane then takes what it can of the row that gains most by it: the one that holds the window
 * back, else the one that fills the lane, else the one that is behind. */
static size_t schedule(const eie_source *s, const eie_kernel *k, const eie_entries *e, size_t step, const eie_writer *to) {
    const size_t rows = LANES * k->sets, limit = s->matrix->padded - s->column - k->window, from = step;
    size_t at[MOST_ROWS];
    uint32_t head[MOST_ROWS];
    for (size_t r = 0; r < rows; r++) {
        at[r] = e->begin[r];
        head[r] = at[r] < e->begin[r + 1] ? e->column[at[r]] : UINT32_MAX;
    }
    for (;; step++) {
        uint32_t lowest = UINT32_MAX;
        for (size_t r = 0; r < rows; r++) lowest = head[r] < lowest ? head[r] : lowest;
        if (lowest == UINT32_MAX) break;
        const size_t origin = lowest < limit ? lowest : limit;
        uint32_t select = 0;
        for (size_t lane = 0; lane < LANES; lane++) {
            size_t row = lane, n = reach(e, at[lane], e->begin[lane + 1], origin + k->window, k->per);
            if (k->sets > 1 && head[lane + LANES] != UINT32_MAX) {
                const size_t other = lane + LANES, m = reach(e, at[other], e->begin[other + 1], origin + k->window, k->per);
                const bool holds = head[row] == lowest, other_holds = head[other] == lowest;
                if (other_holds != holds ? other_holds : m != n ? m > n : head[other] < head[row]) {
                    row = other;
                    n = m;
                    if (n > 0) select |= 1u << lane;
                }
            }
            for (size_t i = 0; to != NULL && i < n; i++) put(s, to, step, lane * k->per + i, e->column[at[row] + i] - origin, e->code[at[row] + i]);
            at[row] += n;
            head[row] = at[row] < e->begin[row + 1] ? e->column[at[row]] : UINT32_MAX;
        }
        if (to == NULL) continue;
        to->origin[step] = (uint16_t)origin;
        if (k->sets > 1) to->select[step] = (uint16_t)select;
    }
    return (step - from + k->unroll - 1) / k->unroll * k->unroll;
}

/* ---- a panel --------------------------------------------------------------------------------------------------------- */

enum { HUGE_PAGE = 1 << 21, NEAR = 1700 << 10 }; /* bytes; NEAR: what stays in a second-level cache of two megabytes */

/* Zeroed, aligned to a cache line, large ones to huge pages where the system has them: a stream from memory runs a third
 * faster over those. */
static uint8_t *allocate(size_t bytes, void **memory) {
    const size_t line = bytes >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : 64;
    *memory = malloc(bytes + line);
    if (*memory == NULL) return NULL;
    uint8_t *begin = (uint8_t *)(((uintptr_t)*memory + line - 1) / line * line);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (line == HUGE_PAGE) (void)madvise(begin, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    memset(begin, 0, bytes);
    return begin;
}

/* Bytes of the parts of a panel, a multiple of 64 each: first, origin, select, index, weight, high, upper, table, row_sum, start. */
enum { PARTS = 10 };
static void sizes(const eie_kernel *k, eie_format format, size_t groups, size_t steps, size_t *bytes) {
    const size_t entries = steps * LANES * k->per;
    bytes[0] = (groups + 1) * sizeof(size_t);
    bytes[1] = steps * sizeof(uint16_t);
    bytes[2] = k->sets > 1 ? steps * sizeof(uint16_t) : 0;
    bytes[3] = k->form == EIE_TRIPLE32 ? steps / 3 * 64 : k->form == EIE_NIBBLE16 ? entries / 2 : entries;
    const bool nibbles = k->form == EIE_CODE16 || k->form == EIE_WORD16 || k->form == EIE_PLANE16 || k->form == EIE_NIBBLE16;
    bytes[4] = k->form == EIE_VALUE || k->form == EIE_PLANE ? entries * item_bytes(format) : nibbles ? entries / 2 : 0;
    bytes[5] = k->form == EIE_SPLIT16 ? steps * 16 : 0;
    bytes[6] = k->form == EIE_SPLIT16 ? steps * sizeof(uint64_t) : 0;
    bytes[7] = k->codes * item_bytes(format);
    bytes[8] = format == EIE_U8 ? groups * LANES * k->sets * sizeof(int32_t) : 0;
    bytes[9] = bytes[8];
    for (int i = 0; i < PARTS; i++) bytes[i] = (bytes[i] + 63) / 64 * 64;
}

/* Sums of the weights of a group's rows, and the `start` of kernels.h. */
static void sum_rows(const eie_source *s, const eie_entries *e, int32_t *sums, int32_t *start) {
    const int8_t *values = s->values;
    for (size_t i = 0; i < s->matrix->sums; i++) {
        int32_t negative = 0;
        sums[i] = 0;
        for (size_t k = e->begin[i]; k < e->begin[i + 1]; k++) {
            sums[i] += values[e->code[k]];
            negative += values[e->code[k]] < 0 ? values[e->code[k]] : 0;
        }
        start[i] = 128 * sums[i] - negative;
    }
}

/* A panel being packed, by as many threads as there are: groups share no bytes, for their steps fill whole words. */
typedef struct {
    const eie_source *source;
    const eie_writer *writer; /* NULL: the steps of each group are counted, first[g + 1] */
    size_t *first;
    int32_t *sums, *start;
    size_t groups; /* of a task */
    atomic_bool failed;
} eie_packing;

static void pack_groups(void *context, size_t task) {
    eie_packing *p = context;
    const eie_source *s = p->source;
    const eie_matrix *m = s->matrix;
    const size_t begin = task * p->groups, end = begin + p->groups < m->groups ? begin + p->groups : m->groups;
    eie_entries entries;
    if (!entries_make(s, &entries)) atomic_store(&p->failed, true);
    else {
        for (size_t g = begin; g < end; g++) {
            collect(s, g, &entries);
            const size_t steps = schedule(s, m->kernel, &entries, p->writer != NULL ? p->first[g] : 0, p->writer);
            if (p->writer == NULL) p->first[g + 1] = steps;
            else if (m->format == EIE_U8) sum_rows(s, &entries, p->sums + g * m->sums, p->start + g * m->sums);
        }
    }
    entries_free(&entries);
}

enum { TASK_WEIGHTS = 1 << 19 }; /* of a task: a millisecond's work */

static bool pack_all(eie_packing *p) {
    const eie_matrix *m = p->source->matrix;
    p->groups = TASK_WEIGHTS / (m->sums * (p->source->width + 1)) + 1;
    eie_for(p->source->parallel, (m->groups + p->groups - 1) / p->groups, pack_groups, p);
    return !atomic_load(&p->failed);
}

static eie_status pack_panel(const eie_source *s, eie_matrix_panel *to, uint64_t *held) {
    const eie_matrix *m = s->matrix;
    const eie_kernel *k = m->kernel;
    size_t *first = calloc(m->groups + 1, sizeof *first), bytes[PARTS], total = 0;
    eie_packing p = {.source = s, .first = first};
    if (first == NULL || !pack_all(&p)) {
        free(first);
        return EIE_E_MEMORY;
    }
    for (size_t g = 0; g < m->groups; g++) first[g + 1] += first[g];
    sizes(k, m->format, m->groups, first[m->groups], bytes);
    for (int i = 0; i < PARTS; i++) total += bytes[i];
    uint8_t *part[PARTS], *begin = allocate(total, &to->memory);
    if (begin == NULL) {
        free(first);
        return EIE_E_MEMORY;
    }
    for (int i = 0; i < PARTS; begin += bytes[i], i++) part[i] = begin;
    memcpy(part[0], first, (m->groups + 1) * sizeof *first);
    free(first);
    const eie_writer writer = {(uint16_t *)part[1], (uint16_t *)part[2], part[3], part[4], part[5], (uint64_t *)part[6]};
    p.writer = &writer;
    p.first = (size_t *)part[0];
    p.sums = (int32_t *)part[8];
    p.start = (int32_t *)part[9];
    if (!pack_all(&p)) return EIE_E_MEMORY; /* what there is of the panel is freed with the matrix */
    if (k->codes > 0) memcpy(part[7], s->values, s->codebook_size * item_bytes(m->format));
    to->row_sum = (int32_t *)part[8];
    to->column = s->column;
    to->panel = (eie_panel){m->groups, (const size_t *)part[0], writer.origin, writer.select, part[3], part[4], part[5], writer.upper, part[7],
                            (const int32_t *)part[9], eie_matrix_plane(m), total > NEAR};
    *held += total;
    return EIE_OK;
}

/* ---- the matrix ------------------------------------------------------------------------------------------------------ */

static int fuller(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Rows of a block are ordered together, few enough that their outputs stay near each other. */
enum { BLOCK = 1024 };

/* Rows with as many entries share a group: none waits for another at the end. */
static eie_status arrange(eie_matrix *m, const uint8_t *codes, size_t *most) {
    uint64_t *keys = malloc((m->out + 1) * sizeof *keys); /* entries a row lacks, row */
    m->order = malloc((m->groups * m->sums + 1) * sizeof *m->order);
    if (keys == NULL || m->order == NULL) {
        free(keys);
        return EIE_E_MEMORY;
    }
    for (size_t r = 0; r < m->out; r++) {
        size_t zeros = 0;
        for (size_t c = 0; c < m->in; c++) zeros += codes[r * m->in + c] == 0;
        keys[r] = (uint64_t)zeros << 32 | r;
    }
    *most = 0;
    for (size_t r = 0; r < m->out; r += BLOCK) {
        qsort(keys + r, m->out - r < BLOCK ? m->out - r : BLOCK, sizeof *keys, fuller);
        if (m->in - (size_t)(keys[r] >> 32) > *most) *most = m->in - (size_t)(keys[r] >> 32);
    }
    for (size_t i = 0; i < m->groups * m->sums; i++) {
        const size_t set = i / LANES % (m->sums / LANES), lane = i % LANES;
        const size_t from = i - lane + (set % 2 ? LANES - 1 - lane : lane); /* a full row beside an emptier one */
        m->order[i] = from < m->out ? (uint32_t)keys[from] : EIE_NO_ROW;
    }
    free(keys);
    return EIE_OK;
}

static void shape(eie_matrix *m, const eie_kernel *k) {
    m->kernel = k;
    m->sums = LANES * k->sets;
    m->groups = (m->out + m->sums - 1) / m->sums;
    m->padded = m->in > k->window ? m->in : k->window;
    const size_t last = m->panel_count > 0 ? m->in - (m->panel_count - 1) * EIE_PANEL : 0; /* of the last panel's columns */
    if (m->panel_count > 1 && last < k->window) m->padded += k->window - last;
}

/* Clock cycles of a step, roughly, measured where the weights stay in the first two caches. */
static double step_cycles(const eie_kernel *k, eie_format format) {
    switch (k->form) {
    case EIE_SPLIT16: return 6.6;
    case EIE_WORD16: return k->window > 32 ? 6.2 : 4.7;
    case EIE_PLANE16: return format == EIE_F32 ? 16.8 : format == EIE_I16 ? 7.2 : 4.2;
    case EIE_NIBBLE16: return format == EIE_F32 ? 14.5 : format == EIE_I16 ? 6.0 : 3.8;
    default: return 3.7;
    }
}

/* Clock cycles of a product, roughly: of computing, or of reading where the weights don't fit the second-level cache.
 * Figures: docs/kernels.md. */
static double cycles(const eie_matrix *m, size_t steps) {
    size_t bytes[PARTS], total = 0;
    sizes(m->kernel, m->format, m->groups, steps, bytes);
    for (int i = 0; i < PARTS; i++) total += bytes[i];
    const double computing = (double)steps * step_cycles(m->kernel, m->format), reading = (double)total / (total < NEAR ? 40 : 8);
    return computing > reading ? computing : reading;
}

/* The form of this instruction set that is expected to be fastest: judged on a sample of the groups. */
static const eie_kernel *choose(const eie_matrix *m, const eie_source *s, eie_entries *entries) {
    const eie_kernel *best = m->kernel;
    double least = INFINITY;
    if (m->out < 64) return best;
    for (const eie_kernel *k = m->kernel; k != NULL; k = k->codes > 0 ? eie_kernel_other(k, s->codebook_size) : NULL) {
        size_t steps = 0, seen = 0;
        eie_matrix tried = *m;
        eie_source from = *s;
        from.matrix = &tried;
        shape(&tried, k);
        tried.groups = m->out / tried.sums; /* the order of whole groups is all it needs: of the first kind, whichever it is */
        for (size_t g = 0; g < tried.groups; g += (tried.groups + 15) / 16, seen++) {
            collect(&from, g, entries);
            steps += schedule(&from, k, entries, 0, NULL);
        }
        const double time = seen > 0 ? cycles(&tried, steps * tried.groups / seen) : 0;
        if (time < least) {
            least = time;
            best = k;
        }
    }
    return best;
}

static eie_status pack(eie_matrix *m, eie_source *s) {
    size_t most;
    eie_status status = arrange(m, s->codes, &most);
    if (status != EIE_OK) return status;
    s->room = (most < EIE_PANEL ? most : EIE_PANEL) * MOST_ROWS + 8;
    s->width = m->in < EIE_PANEL ? m->in : EIE_PANEL;
    eie_entries entries;
    if (!entries_make(s, &entries)) status = EIE_E_MEMORY;
    const eie_kernel *best = status == EIE_OK ? choose(m, s, &entries) : m->kernel;
    entries_free(&entries);
    if (best != m->kernel) {
        shape(m, best);
        free(m->order);
        m->order = NULL;
        status = arrange(m, s->codes, &most);
    }
    m->panels = calloc(m->panel_count + 1, sizeof *m->panels);
    if (m->panels == NULL) status = EIE_E_MEMORY;
    for (size_t i = 0; i < m->panel_count && status == EIE_OK; i++) {
        s->column = i * EIE_PANEL;
        s->width = m->in - s->column < EIE_PANEL ? m->in - s->column : EIE_PANEL;
        status = pack_panel(s, &m->panels[i], &m->bytes);
    }
    m->bytes += m->groups * m->sums * sizeof *m->order;
    return status;
}

eie_status eie_matrix_pack(const uint8_t *codes, const float *codebook, uint32_t codebook_size, size_t out, size_t in,
                           eie_format format, const eie_parallel *parallel, eie_matrix *m) {
    static const eie_kernel_kind kinds[] = {EIE_GEMM_F32, EIE_GEMM_I16, EIE_GEMM_U8};
    int8_t bytes[256];
    int16_t words[256];
    memset(m, 0, sizeof *m);
    if (in > INT32_MAX || out > INT32_MAX) return EIE_E_SHAPE;
    m->out = out;
    m->in = in;
    m->format = format;
    m->panel_count = (in + EIE_PANEL - 1) / EIE_PANEL;
    m->quantize_u8 = (eie_quantize_u8_kernel *)eie_kernel_find(EIE_QUANTIZE_U8, 0)->run;
    m->quantize_i16 = (eie_quantize_i16_kernel *)eie_kernel_find(EIE_QUANTIZE_I16, 0)->run;
    m->output_u8 = (eie_output_u8_kernel *)eie_kernel_find(EIE_OUTPUT_U8, 0)->run;
    shape(m, eie_kernel_find(kinds[format], codebook_size));
    if (format == EIE_U8) eie_codebook_u8(codebook, codebook_size, bytes, &m->step);
    if (format == EIE_I16) eie_codebook_i16(codebook, codebook_size, words, &m->exponent);
    const void *values = format == EIE_F32 ? (const void *)codebook : format == EIE_I16 ? (const void *)words : (const void *)bytes;
    eie_source source = {m, codes, values, codebook_size, 0, 0, 0, parallel};
    m->later = eie_matrix_later_create();
    const eie_status status = m->later != NULL ? pack(m, &source) : EIE_E_MEMORY;
    if (status != EIE_OK) eie_matrix_free(m);
    return status;
}

void eie_matrix_free(eie_matrix *m) {
    for (size_t i = 0; m->panels != NULL && i < m->panel_count; i++) free(m->panels[i].memory);
    free(m->panels);
    free(m->order);
    eie_matrix_later_free(m->later);
    m->panels = NULL;
    m->order = NULL;
    m->later = NULL;
}
