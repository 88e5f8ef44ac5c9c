/* The accelerator, to the cycle: EIE's processing elements on one matrix (ISCA 2016, section IV).
 *
 * Elements only wait for their own queue, and the broadcast only for a full one. So nothing need be stepped: when each
 * column is broadcast and when each element takes it from its queue follow from earlier such times alone, and these are
 * exactly the cycles a machine stepped register by register would show (tests/hardware/stepped.py is one).
 *
 *     broadcast(j) = max(broadcast(j-1) + 1, its row of activations is there + 1, every element took column j - depth, + 1)
 *     take(e, j)   = max(take(e, j-1) + work(e, j-1), broadcast(j) + 1)        work: entries, fillers included; 1 if none
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "eie.h"

enum {
    FIRST_ROW = 1, /* cycle in which the first row of activations is at hand */
    PIPELINE = 6   /* from an entry's pointer stage to the cycle that sees its write done */
};

/* What one vector leaves to be timed: for each broadcast column, the work it makes. */
typedef struct {
    uint32_t index; /* of the column */
    uint32_t row;   /* of activations */
    bool last;      /* in its row's last place: then no cycle passes to see that the row holds no more */
} broadcast;

typedef struct {
    broadcast *columns;
    uint32_t *counts;         /* [column][element] entries */
    uint16_t *first, *end;    /* [column][element] accumulators of the first and last entry that is no filler */
    uint64_t *free, *newest;  /* [element] when it is done with its last column; [depth] ring of max take */
    uint32_t *previous;       /* [element] accumulator that was written last */
    size_t count;
} schedule;

static void release(schedule *s) {
    free(s->columns);
    free(s->counts);
    free(s->first);
    free(s->end);
    free(s->free);
    free(s->newest);
    free(s->previous);
}

static bool reserve(schedule *s, const eie_machine *m, uint64_t columns) {
    const size_t each = (size_t)columns * m->elements;
    *s = (schedule){0};
    s->columns = malloc((size_t)(columns + 1) * sizeof *s->columns);
    s->counts = malloc((each + 1) * sizeof *s->counts);
    s->first = malloc((each + 1) * sizeof *s->first);
    s->end = malloc((each + 1) * sizeof *s->end);
    s->free = malloc(m->elements * sizeof *s->free);
    s->newest = malloc(m->depth * sizeof *s->newest);
    s->previous = malloc(m->elements * sizeof *s->previous);
    return s->columns && s->counts && s->first && s->end && s->free && s->newest && s->previous;
}

/* An image comes from a file: everything the loops below rely on. */
static eie_status check(const eie_machine *m, const eie_image *image) {
    if (m->elements < 1 || m->elements > EIE_MOST_ELEMENTS || m->depth < 1 || m->depth > EIE_MOST_DEPTH || m->line < 1) return EIE_E_ARGUMENT;
    if (image->rows < 1 || image->rows > UINT16_MAX || image->inputs > image->columns || image->columns > EIE_MOST_COLUMNS) return EIE_E_SHAPE;
    uint64_t begin = 0;
    for (uint32_t e = 0; e < m->elements; e++) {
        const uint32_t *p = image->pointers + (size_t)e * (image->columns + 1);
        const uint8_t *runs = image->runs + begin;
        if (p[0] != 0) return EIE_E_CORRUPT;
        for (uint64_t j = 0; j < image->columns; j++) {
            uint32_t row = 0;
            if (p[j + 1] < p[j]) return EIE_E_CORRUPT;
            if (p[j + 1] > image->entries - begin) return EIE_E_CORRUPT;
            for (uint32_t i = p[j]; i < p[j + 1]; i++) {
                row += runs[i];
                if (row >= image->rows || image->codes[begin + i] >= image->codebook_size) return EIE_E_CORRUPT;
                row++;
            }
        }
        begin += p[image->columns];
    }
    return begin == image->entries ? EIE_OK : EIE_E_CORRUPT;
}

