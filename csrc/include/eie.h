/* EIE: the C core. Everything the Python package and the ONNX Runtime custom ops call stands in this header.
 *
 * A compressed weight is codes and a codebook, code 0 being the value zero. A payload is that thing stored (entropy
 * coded, checksummed); a layer is that thing packed to run. Layers are created once and run many times, from any
 * number of threads at once: running never changes them.
 *
 * The part between the CDEF markers is also what cffi reads: plain declarations, no preprocessor.
 */
#ifndef EIE_H
#define EIE_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of the accelerator's model: what fits its index types with room to spare. */
#define EIE_MOST_ELEMENTS 4096
#define EIE_MOST_DEPTH 65536
#define EIE_MOST_COLUMNS (1u << 26)

/* CDEF BEGIN */
typedef enum {
    EIE_OK = 0,
    EIE_E_TRUNCATED,   /* the payload ends before what it announces */
    EIE_E_MAGIC,       /* not a payload of ours */
    EIE_E_VERSION,     /* a payload newer than this library */
    EIE_E_CHECKSUM,    /* a bit flipped on the way */
    EIE_E_CORRUPT,     /* checksum right, contents impossible: made by hand, or hostile */
    EIE_E_SHAPE,       /* weight, parameters and input do not fit each other */
    EIE_E_UNSUPPORTED, /* valid, but nothing here computes it */
    EIE_E_MEMORY,
    EIE_E_ARGUMENT
} eie_status;

/* One sentence, static storage, never NULL. */
const char *eie_status_message(eie_status status);

/* What a compressed layer computes in. f32: floats. i16: 16-bit fixed point, as in EIE. u8: 8-bit activations,
 * 8-bit codebook. In i16 and u8 sums are exact integers: docs/numerics.md. */
typedef enum { EIE_F32 = 0, EIE_I16 = 1, EIE_U8 = 2 } eie_format;

/* ---- payloads (csrc/codec, docs/format.md) ------------------------------------------------------------------- */
/* How a stream is stored. As index codec: 0 none (zeros are codes), raw or Huffman gaps, context-modelled places. As
 * what an encoder is asked for: 0 whatever is smallest; raw and Huffman mean both streams. */
typedef enum { EIE_CODEC_AUTO = 0, EIE_CODEC_RAW = 1, EIE_CODEC_HUFFMAN = 2, EIE_CODEC_CONTEXT = 3 } eie_codec;

typedef struct {
    uint32_t version;
    uint32_t rank;
    uint64_t dims[8];
    uint64_t elements;      /* product of dims */
    uint64_t entries;       /* stored codes: non-zeros and fillers, or every element when zeros are stored as codes */
    uint32_t codebook_size; /* 1 to 256, entry 0 is 0.0 */
    uint32_t bits;          /* of a code: ceil(log2(codebook_size)), at least 1 */
    uint32_t pattern;       /* 0 unstructured, 1 balanced, 2 block, 3 n:m */
    uint32_t code_codec;    /* eie_codec */
    uint32_t index_codec;   /* eie_codec; 0: zeros are stored as code 0 */
    uint32_t index_bits;    /* of a gap; 0: no gaps are stored */
    uint64_t code_bytes, index_bytes, codebook_bytes, table_bytes, container_bytes; /* sum: the payload's size */
} eie_payload_info;

/* Reads the header and checks every announced size against `size`. Does not check the checksum. */
eie_status eie_payload_inspect(const uint8_t *payload, size_t size, eie_payload_info *info);

/* Decodes into `codes` (C order, `codes_size` must equal info.elements) and `codebook` (256 floats; those past
 * codebook_size are set to 0). Every code written is below codebook_size. Never reads past payload + size. */
eie_status eie_payload_decode(const uint8_t *payload, size_t size, uint8_t *codes, size_t codes_size, float *codebook);

typedef struct {
    const uint8_t *codes;    /* C order */
    const float *codebook;   /* codebook_size floats, [0] == 0 */
    uint32_t codebook_size;  /* 1 to 256 */
    uint32_t rank;
    const uint64_t *dims;
} eie_weight;

typedef struct {
    uint32_t codec;      /* eie_codec: EIE_CODEC_AUTO for the smallest of all */
    uint32_t index_bits; /* 2 to 8: gaps of this width (raw or Huffman); 0: the encoder chooses */
    uint32_t pattern;    /* written down as it is */
} eie_payload_options;

/* Encodes; the caller frees *payload with eie_payload_free. Codes are relabelled by value, equal values and unused ones
 * fall together or away, -0.0 becomes 0.0: the floats they stand for stay what they are. EIE_E_ARGUMENT: a code past the
 * codebook, a value that is not finite, options that exclude each other. */
