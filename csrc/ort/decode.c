/* ai.eie.Decode: the dense weight, for an operator that has no compressed form. Held as one byte a value and written out
 * at each run: a table look-up writes about as fast as a copy would, from a quarter of the memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ort/op.h"

static OrtStatus *attributes(eie_kernel *kernel, const OrtKernelInfo *info) {
    eie_decode_attributes *a = &kernel->attributes.decode;
    int64_t to = 1; /* ONNX's element types: the same numbers as ONNX Runtime's for those we write */
    OrtStatus *status = eie_attribute_int(kernel, info, "to", &to);
    if (status == NULL) status = eie_attribute_flag(kernel, info, "transpose", &a->transpose);
    if (status == NULL) status = eie_attribute_ints(kernel, info, "shape", a->shape, EIE_MAX_RANK, &a->rank, &a->given);
    if (status == NULL && to != ORT_FLOAT && to != ORT_FLOAT16 && to != ORT_DOUBLE && to != ORT_BFLOAT16) {
        status = eie_fail(kernel, ORT_INVALID_GRAPH, "to is %lld, which is no floating-point type it decodes to", (long long)to);
    }
    if (status == NULL && to != (int64_t)kernel->op->output_type) { /* what the output will have room for */
        status = eie_fail(kernel, ORT_INVALID_GRAPH, "to is %lld, and the model declares its output as of element type %d",
                          (long long)to, (int)kernel->op->output_type);
    }
    a->to = (OrtElementType)to;
    return status;
}

static OrtStatus *check_shape(const eie_kernel *kernel, const eie_weight *weight, uint64_t elements) {
    const eie_decode_attributes *a = &kernel->attributes.decode;
    uint64_t wanted = 0;
    if (a->transpose && weight->rank != 2) {
        return eie_fail(kernel, ORT_INVALID_GRAPH, "a weight of %u dimensions can't be transposed as a matrix", weight->rank);
    }
    if (!a->given || (eie_product(a->shape, a->rank, &wanted) && wanted == elements)) return NULL;
    char text[160];
    return eie_fail(kernel, ORT_INVALID_GRAPH, "its weight of %llu elements can't take the shape %s", (unsigned long long)elements,
                    eie_dims_text(a->shape, a->rank, text));
}

static OrtStatus *pack(eie_kernel *kernel, const eie_weight *weights) {
    eie_decode_attributes *a = &kernel->attributes.decode;
    uint64_t elements = 1;
    for (uint32_t i = 0; i < weights->rank; i++) elements *= weights->dims[i]; /* the payload's reader checked the product */
    OrtStatus *status = check_shape(kernel, weights, elements);
    if (status != NULL) return status;
    kernel->codes = malloc((size_t)elements + 1);
    if (kernel->codes == NULL) return eie_fail_status(kernel, "its weight", EIE_E_MEMORY);
    memcpy(kernel->codebook, weights->codebook, weights->codebook_size * sizeof *weights->codebook);
    if (!a->transpose) {
        memcpy(kernel->codes, weights->codes, (size_t)elements);
    } else if (elements > 0) { /* an empty matrix may have 2^60 rows */
        size_t rows = (size_t)weights->dims[0], columns = (size_t)weights->dims[1];
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < columns; j++) kernel->codes[j * rows + i] = weights->codes[i * columns + j];
        }
    }
    if (!a->given) {
        a->rank = weights->rank;
        for (size_t i = 0; i < a->rank; i++) a->shape[i] = (int64_t)weights->dims[a->transpose ? a->rank - 1 - i : i];
    }
    return NULL;
}

/* Both round to nearest even. Codebooks hold finite values only. */
static uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t to_float16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00);                                 /* from 2^16: infinite */
    if (magnitude < 0x38800000) return (uint16_t)(sign | (uint32_t)rintf(fabsf(value) * 0x1p24f)); /* below 2^-14: subnormal */
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

#define DECODE_BLOCK 65536u /* values a task writes */

typedef struct {
    const uint8_t *codes;
    uint64_t count;
    OrtElementType to;
    void *out;
    float floats[256];
    double doubles[256];
    uint16_t halves[256];
} decoding;

static void decode_block(void *given, size_t block) {
    const decoding *d = given;
    uint64_t from = (uint64_t)block * DECODE_BLOCK, end = from + DECODE_BLOCK < d->count ? from + DECODE_BLOCK : d->count;
    if (d->to == ORT_FLOAT) {
        for (uint64_t i = from; i < end; i++) ((float *)d->out)[i] = d->floats[d->codes[i]];
    } else if (d->to == ORT_DOUBLE) {
        for (uint64_t i = from; i < end; i++) ((double *)d->out)[i] = d->doubles[d->codes[i]];
    } else {
        for (uint64_t i = from; i < end; i++) ((uint16_t *)d->out)[i] = d->halves[d->codes[i]];
    }
}

static OrtStatus *run(const eie_kernel *kernel, OrtKernelContext *context) {
    const eie_decode_attributes *a = &kernel->attributes.decode;
    decoding d = {.codes = kernel->codes, .to = a->to};
    bool empty;
    OrtStatus *status = eie_output(kernel, context, 0, a->shape, a->rank, &d.out, &empty);
    if (status != NULL || empty || d.out == NULL || !eie_product(a->shape, a->rank, &d.count)) return status;
    for (size_t i = 0; i < 256; i++) {
        d.floats[i] = kernel->codebook[i];
        d.doubles[i] = kernel->codebook[i];
        d.halves[i] = a->to == ORT_BFLOAT16 ? to_bfloat16(kernel->codebook[i]) : to_float16(kernel->codebook[i]);
    }
    eie_pool pool;
    eie_parallel threads = eie_ort_threads(&pool, kernel, context);
    threads.run(threads.pool, decode_block, &d, (size_t)((d.count + DECODE_BLOCK - 1) / DECODE_BLOCK));
    return eie_finish(kernel, EIE_OK, &pool);
}

const eie_op eie_op_decode = {
    .name = "Decode", .inputs = 1, .outputs = 1, .required = 1, .payload = 0, .payloads = 1,
    .input_types = {ORT_UINT8}, .output_type = ORT_FLOAT, /* and others: register.c */
    .ort.InferOutputShapeFn = eie_infer_decode, .attributes = attributes, .pack = pack, .run = run,
};
