/* Lists of entries, read back from the steps of a packed matrix. */
#include <stdlib.h>
#include <string.h>

#include "ops/matrix_lists.h"

enum { LANES = EIE_ROWS };

/* An entry of a step: its column in the window, and the number it stands for: int8 or int16, or the bits of a float. 0: none. */
typedef struct {
    uint32_t column, value;
} eie_entry;

static uint32_t number_at(eie_format format, const void *numbers, size_t i) {
    if (format == EIE_U8) return (uint32_t)((const int8_t *)numbers)[i];
    if (format == EIE_I16) return (uint32_t)((const int16_t *)numbers)[i];
    uint32_t bits;
    memcpy(&bits, (const uint8_t *)numbers + i * sizeof bits, sizeof bits);
    return bits & 0x7fffffff ? bits : 0;
}

/* The reverse of `put` in matrix_pack.c. */
static eie_entry entry_at(const eie_matrix *m, const eie_panel *p, size_t step, size_t entry) {
    const size_t at = step * LANES * m->kernel->per + entry;
    uint32_t column = 0, code = 0, word;
    switch (m->kernel->form) {
    case EIE_VALUE:
        return (eie_entry){p->index[at], number_at(m->format, p->weight, at)};
    case EIE_CODE4:
        column = p->index[at] & 63;
        code = p->index[at] >> 6;
        break;
    case EIE_CODE16:
        column = p->index[at];
        code = p->weight[step / 2 * 64 + entry] >> step % 2 * 4 & 15;
        break;
    case EIE_SPLIT16:
        column = p->index[at] >> 4 | (p->high[step / 4 * 64 + entry] >> step % 4 * 2 & 3) << 4 | (uint32_t)(p->upper[step] >> entry & 1) << 6;
        code = p->index[at] & 15;
        break;
    case EIE_WORD16:
        column = p->index[(step / 2 * 32 + entry) * 2 + step % 2];
        code = p->weight[(step / 4 * 32 + entry) * 2 + step % 4 / 2] >> step % 2 * 4 & 15;
        break;
    case EIE_TRIPLE32:
        memcpy(&word, p->index + (step / 3 * LANES + entry) * 4, sizeof word);
        column = word >> step % 3 * 10 & 31;
        code = word >> (step % 3 * 10 + 5) & 31;
        break;
    case EIE_PLANE:
        column = (p->index[at] & 15) | (p->index[at] & 128) >> 3;
        return (eie_entry){column, number_at(m->format, p->weight, eie_plane_place(m->format, step, entry))};
    case EIE_PLANE16:
    case EIE_NIBBLE16:
        word = (uint32_t)eie_plane_code(m->format, step, entry);
        code = p->weight[step / 2 * 32 + word % 32] >> word / 32 * 4 & 15;
        if (m->kernel->form == EIE_PLANE16) column = (p->index[at] & 15) | (p->index[at] & 128) >> 3;
        else column = p->index[step / 2 * 32 + entry] >> step % 2 * 4 & 15;
        break;
    }
    return (eie_entry){column, number_at(m->format, p->table, code)};
}

/* ---- by rows -------------------------------------------------------------------------------------------------------- */

/* All entries of a matrix by tile, chunk, row, column. */
typedef struct {
    size_t places;    /* (tile * chunks + chunk) * EIE_TILE + row */
    size_t *begin;    /* [places + 1] */
    uint16_t *column; /* in the chunk */
    uint32_t *value;
} eie_sorted;

/* Once to count, and once more to fill, where columns are given. Afterwards begin[i] is where place i ends. */
static void sort_entries(const eie_matrix *m, const eie_lists *l, eie_sorted *to) {
    const eie_panel *p = &m->panels[0].panel;
    const size_t per = m->kernel->per;
    for (size_t g = 0; g < m->groups; g++) {
        for (size_t s = p->first[g]; s < p->first[g + 1]; s++) {
            for (size_t e = 0; e < LANES * per; e++) {
                const eie_entry entry = entry_at(m, p, s, e);
                if (entry.value == 0) continue;
                const size_t set = m->kernel->sets > 1 && p->select[s] >> e / per & 1 ? 1 : 0, row = m->order[(g * m->kernel->sets + set) * LANES + e / per];
                const size_t column = p->origin[s] + entry.column, chunk = column / l->chunk;
                const size_t at = (row / EIE_TILE * l->chunks + chunk) * EIE_TILE + row % EIE_TILE;
                if (to->column != NULL) {
                    to->column[to->begin[at]] = (uint16_t)(column - chunk * l->chunk);
                    to->value[to->begin[at]] = entry.value;
                }
                to->begin[at]++;
            }
        }
    }
}

static void sums_before(eie_sorted *s) {
    size_t sum = 0;
    for (size_t i = 0; i <= s->places; i++) {
        const size_t here = i < s->places ? s->begin[i] : 0;
        s->begin[i] = sum;
        sum += here;
    }
}