eie_status eie_payload_encode(const eie_weight *weight, const eie_payload_options *options, uint8_t **payload,
                              size_t *size);
void eie_payload_free(uint8_t *payload);

/* ---- instruction sets (csrc/kernels) -------------------------------------------------------------------------- */
/* "scalar", "avx2", "avx512", "neon": chosen once, at first use, from what CPU and operating system support;
 * the environment variable EIE_ISA overrides (an unsupported or unknown name falls back to the best supported). */
const char *eie_isa(void);
/* The i-th instruction set this build holds and this machine can run, best first; NULL past the last. */
const char *eie_isa_available(size_t i);
/* For tests and benchmarks: switch at run time (affects layers created later). EIE_E_ARGUMENT if not available. */
eie_status eie_isa_select(const char *name);

/* ---- threads ---------------------------------------------------------------------------------------------------- */
typedef void (*eie_task)(void *context, size_t index);
/* Calls task(context, i) for every i below count, in any order, on any threads, and returns when all are done. */
typedef struct {
    void (*run)(void *pool, eie_task task, void *context, size_t count);
    void *pool;
} eie_parallel; /* a NULL eie_parallel* means: one after the other on the calling thread */

/* A pool of this library, for callers without one. */
eie_status eie_pool_create(size_t threads, eie_parallel **pool);
void eie_pool_free(eie_parallel *pool);

/* ---- layers (csrc/ops) --------------------------------------------------------------------------------------- */
/* A weight is only read while its layer is created. */
typedef struct eie_layer eie_layer;
void eie_layer_free(eie_layer *layer);
/* Bytes the packed layer holds, for reports. */
uint64_t eie_layer_bytes(const eie_layer *layer);
/* Name of the kernel it runs, by the grammar of csrc/kernels/kernels.h. Valid as long as the layer. */
const char *eie_layer_kernel(const eie_layer *layer);

/* What should run a layer here, and why: sparse from the packed form, or dense, decoded once at load. */
typedef struct {
    int32_t dense;     /* 1: the dense operator is expected to be faster on this machine */
    float speedup;     /* expected, of the one that runs over the other; 0: there is no other */
    double packed_ns, dense_ns; /* estimates: of a Gemm for one vector, of a convolution for one output position */
    char kernel[64];
    char why[160];
} eie_verdict;

/* Elementwise operators behind a Gemm or a convolution, applied to its outputs while they are in the cache, one float32
 * operation at a time and in their order: the bits are those of the operators run one after the other. NaN stays NaN. */
typedef enum {
    EIE_FOLLOW_ADD = 0,     /* y + operand, an array of y's shape that does not overlap y */
    EIE_FOLLOW_ADD_CHANNEL, /* y + operand[channel]; of a Gemm: operand[out] */
    EIE_FOLLOW_RELU,        /* y < 0 ? 0 : y, so that -0 stays -0 */
    EIE_FOLLOW_CLIP,        /* y < low ? low : y, then y > high ? high : y */
    EIE_FOLLOW_LEAKY        /* y < 0 ? low * y : y */
} eie_follow;
typedef struct {
    int32_t kind;         /* eie_follow */
    float low, high;
    const float *operand;
} eie_follower;

/* y[b, o] = sum_i w[o, i] x[b, i] + bias[o]. Weight [out, in]. bias may be NULL. Packing is shared by the threads of `parallel`. */
eie_status eie_gemm_create(const eie_weight *weight, eie_format format, const eie_parallel *parallel, eie_layer **layer);
eie_status eie_gemm_run(const eie_layer *layer, const float *x, uint64_t batch, const float *bias, float *y,
                        const eie_parallel *parallel);
/* The same with `count` followers. EIE_E_ARGUMENT: a kind that is none, an operand that is missing. */
eie_status eie_gemm_run_followed(const eie_layer *layer, const float *x, uint64_t batch, const float *bias, const eie_follower *followers,
                                 uint64_t count, float *y, const eie_parallel *parallel);
void eie_gemm_choose(uint64_t out, uint64_t in, uint64_t nonzeros, uint32_t codebook_size, eie_format format,
                     eie_verdict *verdict);

/* ONNX Conv and ConvTranspose with 1, 2 or 3 spatial dimensions. */
typedef enum { EIE_PAD_EXPLICIT = 0, EIE_PAD_SAME_UPPER, EIE_PAD_SAME_LOWER, EIE_PAD_VALID } eie_auto_pad;
typedef struct {
    uint32_t spatial;           /* 1 to 3 */
    uint32_t transposed;        /* 0: Conv, weight [out, in/group, k...]; 1: ConvTranspose, weight [in, out/group, k...] */
    uint64_t group;
    int64_t strides[3];
    int64_t dilations[3];
    int64_t pads[6];            /* begins, then ends, as in ONNX; used when auto_pad is explicit */
    int64_t output_padding[3];  /* transposed only */
    int64_t output_shape[3];    /* transposed only; all 0: not given */
    int32_t auto_pad;           /* eie_auto_pad */
} eie_conv_params;

