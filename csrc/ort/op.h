/* What the custom operators share: one operator is a row of functions (eie_op), one node of a model is a kernel.
 *
 * A kernel is made in three steps: its attributes are read, its payloads decoded, the weights packed. The last two happen
 * when the session is made if the payloads are constants then, and otherwise at the first run: initializers that are
 * inputs too, as all are before IR version 4, could be fed.
 */
#ifndef EIE_ORT_OP_H
#define EIE_ORT_OP_H
#include <stdbool.h>

#include "eie.h"
#include "ort/lock.h"
#include "ort/ort_api.h"

#define EIE_MAX_RANK 64 /* of an input or output: what numpy allows */
#define EIE_MAX_INPUTS 8
#define EIE_MAX_OUTPUTS 3

typedef struct eie_op eie_op;
typedef struct eie_kernel eie_kernel;

/* An input. While the session is made: what is known of it, dims -1 where they are not, `known` false without a rank. */
typedef struct {
    const void *data;
    OrtElementType type;
    bool known;
    size_t rank;
    int64_t dims[EIE_MAX_RANK];
} eie_tensor;

struct eie_op {
    OrtCustomOp ort; /* first: ONNX Runtime hands a pointer to it back */
    const OrtApi *api;
    const char *name;
    size_t inputs, outputs;
    size_t required;                /* inputs that must be there; all outputs but the first may be left out */
    size_t payload, payloads;       /* first slot, and how many */
    OrtElementType input_types[EIE_MAX_INPUTS];
    OrtElementType output_type;
    bool computes;                  /* has the attribute `activations` */
    eie_format override;            /* and what stands in its place, where `overridden` */
    bool overridden;
    bool packed; /* nothing runs dense */
    OrtStatus *(*attributes)(eie_kernel *kernel, const OrtKernelInfo *info); /* NULL: has none */
    /* `info` is NULL at a run; the kernel then runs from its packed form */
    OrtStatus *(*pack)(eie_kernel *kernel, const eie_weight *weights, const OrtKernelInfo *info);
    OrtStatus *(*check)(const eie_kernel *kernel, const eie_tensor *x); /* its first input that is no payload, against the weight */
    OrtStatus *(*run)(const eie_kernel *kernel, OrtKernelContext *context);
};

typedef struct {
    int64_t shape[EIE_MAX_RANK];
    size_t rank;
    bool given; /* shape and rank are */
    bool transpose;
} eie_decode_attributes;

typedef struct {
    eie_conv_params params;
    int64_t kernel[3];
    size_t kernel_rank;                                    /* 0: not given */
    size_t strides, dilations, pads, padding, output_shape; /* how many values each was given */
} eie_conv_attributes;

typedef struct {
    eie_recurrent_params params;
    int64_t hidden; /* INT64_MIN: not given */
    uint64_t input; /* from the weight */
} eie_recurrent_attributes;

/* ONNX Runtime's own operator and the decoded weight it runs on. */
typedef struct {
    OrtOp *op; /* NULL: the layer runs from its packed form */
    OrtMemoryInfo *memory;
    float *values;
    OrtValue *weight;
} eie_dense;

struct eie_kernel {
    const OrtApi *api;
    const eie_op *op;
    char *name;
    eie_format format;
    union {
        eie_conv_attributes conv;
        eie_recurrent_attributes recurrent;
        eie_decode_attributes decode;
    } attributes;
    /* what packing leaves: the first weight's shape; a layer, or for Decode its codes in the order they are written */
    uint64_t dims[8];
    uint32_t rank;
    eie_layer *layer; /* of a convolution that runs dense: one without weights, that knows its sizes */
    eie_dense dense;
    uint8_t *codes;
    float codebook[256];
    bool constant; /* the payloads were readable when the session was made; nothing below is used then */
    eie_lock lock;
    bool packed;
    struct {
        const uint8_t *seen; /* where it lay at the last run */
        uint8_t *copy;
        size_t size;
    } payloads[2];
};

/* ---- kernel.c -------------------------------------------------------------------------------------------------- */
/* A status whose text begins with operator and name of the node. */
#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
OrtStatus *eie_fail(const eie_kernel *kernel, OrtErrorCode code, const char *format, ...);
OrtStatus *eie_fail_status(const eie_kernel *kernel, const char *what, eie_status status);
/* `out` shows dims as "[2, ?, 3]"; returns it. */
const char *eie_dims_text(const int64_t *dims, size_t rank, char out[160]);

