#include "kernels/quantize.h"

#include <float.h>
#include <math.h>

static const float TINY = 0x1p-100f;

bool eie_quantize_u8(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero) {
    float lo = 0, hi = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        finite &= fabsf(x[i]) <= FLT_MAX; /* false for NaN */
    }
    *scale = (hi - lo) / 255.0f;
    *zero = 0;
    if (!finite || !(*scale <= FLT_MAX)) return false;
    if (*scale < TINY) {
        *scale = 1;
        for (size_t i = 0; i < n; i++) q[i] = 0;
        return true;
    }
    float inverse = 1.0f / *scale;
    *zero = (int32_t)rintf(-lo * inverse);
    float shift = (float)*zero;
    for (size_t i = 0; i < n; i++) {
        float v = rintf(x[i] * inverse) + shift;
        q[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
    return true;
}

static int32_t clamped(int32_t e) { return e < -100 ? -100 : e > 100 ? 100 : e; }

bool eie_quantize_i16(const float *x, size_t n, int16_t *q, int32_t *exponent) {
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        largest = a > largest ? a : largest;
        finite &= a <= FLT_MAX;
    }
    *exponent = 0;
    if (!finite) return false;
    if (largest > 0) {
        int p;
        (void)frexpf(largest, &p);
        *exponent = clamped(15 - p);
    }
    float scale = ldexpf(1.0f, *exponent);
    for (size_t i = 0; i < n; i++) {
        float v = rintf(x[i] * scale);
        q[i] = (int16_t)(v < -32767 ? -32767 : v > 32767 ? 32767 : v);
    }
    return true;
}

void eie_codebook_u8(const float *codebook, uint32_t size, int8_t *values, float *step) {
    float largest = 0;
    for (uint32_t i = 0; i < size; i++) largest = fabsf(codebook[i]) > largest ? fabsf(codebook[i]) : largest;
    *step = 1;
    if (largest < TINY) {
        for (uint32_t i = 0; i < size; i++) values[i] = 0;
        return;
    }
    *step = largest / 127.0f;
    float inverse = 1.0f / *step;
    for (uint32_t i = 0; i < size; i++) {
        float v = rintf(codebook[i] * inverse);
        values[i] = (int8_t)(v < -127 ? -127 : v > 127 ? 127 : v);
    }
}

void eie_codebook_i16(const float *codebook, uint32_t size, int16_t *values, int32_t *exponent) {
    float largest = 0;
    for (uint32_t i = 0; i < size; i++) largest = fabsf(codebook[i]) > largest ? fabsf(codebook[i]) : largest;
    *exponent = 0;
    if (largest > 0) {
        int p;
        (void)frexpf(largest, &p);
        *exponent = clamped(12 - p);
    }
    float scale = ldexpf(1.0f, *exponent);
    for (uint32_t i = 0; i < size; i++) {
        float v = rintf(codebook[i] * scale);
        values[i] = (int16_t)(v < -4095 ? -4095 : v > 4095 ? 4095 : v);
    }
}

float eie_scale_u8(int64_t sum, float scale_times_step) { return (float)sum * scale_times_step; }

float eie_scale_i16(int64_t sum, int32_t exponent) { return (float)ldexp((double)(float)sum, -exponent); }
