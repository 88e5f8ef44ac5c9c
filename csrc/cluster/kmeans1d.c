/* One-dimensional k-means, the exact optimum.
 *
 * In one dimension the clusters are runs of the sorted values, and with D(j, m) the least cost of the first m values in j runs,
 *     D(j, m) = min over i < m of D(j-1, i) + cost(i, m).
 * Instead of a table over j, every run is charged a price p and the best number of runs found for it (Gronlund et al., "Fast exact
 * k-means, k-medians and Bregman divergence clustering in 1D", 2017): the least cost is convex in k, so a bisection over p finds k.
 * One price takes O(n log n): cost(i, m) is concave Monge, so the runs in which a start i is best are intervals of m that a
 * queue holds. Prices at which several k are equally good can skip the k that was asked for; then the two neighbours, which
 * have the same charged cost, are merged as in the paper: the runs of the smaller up to a value, of the larger after it.
 */
#include <math.h>
#include <stdlib.h>

#include "eie.h"

typedef struct {
    size_t n;
    const double *sum, *square, *weight; /* prefix sums of w x, w x^2, w, of values centred on their mean */
    double *cost;                        /* least charged cost of the first m values */
    size_t *start;                       /* where its last run starts */
    size_t *count;                       /* how many runs it has */
    size_t *queue, *from;                /* candidates, and the first m each of them is best for */
} problem;

static double run_cost(const problem *p, size_t i, size_t m) {
    double w = p->weight[m] - p->weight[i], s = p->sum[m] - p->sum[i];
    double c = p->square[m] - p->square[i] - s * s / w;
    return c > 0 ? c : 0;
}

/* Fills cost, start and count for a price; ties go to fewer runs. Returns the runs used for all n values. */
static size_t solve(problem *p, double price) {
    size_t head = 0, tail = 0; /* queue[head..tail) */
    p->cost[0] = 0;
    p->count[0] = 0;
    p->queue[tail] = 0;
    p->from[tail++] = 1;
    for (size_t m = 1; m <= p->n; m++) {
        while (head + 1 < tail && p->from[head + 1] <= m) head++;
        size_t i = p->queue[head];
        p->cost[m] = p->cost[i] + run_cost(p, i, m) + price;
        p->start[m] = i;
        p->count[m] = p->count[i] + 1;
        if (m == p->n) break;
        /* from when on is a run that starts at m better than the last candidate? */
        size_t first = p->n + 1;
        while (tail > head) {
            size_t last = p->queue[tail - 1], begin = p->from[tail - 1] > m + 1 ? p->from[tail - 1] : m + 1;
            if (p->cost[m] + run_cost(p, m, begin) < p->cost[last] + run_cost(p, last, begin)) {
                first = begin;
                if (tail - 1 == head) { /* better at once than all: it takes the queue over */
                    tail--;
                    break;
                }
                tail--;
                continue;
            }
            size_t low = begin, high = p->n + 1; /* better in none of [.., low], in all of [high, ..] */
            while (high - low > 1) {
                size_t middle = low + (high - low) / 2;
                if (p->cost[m] + run_cost(p, m, middle) < p->cost[last] + run_cost(p, last, middle)) {
                    high = middle;
                } else {
                    low = middle;
                }
            }
            first = high;
            break;
        }
        if (first <= p->n) {
            p->queue[tail] = m;
            p->from[tail++] = first;
        }
    }
    return p->count[p->n];
}

static void trace(const problem *p, size_t *first) {
    for (size_t m = p->n, j = p->count[p->n]; j > 0; j--) {
        m = p->start[m];
        first[j - 1] = m;
    }
}

/* `few` (a runs) and `many` (b runs) are both optimal for one price, a < k < b: somewhere a run of `few` holds within it the
 * matching end of `many`, and switching there gives exactly k runs of the same charged cost. */
