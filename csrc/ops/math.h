/* The functions of gates, a float32 operation at a time, so that every machine gives the same bits: runtime/numerics.py is
 * the specification. */
#ifndef EIE_MATH_H
#define EIE_MATH_H
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float eie_exp(float x) {
    if (x != x) return x;
    x = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
    const float far = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number, as rint does */
    const float n = (x * 1.44269504f + far) - far;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return ((p * (r * r) + r) + 1.0f) * power;
}

static inline float eie_sigmoid(float x) { return 1.0f / (1.0f + eie_exp(-x)); }

static inline float eie_tanh(float x) {
    if (x != x) return x;
    const float a = fabsf(x);
    if (a < 0.625f) {
        const float z = x * x;
        float p = -5.70498872745e-3f;
        p = p * z + 2.06390887954e-2f;
        p = p * z - 5.37397155531e-2f;
        p = p * z + 1.33314422036e-1f;
        p = p * z - 3.33332819422e-1f;
        return (p * z) * x + x;
    }
    const float t = eie_exp(-2.0f * a);
    return copysignf((1.0f - t) / (1.0f + t), x);
}

#endif
