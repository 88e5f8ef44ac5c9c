/* Quantization of activations and codebooks, exactly as docs/numerics.md has it. */
#ifndef EIE_QUANTIZE_H
#define EIE_QUANTIZE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The kernels quantize_u8_* and quantize_i16_* make q[0..n) from x[0..n). They give false where x holds a NaN or an infinity
 * (or its range overflows): every output is NaN then. What they share: */

/* Scale and zero of activations from lo to hi (lo <= 0 <= hi). False: the scale is infinite. *inverse is 0 for a range
 * too small to tell apart: every q is 0 then. */
bool eie_range_u8(float lo, float hi, float *scale, float *inverse, int32_t *zero);
/* The exponent of numbers up to `largest` in magnitude that leaves `bits` bits: 15 for activations, 12 for codebooks. */
int32_t eie_exponent(float largest, int bits);
float eie_power(int32_t exponent); /* 2^exponent, exponent in [-100, 100] */

void eie_codebook_u8(const float *codebook, uint32_t size, int8_t *values, float *step);
void eie_codebook_i16(const float *codebook, uint32_t size, int16_t *values, int32_t *exponent);

/* The output of an exact sum. */
static inline float eie_scale_u8(int64_t sum, float scale_times_step) { return (float)sum * scale_times_step; }
/* factor: 2^-(exponents of the activations and the codebook), which a double holds exactly */
static inline float eie_scale_i16(int64_t sum, double factor) { return (float)((double)(float)sum * factor); }

#endif
