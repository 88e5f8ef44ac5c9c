/* How a convolution, of any stride, dilation, padding and either direction, becomes sums over shifts.
 *
 * Both kinds are brought to one form. The input is copied to planes: padded, and split by phase, so that a step of one in a
 * plane is a step of the stride in the input. Then with flat positions f over planes of one size
 *
 *     y[row][f] = sum over (channel, tap) of w * x[plane(channel, tap) + f + shift(tap)]
 *
 * Conv: planes for each phase of the input that a tap meets; one row for each output channel.
 * ConvTranspose: one plane for each channel; a row for each output channel and phase of the output, of the taps that meet
 * that phase. Positions between the rows of a plane are computed too, and not copied out. */
#ifndef EIE_CONV_H
#define EIE_CONV_H
#include "kernels/kernels.h"
#include "ops/layer.h"

enum { EIE_AXES = 3 }; /* convolutions with fewer have leading axes of size one */

/* One axis of the kernel. */
typedef struct {
    size_t kernel;
    int64_t stride, dilation;
    size_t phases;      /* Conv: of the input, those that a tap meets. ConvTranspose: of the output, all */
    int64_t *phase;     /* [phases]: coordinate modulo stride */
    size_t *tap_phase;  /* [kernel]: a place in phase */
    int64_t *tap_shift; /* [kernel]: Conv: steps to the right; ConvTranspose: to the left */
    int64_t reach;      /* the largest shift */
} eie_conv_axis;

typedef struct {
    struct eie_layer base;
    eie_conv_params params;
    eie_format format;
    size_t group, in_channels, out_channels, taps;
    eie_conv_axis axis[EIE_AXES];
    size_t rows;         /* out_channels, times the phases of the output */
    size_t *first;       /* [rows + 1]: the entry a row begins with */
    uint32_t *place;     /* [entries]: channel within the group * taps + tap */
    void *value;         /* [entries]: float or int16; integer rows are padded to an even count */
    int64_t *row_sums;   /* u8 */
    float step;          /* u8 */
    int32_t exponent;    /* i16 */
    const eie_kernel *kernel;
} eie_conv;

/* What one input size makes of it. Sizes are counted in positions. */
typedef struct {
    int64_t in[EIE_AXES], out[EIE_AXES];
    int64_t begin[EIE_AXES]; /* padding before */
    int64_t plane[EIE_AXES]; /* of a plane */
    int64_t domain[EIE_AXES]; /* positions of an axis that make outputs */
    int64_t lowest[EIE_AXES]; /* ConvTranspose: position 0 of the domain */
    size_t plane_size, planes; /* planes: of a channel */
    size_t length;           /* flat positions to compute */
} eie_conv_size;

/* EIE_E_SHAPE where the input does not fit, EIE_E_UNSUPPORTED where it is too large to address. in: channels, spatial dims. */
eie_status eie_conv_measure(const eie_conv *conv, const int64_t *in, eie_conv_size *size);
eie_status eie_conv_axis_init(eie_conv_axis *axis, size_t kernel, int64_t stride, int64_t dilation, bool transposed);

#endif