static bool sort(const eie_matrix *m, const eie_lists *l, eie_sorted *s) {
    s->places = l->tiles * l->chunks * EIE_TILE;
    s->begin = calloc(s->places + 1, sizeof *s->begin);
    if (s->begin == NULL) return false;
    sort_entries(m, l, s);
    sums_before(s);
    const size_t count = s->begin[s->places];
    s->column = malloc((count + 1) * sizeof *s->column);
    s->value = malloc((count + 1) * sizeof *s->value);
    if (s->column == NULL || s->value == NULL || count > UINT32_MAX / 4) return false;
    sort_entries(m, l, s);
    memmove(s->begin + 1, s->begin, s->places * sizeof *s->begin);
    s->begin[0] = 0;
    return true;
}

/* ---- items ---------------------------------------------------------------------------------------------------------- */

/* Items of a tile's rows in a chunk, as they are made. */
typedef struct {
    eie_format format;
    eie_lists *lists;
    size_t per, bytes, scale; /* entries of an item; bytes of a weight; of a column to its place */
    uint16_t *place, *order;
    uint8_t *weight;
    size_t count;             /* entries */
    size_t first[EIE_TILE + 1];
    size_t values;            /* f32: of the table, in use */
    uint16_t slot[1024];      /* f32: of values, by their hash: one more than their place in the table, 0: free */
} eie_items;

static uint8_t code_of(eie_items *to, uint32_t bits) {
    uint32_t h = bits * 2654435761u >> 22;
    for (;; h = (h + 1) % 1024) {
        if (to->slot[h] == 0) { /* a codebook has no more than 256 */
            memcpy(&to->lists->table[to->values], &bits, sizeof bits);
            to->slot[h] = (uint16_t)++to->values;
        }
        if (memcmp(&to->lists->table[to->slot[h] - 1], &bits, sizeof bits) == 0) return (uint8_t)(to->slot[h] - 1);
    }
}

static void put(eie_items *to, uint16_t column, uint32_t value) {
    to->place[to->count] = (uint16_t)(column * to->scale);
    if (to->format == EIE_I16) memcpy(to->weight + 2 * to->count, &(int16_t){(int16_t)value}, 2);
    else to->weight[to->count] = to->format == EIE_U8 ? (uint8_t)value : code_of(to, value);
    to->count++;
}

/* Bytes in pairs whose products fit int16 together. Those of opposite signs always do, so the sign that is in the majority keeps its
 * smallest for pairs of its own: a large one and a small one as long as they fit, else one alone. */
static void pair_bytes(eie_items *to, const uint16_t *column, const uint32_t *value, size_t n) {
    size_t bucket[257] = {0}, minority = 0; /* by sign, then magnitude, the largest first */
    uint16_t *order = to->order;
    for (size_t i = 0; i < n; i++) minority += (int32_t)value[i] < 0;
    const bool flip = minority > n - minority; /* negative ones are the majority */
    if (flip) minority = n - minority;
#define KEY(i) ((size_t)(((int32_t)value[i] < 0) != flip ? 128 : 0) + (size_t)(127 - abs((int32_t)value[i])))
    for (size_t i = 0; i < n; i++) bucket[KEY(i) + 1]++;
    for (size_t i = 0; i < 256; i++) bucket[i + 1] += bucket[i];
    for (size_t i = 0; i < n; i++) order[bucket[KEY(i)]++] = (uint16_t)i;
#undef KEY
    for (size_t i = 0; i < minority; i++) {
        put(to, column[order[i]], value[order[i]]);
        put(to, column[order[n - minority + i]], value[order[n - minority + i]]);
    }
    size_t small = n - minority;
    for (size_t large = minority; large < small; large++) {
        put(to, column[order[large]], value[order[large]]);
        const bool fits = small - 1 > large && abs((int32_t)value[order[large]]) + abs((int32_t)value[order[small - 1]]) <= 128;
        if (fits) small--;
        put(to, fits ? column[order[small]] : 0, fits ? value[order[small]] : 0);
    }
}

static void make_items(eie_items *to, const eie_sorted *s, size_t at) {
    to->count = 0;
    for (size_t r = 0; r < EIE_TILE; r++) {
        const uint16_t *column = s->column + s->begin[at + r];
        const uint32_t *value = s->value + s->begin[at + r];
        const size_t n = s->begin[at + r + 1] - s->begin[at + r];
        to->first[r] = to->count;
        if (to->format == EIE_U8) pair_bytes(to, column, value, n);
        for (size_t e = 0; to->format != EIE_U8 && e < n; e++) put(to, column[e], value[e]);
        for (; to->count % to->per != 0; to->count++) {
            to->place[to->count] = 0;
            memset(to->weight + to->count * to->bytes, 0, to->bytes);
        }
    }
    to->first[EIE_TILE] = to->count;
}