static void merge(const size_t *few, size_t a, const size_t *many, size_t b, size_t n, size_t k, size_t *first) {
    size_t shift = b - k; /* take j runs of `many`'s tail so that the total is k */
    for (size_t i = 0; i < a; i++) {
        size_t begin = few[i], end = i + 1 < a ? few[i + 1] : n;
        /* many's run number i + shift: [start, stop) */
        size_t j = i + shift;
        if (j >= b) break;
        size_t start = many[j], stop = j + 1 < b ? many[j + 1] : n;
        if (begin <= start && stop <= end) {
            for (size_t q = 0; q <= i; q++) first[q] = few[q];
            for (size_t q = i + 1; q < k; q++) first[q] = many[q + shift];
            return;
        }
    }
    for (size_t q = 0; q < k; q++) first[q] = q < a ? few[q] : n; /* not reached for exact costs; rounding may */
}

eie_status eie_kmeans1d(const double *values, const double *weights, size_t n, size_t k, double *centroids, size_t *first, size_t *used,
                        double *cost) {
    if (values == NULL || centroids == NULL || first == NULL || used == NULL || cost == NULL || n == 0 || k == 0) return EIE_E_ARGUMENT;
    if (n > SIZE_MAX / (16 * sizeof(double)) - 16) return EIE_E_MEMORY;
    double *memory = malloc((n + 1) * 4 * sizeof(double));
    size_t *places = malloc((n + 1) * 6 * sizeof(size_t));
    if (memory == NULL || places == NULL) {
        free(memory);
        free(places);
        return EIE_E_MEMORY;
    }
    double *sum = memory, *square = memory + (n + 1), *weight = memory + 2 * (n + 1);
    size_t *few = places + 4 * (n + 1), *many = places + 5 * (n + 1);
    problem p = {n, sum, square, weight, memory + 3 * (n + 1), places, places + (n + 1), places + 2 * (n + 1), places + 3 * (n + 1)};
    double total = 0, mean = 0;
    for (size_t i = 0; i < n; i++) {
        double w = weights ? weights[i] : 1;
        total += w;
        mean += w * (values[i] - mean) / total;
    }
    sum[0] = square[0] = weight[0] = 0;
    for (size_t i = 0; i < n; i++) {
        double w = weights ? weights[i] : 1, x = values[i] - mean;
        sum[i + 1] = sum[i] + w * x;
        square[i + 1] = square[i] + w * x * x;
        weight[i + 1] = weight[i] + w;
    }
    size_t distinct = 1;
    for (size_t i = 1; i < n; i++) distinct += values[i] != values[i - 1];
    if (k > distinct) k = distinct;

    /* few: at most k runs, at a price `dear`; many: at least k, at a price `cheap` */
    double dear = square[n] + 1e-300, cheap = 0;
    size_t a = solve(&p, dear), b = 0;
    while (a > k) { /* rounding alone can do this */
        dear *= 2;
        a = solve(&p, dear);
    }
    trace(&p, few);
    b = solve(&p, cheap);
    trace(&p, many);
    for (int step = 0; step < 200 && a != k && b != k; step++) {
        /* few iterations where prices span many decades: the middle is geometric until the ends are near */
        double price = cheap > 0 && dear > 4 * cheap ? sqrt(cheap * dear) : cheap == 0 ? dear * 1e-3 : (cheap + dear) / 2;
        if (!(price > cheap && price < dear)) break;
        size_t found = solve(&p, price);
        if (found <= k) {
            dear = price;
            a = found;
            trace(&p, few);
        } else {
            cheap = price;
            b = found;
            trace(&p, many);
        }
        if (dear < 1e-280) break;
    }
    size_t runs = a;
    if (a == k) {
        for (size_t q = 0; q < a; q++) first[q] = few[q];
    } else if (b == k) {
        for (size_t q = 0; q < b; q++) first[q] = many[q];
        runs = b;
    } else if (a < k && k < b) {
        merge(few, a, many, b, n, k, first);
        runs = k;
        while (runs > 0 && first[runs - 1] >= n) runs--;
    } else {
        for (size_t q = 0; q < a; q++) first[q] = few[q];
    }
    *cost = 0;
    for (size_t q = 0; q < runs; q++) {
        size_t begin = first[q], end = q + 1 < runs ? first[q + 1] : n;
        centroids[q] = mean + (sum[end] - sum[begin]) / (weight[end] - weight[begin]);
        *cost += run_cost(&p, begin, end);
    }
    *used = runs;
    free(memory);
    free(places);
    return EIE_OK;
}
