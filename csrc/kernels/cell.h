/* What gates do after the products, over all cells of a layer: included once for each instruction set, whose compiler flags
 * turn the same operations into vectors of any width. They are float32 operations in the order of docs/numerics.md, none of
 * them fused, so every machine gives the same bits. runtime/numerics.py is the specification.
 *
 * SUFFIXED(name) adds the name of the instruction set. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#define ALWAYS static inline __attribute__((always_inline))

/* Without branches: NaN is computed as 0, and put in its place at the end. */
ALWAYS float exponential(float x) {
    float v = x != x ? 0.0f : x;
    v = v < -87.0f ? -87.0f : v;
    v = v > 87.0f ? 87.0f : v;
    const float far = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number, as rint does */
    const float n = (v * 1.44269504f + far) - far;
    const float r = (v - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    const float found = ((p * (r * r) + r) + 1.0f) * power;
    return x != x ? x : found;
}

ALWAYS float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

ALWAYS float hyperbolic(float x) {
    const float a = fabsf(x), z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const float small = (p * z) * x + x;
    const float t = exponential(-2.0f * a), large = copysignf((1.0f - t) / (1.0f + t), x);
    const float found = a < 0.625f ? small : large;
    return x != x ? x : found;
}

ALWAYS float clipped(float g, float clip) {
    g = g < -clip ? -clip : g;
    return g > clip ? clip : g;
}

ALWAYS void lstm(const eie_cell_gates *g, size_t n, float *restrict c, float *restrict h, const bool peep, const bool coupled) {
    const float *restrict wx = g->wx, *restrict rh = g->rh, *restrict b = g->bias, *restrict p = g->peephole;
    const float clip = g->clip;
    for (size_t j = 0; j < n; j++) {
        float gi = (wx[j] + rh[j]) + b[j], go = (wx[n + j] + rh[n + j]) + b[n + j];
        float gf = (wx[2 * n + j] + rh[2 * n + j]) + b[2 * n + j];
        const float gc = (wx[3 * n + j] + rh[3 * n + j]) + b[3 * n + j];
        if (peep) gi = gi + p[j] * c[j];
        if (peep) gf = gf + p[2 * n + j] * c[j];
        const float input = sigmoid(clipped(gi, clip));
        const float forget = coupled ? 1.0f - input : sigmoid(clipped(gf, clip));
        const float cell = forget * c[j] + input * hyperbolic(clipped(gc, clip));
        if (peep) go = go + p[n + j] * cell;
        c[j] = cell;
        h[j] = sigmoid(clipped(go, clip)) * hyperbolic(cell);
    }
}

void SUFFIXED(cell_lstm)(const eie_cell_gates *g, size_t n, float *c, float *h) {
    if (g->peephole != NULL && g->coupled) lstm(g, n, c, h, true, true);
    else if (g->peephole != NULL) lstm(g, n, c, h, true, false);
    else if (g->coupled) lstm(g, n, c, h, false, true);
    else lstm(g, n, c, h, false, false);
}

void SUFFIXED(cell_gates)(const float *restrict rh, const float *restrict bias, float clip, size_t n, float *restrict wx) {
    for (size_t i = 0; i < n; i++) wx[i] = sigmoid(clipped((wx[i] + rh[i]) + bias[i], clip));
}

void SUFFIXED(cell_blend)(const float *restrict fresh, const float *restrict update, float clip, size_t n, float *restrict h) {
    for (size_t j = 0; j < n; j++) h[j] = (1.0f - update[j]) * hyperbolic(clipped(fresh[j], clip)) + update[j] * h[j];
}
