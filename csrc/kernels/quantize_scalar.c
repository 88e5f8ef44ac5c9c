/* The specification of the quantization kernels. */
#include <float.h>
#include <math.h>

#include "kernels/kernels.h"
#include "kernels/quantize.h"

bool quantize_u8_scalar(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero) {
    float lo = 0, hi = 0, inverse;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        finite &= fabsf(x[i]) <= FLT_MAX; /* false for NaN */
    }
    if (!finite || !eie_range_u8(lo, hi, scale, &inverse, zero)) return false;
    const float shift = (float)*zero;
    for (size_t i = 0; i < n; i++) {
        const float v = rintf(x[i] * inverse) + shift;
        q[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
    return true;
}

bool quantize_i16_scalar(const float *x, size_t n, int16_t *q, int32_t *exponent) {
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        largest = a > largest ? a : largest;
        finite &= a <= FLT_MAX;
    }
    if (!finite) return false;
    *exponent = eie_exponent(largest, 15);
    const float scale = eie_power(*exponent);
    for (size_t i = 0; i < n; i++) {
        const float v = rintf(x[i] * scale);
        q[i] = (int16_t)(v < -32767 ? -32767 : v > 32767 ? 32767 : v);
    }
    return true;
}
