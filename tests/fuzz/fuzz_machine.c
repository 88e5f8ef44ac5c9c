/* The accelerator's model on random and on broken images: sums must be those of the dense product, every element-cycle must
 * be accounted for, and what contradicts itself must be refused, all of it without a read or write out of bounds.
 *
 *     fuzz_machine SECONDS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "eie.h"

static uint64_t state = 88172645463325252u;

static uint32_t next(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below == 0 ? 0 : (uint32_t)((state >> 16) % below);
}

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz_machine: %s\n", what);
    abort();
}

static void *room(size_t size) {
    void *made = malloc(size + 1); /* exactly as large as the interface says, but for nothing */
    require(made != NULL, "out of memory");
    return made;
}

static int broken, fine;

static void accounted(const eie_machine *m, const eie_activity *a, const eie_load *loads) {
    uint64_t visited = 0, idle = 0;
    for (uint32_t e = 0; e < m->elements; e++) {
        visited += loads[e].visited;
        idle += loads[e].idle;
    }
    require(visited == a->visited && idle == a->idle_cycles, "elements and their sum differ");
    require(a->visited + a->empty_cycles + a->starved_cycles + a->hazard_cycles + a->idle_cycles == a->cycles * m->elements,
            "element-cycles are lost");
}

static void once(void) {
    const uint64_t rows = 1 + next(60), inputs = 1 + next(40), columns = inputs + next(2);
    const eie_machine machine = {1 + next(9), 1 + next(5), 1 + next(9), next(2), next(2)};
    const uint32_t run_bits = 1 + next(8), density = next(100), book_size = 2 + next(15), vectors = 1 + next(3);
    uint8_t *matrix = room((size_t)(rows * columns));
    int32_t *book = room(book_size * sizeof *book);
    for (uint64_t i = 0; i < rows * columns; i++) matrix[i] = next(100) < density ? (uint8_t)(1 + next(book_size - 1)) : 0;
    for (uint32_t i = 0; i < book_size; i++) book[i] = i == 0 ? 0 : (int32_t)next(8191) - 4095;
    uint32_t *pointers = room(machine.elements * (size_t)(columns + 1) * sizeof *pointers);
    uint64_t entries = 0;
    require(eie_image_measure(matrix, rows, columns, machine.elements, run_bits, pointers, &entries) == EIE_OK, "can't be measured");
    uint8_t *codes = room((size_t)entries), *runs = room((size_t)entries);
    require(eie_image_fill(matrix, rows, columns, machine.elements, run_bits, pointers, codes, runs) == EIE_OK, "can't be filled");
    eie_image image = {(rows + machine.elements - 1) / machine.elements, inputs, columns, entries, pointers, codes, runs, book_size, book};
    const uint64_t outputs = image.rows * machine.elements;
    int16_t *x = room((size_t)(vectors * inputs) * sizeof *x);
    int64_t *sums = room((size_t)(vectors * outputs) * sizeof *sums);
    eie_load *loads = room(machine.elements * sizeof *loads);
    for (uint64_t i = 0; i < vectors * inputs; i++) x[i] = next(3) == 0 ? 0 : (int16_t)((int)next(65535) - 32767);
    eie_activity activity;
    eie_event events[16];
    eie_trace trace = {next(40), next(200), events, next(17), 0};
    require(eie_machine_run(&machine, &image, x, vectors, sums, NULL, &activity, loads, &trace) == EIE_OK, "a good image is refused");
    require(trace.count <= trace.capacity, "more events than there is room for");
    accounted(&machine, &activity, loads);
    for (uint32_t v = 0; v < vectors; v++) {
        for (uint64_t r = 0; r < rows; r++) {
            int64_t sum = 0;
            for (uint64_t j = 0; j < inputs; j++) {
                const int16_t value = x[v * inputs + j];
                if (!machine.skip_negative || value > 0) sum += (int64_t)value * book[matrix[r * columns + j]];
            }
            require(sums[v * outputs + r] == sum, "a sum is not that of the dense product");
        }
    }
    for (uint32_t k = 0; k < 1 + next(3); k++) { /* break it */
        switch (next(4)) {
        case 0: pointers[next((uint32_t)(machine.elements * (columns + 1)))] = next(3) == 0 ? next(UINT32_MAX) : next((uint32_t)entries + 3); break;
        case 1: if (entries) runs[next((uint32_t)entries)] = (uint8_t)next(256); break;
        case 2: if (entries) codes[next((uint32_t)entries)] = (uint8_t)next(256); break;
        default: image.rows = next(70); break;
        }
    }
    free(sums);
    sums = room((size_t)(vectors * image.rows * machine.elements) * sizeof *sums);
    const eie_status status = eie_machine_run(&machine, &image, x, vectors, sums, NULL, &activity, loads, NULL);
    if (status == EIE_OK) accounted(&machine, &activity, loads);
    *(status == EIE_OK ? &fine : &broken) += 1;
    free(matrix);
    free(book);
    free(pointers);
    free(codes);
    free(runs);
    free(x);
    free(sums);
    free(loads);
}

int main(int argc, char **argv) {
    const time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
    while (time(NULL) < end) {
        for (int i = 0; i < 200; i++) once();
    }
    printf("fuzz_machine: %d broken images refused, %d still in order, no failure\n", broken, fine);
    return 0;
}