eie_status eie_conv_create(const eie_weight *weight, const eie_conv_params *params, eie_format format, eie_layer **layer);
/* in: channels and spatial dims [c, s...]; out: the same of the output. EIE_E_SHAPE when they do not fit. */
eie_status eie_conv_output_dims(const eie_layer *layer, const int64_t *in, int64_t *out);
/* x [n, in[0], in[1], ...] -> y [n, out[0], ...]; bias [out channels] or NULL. */
eie_status eie_conv_run(const eie_layer *layer, const float *x, uint64_t n, const int64_t *in, const float *bias,
                        float *y, const eie_parallel *parallel);
/* The same with `count` followers; errors as of eie_gemm_run_followed. */
eie_status eie_conv_run_followed(const eie_layer *layer, const float *x, uint64_t n, const int64_t *in, const float *bias,
                                 const eie_follower *followers, uint64_t count, float *y, const eie_parallel *parallel);
void eie_conv_choose(const eie_weight *weight, const eie_conv_params *params, uint64_t nonzeros, eie_format format,
                     eie_verdict *verdict);

/* ONNX LSTM and GRU. Weights w [directions, gates * hidden, input], r [directions, gates * hidden, hidden]. */
typedef enum { EIE_LSTM = 0, EIE_GRU = 1 } eie_cell;
typedef enum { EIE_FORWARD = 0, EIE_REVERSE = 1, EIE_BIDIRECTIONAL = 2 } eie_direction;
typedef struct {
    int32_t cell;                /* eie_cell */
    int32_t direction;           /* eie_direction */
    uint64_t hidden;
    int32_t layout;              /* 0: time first; 1: batch first, as in ONNX opset 14 */
    int32_t input_forget;        /* LSTM */
    int32_t linear_before_reset; /* GRU */
    float clip;                  /* 0: none */
} eie_recurrent_params;          /* activations: ONNX's defaults only (Sigmoid, Tanh, Tanh) */

typedef struct {
    const float *x;                  /* [time, batch, input], or [batch, time, input] with layout 1 */
    uint64_t time, batch;
    const float *bias;               /* [directions, 2 * gates * hidden] or NULL */
    const int32_t *sequence_lengths; /* [batch] or NULL */
    const float *initial_h;          /* [directions, batch, hidden] (layout 1: [batch, directions, hidden]) or NULL */
    const float *initial_c;          /* LSTM, the same, or NULL */
    const float *peephole;           /* LSTM, [directions, 3 * hidden] or NULL */
    float *y;                        /* [time, directions, batch, hidden] (layout 1: [batch, time, directions, hidden]) or NULL */
    float *y_h;                      /* as initial_h, or NULL */
    float *y_c;                      /* as initial_c, or NULL */
} eie_recurrent_io;

eie_status eie_recurrent_create(const eie_weight *w, const eie_weight *r, const eie_recurrent_params *params,
                                eie_format format, const eie_parallel *parallel, eie_layer **layer);
eie_status eie_recurrent_run(const eie_layer *layer, const eie_recurrent_io *io, const eie_parallel *parallel);

/* Rows of a table: y[i, :] = weight[index[i], ...]. Negative indices count from the end, as in ONNX; one out of
 * range is EIE_E_ARGUMENT and y is not written. */
eie_status eie_gather_create(const eie_weight *weight, eie_layer **layer);
eie_status eie_gather_run(const eie_layer *layer, const int64_t *indices, uint64_t count, float *y);

/* ---- one-dimensional k-means (csrc/cluster) ------------------------------------------------------------------- */
/* The exact optimum: splits `values` (ascending, n > 0) with `weights` (positive, or NULL for ones) into at most k
 * runs with the least weighted sum of squared distances to the runs' means. Writes the runs' means (ascending) and
 * the index of the first value of each run, sets *used <= k, *cost. */
eie_status eie_kmeans1d(const double *values, const double *weights, size_t n, size_t k, double *centroids,
                        size_t *first, size_t *used, double *cost);

/* ---- the accelerator (csrc/hardware, docs/hardware.md) ------------------------------------------------------- */
/* A matrix as the elements hold it: interleaved compressed sparse columns. Element e holds rows e, e + N, e + 2N, ... and
 * its entries follow those of element e - 1 in `codes` and `runs`. */
