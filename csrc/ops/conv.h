/* How a convolution, of any stride, dilation, padding and either direction, becomes sums over shifts.
 *
 * Both kinds are brought to one form: for positions p of a domain, on each axis,
 *
 *     y[row][p] = sum over (channel, tap) of w * x[channel][p * step + base + shift(tap)], 0 (or the u8 zero) outside of x
 *
 * Conv: a row for each output channel; a step is the stride. ConvTranspose: a row for each output channel and phase of the
 * output, of the taps that meet that phase; a step is one.
 *
 * It is computed by tiles of positions that fit the sums a kernel keeps in registers, and for each tile by chunks of channels
 * whose activations fit the first-level cache: they are laid out there as aligned vectors of sixteen positions, once for all
 * rows. Channels go in units of as many as four bytes hold. There are two layouts:
 *   stacked  a tile is as many positions as a vector has of each of a few lines; the taps of one column share the vectors of
 *            its lines, and where vectors are narrow, neighbouring columns do: a vector begins anywhere in a line of sixteen
 *   flat     a tile is positions in their order across lines; each tap has vectors of its own. For narrow maps, one spatial
 *            dimension, kernels of one place */
#ifndef EIE_CONV_H
#define EIE_CONV_H
#include "kernels/kernels.h"
#include "ops/layer.h"

enum { EIE_AXES = 3 }; /* convolutions with fewer have leading axes of size one */

/* One axis of the kernel. */
typedef struct {
    size_t kernel;
    int64_t stride, dilation;
    int64_t step;     /* the stride; ConvTranspose: 1 */
    size_t phases;    /* ConvTranspose: the stride; Conv: 1 */
    size_t columns;   /* different shifts */
    int64_t *shift;   /* [columns], from 0 on */
    size_t *column;   /* [kernel]: a place in shift */
    int64_t reach;    /* the largest shift */
} eie_conv_axis;

typedef struct {
    struct eie_layer base;
    eie_conv_params params;
    eie_format format;
    size_t group, in_channels, out_channels, taps;
    eie_conv_axis axis[EIE_AXES];
    bool pointwise;        /* positions are those of x: a map is one line */
    size_t phases, rows;   /* phases: of all axes; rows: of a group */
    size_t depth, units;   /* channels of a unit; units of a group */
    size_t chunk, chunks;  /* units of a chunk, the last has fewer; chunks of a group */
    size_t lines;          /* of a unit's column in the stacked layout; 0: it is not used */
    size_t copies;         /* stacked: of a line, for the columns that can't share one */
    size_t chunk_vectors;  /* a chunk needs, in the larger of the layouts */
    uint32_t *first;       /* [group * chunks * rows + 1]: the entry that a chunk's row begins with */
    uint32_t *row;         /* [group * chunks * rows]: which; in blocks of EIE_CONV_BLOCK rows, the fullest first */
    uint32_t *flat, *stacked, *weight; /* [entries]: byte in either layout; four bytes of weights. stacked may be NULL */
    uint64_t most;         /* products of a row */
    int64_t *row_sums;     /* u8: [group * rows] */
    float step;            /* u8 */
    int32_t exponent;      /* i16 */
    uint8_t *fits;         /* i16, [entries] or NULL: how many entries from each on have sums that fit int32, 255 at most */
    const eie_kernel *kernel, *stacker; /* of the flat layout, of the stacked one */
} eie_conv;

enum { EIE_CONV_BLOCK = 64, EIE_CONV_COLUMNS = 64 }; /* columns of lines and copies of one in the stacked layout: at most */

/* What one input size makes of it. */
typedef struct {
    int64_t in[EIE_AXES], out[EIE_AXES];
    int64_t begin[EIE_AXES];  /* padding before */
    int64_t base[EIE_AXES];   /* the coordinate that position 0 with shift 0 reads */
    int64_t domain[EIE_AXES]; /* positions */
    int64_t lowest[EIE_AXES]; /* ConvTranspose: position 0, in strides of the output before it was padded */
    size_t in_size, out_size, positions; /* of a channel; of the domain */
} eie_conv_size;

/* EIE_E_SHAPE where the input does not fit, EIE_E_UNSUPPORTED where it is too large to address. in: channels, spatial dims. */
eie_status eie_conv_measure(const eie_conv *conv, const int64_t *in, eie_conv_size *size);
eie_status eie_conv_axis_init(eie_conv_axis *axis, size_t kernel, int64_t stride, int64_t dilation, bool transposed);
/* A column's place among the phases of the input that the columns of an axis meet; *slots: how many phases those are. */
size_t eie_conv_slot(const eie_conv_axis *axis, size_t column, size_t *slots);
/* The copy of a line that a column reads, and how many there are: a copy serves `span` neighbouring shifts of one phase, of which this
 * is number *within. */
size_t eie_conv_copy(const eie_conv_axis *axis, size_t span, size_t column, size_t *within, size_t *copies);
static inline size_t eie_conv_span(const eie_conv *c) { return EIE_ROWS + 1 - c->stacker->sets; }

#endif