/* An input at run; present is false for one left out, which is an error where `present` is NULL. ORT_UNDEFINED: any type. */
OrtStatus *eie_input(const eie_kernel *kernel, const OrtKernelContext *context, size_t index, const char *name,
                     OrtElementType type, eie_tensor *tensor, bool *present);
/* The same for float inputs of a shape known to the caller; *data is NULL for one left out. */
OrtStatus *eie_optional_floats(const eie_kernel *kernel, const OrtKernelContext *context, size_t index, const char *name,
                               const int64_t *dims, size_t rank, const float **data);
/* Where to write an output; NULL for one the model leaves out. *empty: it has no elements. */
OrtStatus *eie_output(const eie_kernel *kernel, OrtKernelContext *context, size_t index, const int64_t *dims, size_t rank,
                      void **data, bool *empty);
/* The product of dims; false where it does not fit what 64 bits address in 8-byte elements. */
bool eie_product(const int64_t *dims, size_t rank, uint64_t *product);

/* ONNX Runtime's own threads as an eie_parallel. `pool.status` holds an error afterwards. */
typedef struct {
    const OrtApi *api;
    const OrtKernelContext *context;
    OrtStatus *status;
} eie_pool;
eie_parallel eie_ort_threads(eie_pool *pool, const eie_kernel *kernel, const OrtKernelContext *context);
/* The status of a layer's run, and of the threads it ran on. */
OrtStatus *eie_finish(const eie_kernel *kernel, eie_status status, eie_pool *pool);

OrtStatus *ORT_CALL eie_kernel_create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
OrtStatus *ORT_CALL eie_kernel_compute(void *kernel, OrtKernelContext *context);
void ORT_CALL eie_kernel_destroy(void *kernel);

/* ---- attributes.c ---------------------------------------------------------------------------------------------- */
/* Each leaves the value as it is where the node has no such attribute; one of another kind is an error. */
OrtStatus *eie_attribute_int(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, int64_t *value);
OrtStatus *eie_attribute_flag(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, bool *value);
OrtStatus *eie_attribute_float(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, float *value);
/* The index of the attribute's text among `choices`. */
OrtStatus *eie_attribute_choice(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name,
                                const char *const *choices, size_t count, int32_t *value);
/* *count: how many there are, 0 for an empty list too; *present tells that from none. */
OrtStatus *eie_attribute_ints(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, int64_t *values,
                              size_t capacity, size_t *count, bool *present);
OrtStatus *eie_attribute_format(eie_kernel *kernel, const OrtKernelInfo *info);

/* ---- dense.c --------------------------------------------------------------------------------------------------- */
/* Makes the standard operator the layer runs as from now on, on `weight` decoded. False, and nothing made, where the packed
 * form is expected to be faster, or this ONNX Runtime has no such operator, or one that might differ from ours, or at a
 * run (`info` is NULL). */
bool eie_dense_gemm(eie_kernel *kernel, const OrtKernelInfo *info, const eie_weight *weight);
bool eie_dense_conv(eie_kernel *kernel, const OrtKernelInfo *info, const eie_weight *weight);
void eie_dense_free(eie_kernel *kernel);
/* Runs it. Shapes are checked: y has the shape the operator will compute. bias [channels] may be NULL. */
OrtStatus *eie_dense_run(const eie_kernel *kernel, const OrtKernelContext *context, const void *x, const int64_t *x_dims,
                         const float *bias, int64_t channels, void *y, const int64_t *y_dims, size_t rank);

/* ---- shapes.c -------------------------------------------------------------------------------------------------- */
OrtStatus *ORT_CALL eie_infer_gemm(const OrtCustomOp *op, OrtShapeInferContext *context);
OrtStatus *ORT_CALL eie_infer_conv(const OrtCustomOp *op, OrtShapeInferContext *context);
OrtStatus *ORT_CALL eie_infer_decode(const OrtCustomOp *op, OrtShapeInferContext *context);

/* ---- one file each --------------------------------------------------------------------------------------------- */
extern const eie_op eie_op_gemm, eie_op_conv, eie_op_conv_transpose, eie_op_lstm, eie_op_gru, eie_op_gather, eie_op_decode;

#endif