/* Which columns are broadcast, in order: activations that count, in rows of one an element, and then the bias column. */
static void scan(schedule *s, const eie_machine *m, const eie_image *image, const int16_t *x) {
    s->count = 0;
    for (uint64_t j = 0; j < image->inputs; j++) {
        if (m->skip_negative ? x[j] <= 0 : x[j] == 0) continue;
        s->columns[s->count++] = (broadcast){(uint32_t)j, (uint32_t)(j / m->elements), j % m->elements == m->elements - 1};
    }
    if (image->columns > image->inputs) {
        const uint32_t row = (uint32_t)((image->inputs + m->elements - 1) / m->elements);
        s->columns[s->count++] = (broadcast){(uint32_t)image->inputs, row, m->elements == 1};
    }
}

/* What the elements compute, in the order of their images; sums of the bias column are left to whoever adds the bias. */
static void compute(schedule *s, const eie_machine *m, const eie_image *image, const int16_t *x, int64_t *sums, eie_activity *a,
                    eie_load *loads) {
    uint64_t begin = 0;
    for (uint32_t e = 0; e < m->elements; e++) {
        const uint32_t *p = image->pointers + (size_t)e * (image->columns + 1);
        const uint8_t *codes = image->codes + begin, *runs = image->runs + begin;
        uint64_t line = UINT64_MAX, visited = 0, fillers = 0;
        for (size_t t = 0; t < s->count; t++) {
            const uint32_t j = s->columns[t].index, count = p[j + 1] - p[j];
            const int64_t value = j < image->inputs ? x[j] : 0;
            const size_t at = t * m->elements + e;
            uint32_t row = UINT32_MAX, first = UINT16_MAX; /* the row before the first */
            for (uint32_t i = p[j]; i < p[j + 1]; i++) {
                row += runs[i] + 1;
                if (codes[i] == 0) {
                    fillers++;
                    continue;
                }
                if (first == UINT16_MAX) first = row;
                if (sums != NULL) sums[(uint64_t)row * m->elements + e] += value * image->codebook[codes[i]];
            }
            s->counts[at] = count;
            s->first[at] = (uint16_t)first;
            s->end[at] = (uint16_t)row;
            visited += count;
            if (count > 0) {
                const uint64_t low = p[j] / m->line, high = (p[j + 1] - 1) / m->line;
                a->line_reads += high - low + (low != line);
                line = high;
            }
        }
        a->visited += visited;
        a->fillers += fillers;
        if (loads != NULL) loads[e].visited += visited;
        begin += p[image->columns];
    }
    a->pointer_reads += (uint64_t)s->count * m->elements;
    a->broadcasts += s->count;
}

typedef struct {
    eie_event *events; /* NULL: not wanted */
    size_t capacity, count;
    uint64_t from, to;
} window;

static void note(window *w, uint64_t cycle, uint64_t length, uint32_t element, uint32_t column, uint32_t kind) {
    if (w->events == NULL || cycle >= w->to || cycle + length <= w->from || w->count == w->capacity) return;
    w->events[w->count++] = (eie_event){cycle, (uint32_t)length, element, column, kind};
}

