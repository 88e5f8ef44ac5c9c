/* Followers, included once for each instruction set, whose compiler flags turn the loops into vectors: kernels/kernels.h.
 *
 * SUFFIXED(name) adds the name of the instruction set. */
#include "kernels/kernels.h"

void SUFFIXED(follow)(const eie_follower *f, size_t n, float *restrict y) {
    const float *restrict operand = f->operand;
    const float low = f->low, high = f->high;
    switch (f->kind) {
    case EIE_FOLLOW_ADD:
        for (size_t i = 0; i < n; i++) y[i] = y[i] + operand[i];
        break;
    case EIE_FOLLOW_ADD_CHANNEL:
        for (size_t i = 0; i < n; i++) y[i] = y[i] + *operand;
        break;
    case EIE_FOLLOW_RELU: /* false for NaN and for -0 */
        for (size_t i = 0; i < n; i++) y[i] = y[i] < 0.0f ? 0.0f : y[i];
        break;
    case EIE_FOLLOW_CLIP:
        for (size_t i = 0; i < n; i++) {
            const float above = y[i] < low ? low : y[i];
            y[i] = above > high ? high : above;
        }
        break;
    default:
        for (size_t i = 0; i < n; i++) y[i] = y[i] < 0.0f ? low * y[i] : y[i];
    }
}
