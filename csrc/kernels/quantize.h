/* Quantization of activations and codebooks, exactly as docs/numerics.md has it. */
#ifndef EIE_QUANTIZE_H
#define EIE_QUANTIZE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* q[0..n) from x[0..n). False: x holds a NaN or an infinity (or its range overflows), and every output is NaN. */
bool eie_quantize_u8(const float *x, size_t n, uint8_t *q, float *scale, int32_t *zero);
bool eie_quantize_i16(const float *x, size_t n, int16_t *q, int32_t *exponent);

void eie_codebook_u8(const float *codebook, uint32_t size, int8_t *values, float *step);
void eie_codebook_i16(const float *codebook, uint32_t size, int16_t *values, int32_t *exponent);

/* The output of an exact sum. */
float eie_scale_u8(int64_t sum, float scale_times_step);
float eie_scale_i16(int64_t sum, int32_t exponent); /* exponent: of the activations plus of the codebook */

#endif
