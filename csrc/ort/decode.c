/* ai.eie.Decode: the dense weight, for an operator that has no compressed form. Held as one byte a value and written out
 * at each run: a table look-up writes about as fast as a copy would, from a quarter of the memory. */
#include <stdlib.h>
#include <string.h>

#include "ort/op.h"

static OrtStatus *attributes(eie_kernel *kernel, const OrtKernelInfo *info) {
    eie_decode_attributes *a = &kernel->attributes.decode;
    OrtStatus *status = eie_attribute_flag(kernel, info, "transpose", &a->transpose);
    if (status == NULL) status = eie_attribute_ints(kernel, info, "shape", a->shape, EIE_MAX_RANK, &a->rank, &a->given);
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

static OrtStatus *pack(eie_kernel *kernel, const eie_weight *weights, const OrtKernelInfo *info) {
    (void)info;
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

#define DECODE_BLOCK 65536u /* values a task writes */

typedef struct {
    const eie_kernel *kernel;
    uint64_t count;
    float *out;
} decoding;

static void decode_block(void *given, size_t block) {
    const decoding *d = given;
    const uint64_t from = (uint64_t)block * DECODE_BLOCK, end = from + DECODE_BLOCK < d->count ? from + DECODE_BLOCK : d->count;
    for (uint64_t i = from; i < end; i++) d->out[i] = d->kernel->codebook[d->kernel->codes[i]];
}

static OrtStatus *run(const eie_kernel *kernel, OrtKernelContext *context) {
    const eie_decode_attributes *a = &kernel->attributes.decode;
    decoding d = {.kernel = kernel};
    bool empty;
    void *out;
    OrtStatus *status = eie_output(kernel, context, 0, a->shape, a->rank, &out, &empty);
    if (status != NULL || empty || out == NULL || !eie_product(a->shape, a->rank, &d.count)) return status;
    d.out = out;
    eie_pool pool;
    eie_parallel threads = eie_ort_threads(&pool, kernel, context);
    threads.run(threads.pool, decode_block, &d, (size_t)((d.count + DECODE_BLOCK - 1) / DECODE_BLOCK));
    return eie_finish(kernel, EIE_OK, &pool);
}

const eie_op eie_op_decode = {
    .name = "Decode", .inputs = 1, .outputs = 1, .required = 1, .payload = 0, .payloads = 1,
    .input_types = {ORT_UINT8}, .output_type = ORT_FLOAT,
    .ort.InferOutputShapeFn = eie_infer_decode, .attributes = attributes, .pack = pack, .run = run,
};