typedef struct {
    uint64_t rows;            /* accumulators an element: outputs / elements, rounded up; below 65536 */
    uint64_t inputs, columns; /* columns = inputs, or one more: the bias column, always broadcast, whose sums stay 0 */
    uint64_t entries;         /* of all elements, fillers included */
    const uint32_t *pointers; /* [elements][columns + 1], each element's from 0 */
    const uint8_t *codes;     /* [entries]; 0 is a filler */
    const uint8_t *runs;      /* [entries] zeros before the entry in its slice of the column */
    uint32_t codebook_size;
    const int32_t *codebook;  /* fixed point */
} eie_image;

typedef struct {
    uint32_t elements;      /* processing elements */
    uint32_t depth;         /* activations a queue holds */
    uint32_t line;          /* entries a line of the sparse-matrix SRAM */
    uint32_t skip_negative; /* broadcast what is above 0 only; otherwise all that is not 0 */
    uint32_t bypass;        /* sums reach the adder before their register */
} eie_machine;

/* All of one run. Of elements x cycles: visited + empty + starved + hazard + idle. */
typedef struct {
    uint64_t cycles;
    uint64_t broadcasts;      /* columns */
    uint64_t visited;         /* entries, fillers included: a cycle each */
    uint64_t fillers;         /* of them */
    uint64_t pointer_reads;   /* pairs of pointers */
    uint64_t line_reads;      /* of the sparse-matrix SRAM */
    uint64_t bypasses;        /* sums used in the cycle after they were made */
    uint64_t scan_cycles;     /* spent on rows of activations without one to broadcast */
    uint64_t blocked_cycles;  /* a broadcast waited for a full queue */
    uint64_t empty_cycles;    /* element-cycles spent on columns an element holds nothing of */
    uint64_t starved_cycles;  /* element-cycles waiting for a broadcast */
    uint64_t hazard_cycles;   /* element-cycles waiting for a sum, without bypass */
    uint64_t idle_cycles;     /* element-cycles at the end, waiting for the slowest */
} eie_activity;

typedef struct {
    uint64_t visited, idle; /* of one element */
} eie_load;

typedef struct {
    uint64_t cycle;
    uint32_t length; /* cycles */
    uint32_t element, column;
    uint32_t kind; /* 0: column broadcast (element = their number), 1: entries of a column, 2: a column without */
} eie_event;

typedef struct {
    uint64_t from, to; /* cycles that are wanted */
    eie_event *events;
    uint64_t capacity, count;
} eie_trace;

/* A matrix of codes [rows, columns], row by row, as an image: measure gives pointers [elements][columns + 1] and the number
 * of entries; fill, with those pointers, codes and runs. A gap of 2^run_bits zeros or more takes fillers. */
eie_status eie_image_measure(const uint8_t *matrix, uint64_t rows, uint64_t columns, uint32_t elements, uint32_t run_bits,
                             uint32_t *pointers, uint64_t *entries);
eie_status eie_image_fill(const uint8_t *matrix, uint64_t rows, uint64_t columns, uint32_t elements, uint32_t run_bits,
                          const uint32_t *pointers, uint8_t *codes, uint8_t *runs);

/* Runs `vectors` activation vectors [inputs], one after the other, and sums [vectors][rows][elements] exactly; `sums`,
 * `cycles` [vectors], `loads` [elements] and `trace` may be NULL. The image is checked first. */
eie_status eie_machine_run(const eie_machine *machine, const eie_image *image, const int16_t *x, uint64_t vectors, int64_t *sums,
                           uint64_t *cycles, eie_activity *activity, eie_load *loads, eie_trace *trace);
/* ---- measures of the machine (csrc/bench, for `eie bench`) ---------------------------------------------------- */
/* One core, with the widest instructions of the set in use; the caller keeps the time. */
/* Reads `bytes` (a multiple of 512) from `buffer` (at a multiple of 64), `times` over; returns what depends on all of it. */
uint64_t eie_bench_read(const uint8_t *buffer, size_t bytes, uint64_t times);
/* Independent multiply-adds of float; 8-bit ones into int32. Return how many; 0 where the set has no such instruction. */
double eie_bench_fma(uint64_t rounds, float *sink);
double eie_bench_dot(uint64_t rounds, int32_t *sink);
/* Drops a buffer, which must be readable, from all caches, the shared ones included; its contents stay as they are.
 * EIE_E_UNSUPPORTED: this machine has no instruction for it. */
eie_status eie_bench_flush(const uint8_t *buffer, size_t bytes);
/* CDEF END */

#ifdef __cplusplus
}
#endif
#endif
