#include "kernels/quantize.h"

#include <float.h>
#include <math.h>

static const float TINY = 0x1p-100f;

bool eie_range_u8(float lo, float hi, float *scale, float *inverse, int32_t *zero) {
    *scale = (hi - lo) / 255.0f;
    *inverse = 0;
    *zero = 0;
    if (!(*scale <= FLT_MAX)) return false;
    if (*scale < TINY) {
        *scale = 1;
        return true;
    }
    *inverse = 1.0f / *scale;
    *zero = (int32_t)rintf(-lo * *inverse);
    return true;
}

int32_t eie_exponent(float largest, int bits) {
    if (largest == 0) return 0;
    int p;
    (void)frexpf(largest, &p);
    const int32_t e = bits - p;
    return e < -100 ? -100 : e > 100 ? 100 : e;
}

float eie_power(int32_t exponent) { return ldexpf(1.0f, exponent); }

static float largest_of(const float *codebook, uint32_t size) {
    float largest = 0;
    for (uint32_t i = 0; i < size; i++) largest = fabsf(codebook[i]) > largest ? fabsf(codebook[i]) : largest;
    return largest;
}

void eie_codebook_u8(const float *codebook, uint32_t size, int8_t *values, float *step) {
    const float largest = largest_of(codebook, size);
    *step = largest < TINY ? 1 : largest / 127.0f;
    const float inverse = largest < TINY ? 0 : 1.0f / *step;
    for (uint32_t i = 0; i < size; i++) {
        const float v = rintf(codebook[i] * inverse);
        values[i] = (int8_t)(v < -127 ? -127 : v > 127 ? 127 : v);
    }
}

void eie_codebook_i16(const float *codebook, uint32_t size, int16_t *values, int32_t *exponent) {
    *exponent = eie_exponent(largest_of(codebook, size), 12);
    const float scale = eie_power(*exponent);
    for (uint32_t i = 0; i < size; i++) {
        const float v = rintf(codebook[i] * scale);
        values[i] = (int16_t)(v < -4095 ? -4095 : v > 4095 ? 4095 : v);
    }
}