/* The first `rows` in the order of their counts, the largest first. */
static void order_rows(const eie_items *from, size_t rows, uint8_t *row) {
    for (size_t r = 0; r < EIE_TILE; r++) {
        size_t i = r;
        const size_t n = from->first[r + 1] - from->first[r];
        for (; r < rows && i > 0 && from->first[row[i - 1] + 1] - from->first[row[i - 1]] < n; i--) row[i] = row[i - 1];
        row[i] = (uint8_t)r;
    }
}

/* Appends the items made, row by row; `count`: entries of the lists. */
static size_t append(const eie_items *from, size_t at, size_t count) {
    eie_lists *l = from->lists;
    for (size_t i = 0; i < EIE_TILE; i++) {
        const size_t begin = from->first[l->row[at + i]], n = from->first[l->row[at + i] + 1] - begin;
        l->first[at + i] = (uint32_t)(count / from->per);
        memcpy(l->place + count, from->place + begin, n * sizeof *l->place);
        memcpy(l->weight + count * from->bytes, from->weight + begin * from->bytes, n * from->bytes);
        count += n;
    }
    return count;
}

static void fill(const eie_matrix *m, const eie_sorted *s, eie_items *items) {
    eie_lists *l = items->lists;
    size_t count = 0;
    for (size_t at = 0; at < s->places; at += EIE_TILE) {
        const size_t row = at / EIE_TILE / l->chunks * EIE_TILE, rows = m->out - row < EIE_TILE ? m->out - row : EIE_TILE;
        make_items(items, s, at);
        order_rows(items, rows, l->row + at);
        count = append(items, at, count);
        for (size_t e = s->begin[at], r = 0; m->format == EIE_U8 && e < s->begin[at + EIE_TILE]; e++) {
            while (e >= s->begin[at + r + 1]) r++;
            l->row_sum[row + r] += (int32_t)s->value[e];
        }
    }
    l->first[s->places] = (uint32_t)(count / items->per);
    /* what was allocated in case is given back */
    void *place = realloc(l->place, (count + 1) * sizeof *l->place), *weight = realloc(l->weight, (count + 1) * items->bytes);
    if (place != NULL) l->place = place;
    if (weight != NULL) l->weight = weight;
    l->bytes = sizeof *l + s->places * (sizeof *l->first + 1) + count * (sizeof *l->place + items->bytes) + m->out * sizeof *l->row_sum;
}

static bool allocate(const eie_matrix *m, const eie_sorted *s, eie_items *items) {
    eie_lists *l = items->lists;
    const size_t alone = m->format == EIE_U8 ? 2 : 1; /* every byte may be left without another */
    const size_t most = s->begin[s->places] * alone + s->places * items->per, here = EIE_TILE * (EIE_CHUNK * alone + items->per);
    l->first = malloc((s->places + 1) * sizeof *l->first);
    l->row = malloc(s->places);
    l->place = malloc((most + 1) * sizeof *l->place);
    l->weight = malloc((most + 1) * items->bytes);
    l->row_sum = calloc(m->out, sizeof *l->row_sum);
    items->place = malloc(here * sizeof *items->place);
    items->weight = malloc(here * items->bytes);
    items->order = malloc(EIE_CHUNK * sizeof *items->order);
    return l->first != NULL && l->row != NULL && l->place != NULL && l->weight != NULL && l->row_sum != NULL && items->place != NULL &&
           items->weight != NULL && items->order != NULL;
}

eie_lists *eie_lists_make(const eie_matrix *m, const eie_kernel *k) {
    const size_t item = m->format == EIE_F32 ? 4 : m->format == EIE_I16 ? 2 : 1;
    eie_sorted sorted = {0};
    eie_lists *l = calloc(1, sizeof *l);
    eie_items *items = calloc(1, sizeof *items);
    bool made = l != NULL && items != NULL;
    if (made) {
        l->chunk = EIE_CHUNK / item;
        l->chunks = (m->in + l->chunk - 1) / l->chunk;
        l->tiles = (m->out + EIE_TILE - 1) / EIE_TILE;
        items->format = m->format;
        items->lists = l;
        items->per = k->per;
        items->bytes = m->format == EIE_I16 ? 2 : 1;
        items->scale = 4 * item;
        made = sort(m, l, &sorted) && allocate(m, &sorted, items);
    }
    if (made) fill(m, &sorted, items);
    free(sorted.begin);
    free(sorted.column);
    free(sorted.value);
    if (items != NULL) {
        free(items->place);
        free(items->weight);
        free(items->order);
    }
    free(items);
    if (made) return l;
    eie_lists_free(l);
    return NULL;
}

void eie_lists_free(eie_lists *l) {
    if (l == NULL) return;
    free(l->first);
    free(l->row);
    free(l->place);
    free(l->weight);
    free(l->row_sum);
    free(l);
}