/* When everything happens; gives the cycle after the last. `base` is the cycle the vector begins at, for events. */
static uint64_t time_vector(schedule *s, const eie_machine *m, uint64_t rows, uint64_t base, eie_activity *a, eie_load *loads, window *w) {
    uint64_t written = 0, ready = FIRST_ROW, sent = 0, last = 0, rows_seen = 0;
    for (uint32_t e = 0; e < m->elements; e++) {
        s->free[e] = 0;
        s->previous[e] = UINT32_MAX;
    }
    for (size_t t = 0; t < s->count; t++) {
        const broadcast *b = &s->columns[t];
        /* a cycle for each row that holds no more, once that is seen */
        if (b->row > rows_seen) {
            const uint64_t from = t > 0 ? sent + (s->columns[t - 1].last ? 0 : 1) : ready;
            const uint64_t empty = b->row - rows_seen - (t > 0 ? 1 : 0);
            a->scan_cycles += empty + (t > 0 && !s->columns[t - 1].last);
            ready = from + empty;
            rows_seen = b->row;
        }
        uint64_t at = ready + 1 > sent + 1 ? ready + 1 : sent + 1;
        if (t >= m->depth && s->newest[t % m->depth] + 1 > at) {
            a->blocked_cycles += s->newest[t % m->depth] + 1 - at;
            at = s->newest[t % m->depth] + 1;
        }
        sent = at;
        note(w, base + sent, 1, m->elements, b->index, 0);
        uint64_t newest = 0;
        for (uint32_t e = 0; e < m->elements; e++) {
            const size_t place = t * m->elements + e;
            const uint32_t count = s->counts[place];
            uint64_t take = sent + 1;
            if (s->free[e] > take) take = s->free[e];
            a->starved_cycles += take - s->free[e];
            if (count > 0 && s->first[place] == s->previous[e] && take == s->free[e]) {
                a->bypasses++;
                if (!m->bypass) { /* the sum is not in its register yet */
                    a->hazard_cycles++;
                    take++;
                }
            }
            if (count > 0) {
                s->previous[e] = s->end[place];
                written = take + count > written ? take + count : written;
            } else {
                s->previous[e] = UINT32_MAX;
                a->empty_cycles++;
            }
            note(w, base + take, count > 0 ? count : 1, e, b->index, count > 0 ? 1 : 2);
            s->free[e] = take + (count > 0 ? count : 1);
            newest = take > newest ? take : newest;
        }
        s->newest[t % m->depth] = newest;
    }
    for (uint32_t e = 0; e < m->elements; e++) last = s->free[e] > last ? s->free[e] : last;
    /* the rows behind the last that was broadcast are looked at, too */
    const uint64_t seen = s->count > 0 ? sent + (s->columns[s->count - 1].last ? 0 : 1) + (rows - s->columns[s->count - 1].row - 1)
                                       : FIRST_ROW + rows;
    a->scan_cycles += s->count > 0 ? seen - sent : rows;
    uint64_t end = seen > last ? seen : last;
    if (written > 0 && written - 1 + PIPELINE > end) end = written - 1 + PIPELINE;
    for (uint32_t e = 0; e < m->elements; e++) {
        a->idle_cycles += end - s->free[e];
        if (loads != NULL) loads[e].idle += end - s->free[e];
    }
    return end;
}

eie_status eie_machine_run(const eie_machine *machine, const eie_image *image, const int16_t *x, uint64_t vectors, int64_t *sums,
                           uint64_t *cycles, eie_activity *activity, eie_load *loads, eie_trace *trace) {
    schedule s;
    const eie_status status = check(machine, image);
    memset(activity, 0, sizeof *activity);
    if (loads != NULL) memset(loads, 0, machine->elements * sizeof *loads);
    if (trace != NULL) trace->count = 0;
    if (status != EIE_OK) return status;
    if (!reserve(&s, machine, image->columns)) {
        release(&s);
        return EIE_E_MEMORY;
    }
    const uint64_t rows = (image->inputs + machine->elements - 1) / machine->elements + (image->columns > image->inputs);
    const uint64_t outputs = image->rows * machine->elements;
    window w = {0};
    if (trace != NULL) w = (window){trace->events, trace->capacity, 0, trace->from, trace->to};
    if (sums != NULL) memset(sums, 0, (size_t)(vectors * outputs) * sizeof *sums);
    for (uint64_t v = 0; v < vectors; v++) {
        scan(&s, machine, image, x + v * image->inputs);
        compute(&s, machine, image, x + v * image->inputs, sums == NULL ? NULL : sums + v * outputs, activity, loads);
        const uint64_t taken = time_vector(&s, machine, rows, activity->cycles, activity, loads, &w);
        activity->cycles += taken;
        if (cycles != NULL) cycles[v] = taken;
    }
    if (trace != NULL) trace->count = w.count;
    release(&s);
    return EIE_OK;
}
