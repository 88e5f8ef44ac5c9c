/* ai.eie.Gather: rows of a compressed table. */
#include <stdlib.h>
#include <string.h>

#include "ort/op.h"

static OrtStatus *pack(eie_kernel *kernel, const eie_weight *weights, const OrtKernelInfo *info) {
    (void)info;
    if (weights->rank < 1) return eie_fail(kernel, ORT_INVALID_GRAPH, "its weight has no rows");
    eie_status status = eie_gather_create(weights, &kernel->layer);
    return status == EIE_OK ? NULL : eie_fail_status(kernel, "its weight can't be used", status);
}

static OrtStatus *check(const eie_kernel *kernel, const eie_tensor *indices) {
    if (indices->type == ORT_INT64 || indices->type == ORT_INT32) return NULL;
    return eie_fail(kernel, ORT_INVALID_ARGUMENT, "its indices have the element type %d instead of int64 or int32", (int)indices->type);
}

static OrtStatus *gather(const eie_kernel *kernel, const eie_tensor *indices, uint64_t count, float *y) {
    const int64_t *wide = indices->data;
    int64_t *copy = NULL;
    if (indices->type == ORT_INT32) {
        wide = copy = malloc((size_t)count * sizeof *copy);
        if (copy == NULL) return eie_fail_status(kernel, "its indices", EIE_E_MEMORY);
        for (uint64_t i = 0; i < count; i++) copy[i] = ((const int32_t *)indices->data)[i];
    }
    eie_status status = eie_gather_run(kernel->layer, wide, count, y);
    int64_t rows = (int64_t)kernel->dims[0], bad = 0;
    for (uint64_t i = 0; status == EIE_E_ARGUMENT && i < count; i++) {
        if (wide[i] < -rows || wide[i] >= rows) {
            bad = wide[i];
            break;
        }
    }
    free(copy);
    if (status == EIE_OK) return NULL;
    if (status != EIE_E_ARGUMENT) return eie_fail_status(kernel, "could not run", status);
    return eie_fail(kernel, ORT_INVALID_ARGUMENT, "the index %lld is out of the table's %lld rows", (long long)bad, (long long)rows);
}

static OrtStatus *run(const eie_kernel *kernel, OrtKernelContext *context) {
    eie_tensor indices;
    OrtStatus *status = eie_input(kernel, context, 1, "indices", ORT_UNDEFINED, &indices, NULL);
    if (status == NULL) status = check(kernel, &indices);
    if (status != NULL) return status;
    size_t row = kernel->rank - 1;
    if (indices.rank + row > EIE_MAX_RANK) {
        return eie_fail(kernel, ORT_NOT_IMPLEMENTED, "its output would have %zu dimensions", indices.rank + row);
    }
    int64_t dims[EIE_MAX_RANK];
    memcpy(dims, indices.dims, indices.rank * sizeof *dims);
    for (size_t i = 0; i < row; i++) dims[indices.rank + i] = (int64_t)kernel->dims[i + 1];
    uint64_t count = 0;
    void *y;
    bool empty;
    status = eie_output(kernel, context, 0, dims, indices.rank + row, &y, &empty);
    if (status != NULL || empty || y == NULL || !eie_product(indices.dims, indices.rank, &count)) return status;
    return gather(kernel, &indices, count, y);
}

const eie_op eie_op_gather = {
    .name = "Gather", .inputs = 2, .outputs = 1, .required = 2, .payload = 0, .payloads = 1,
    .input_types = {ORT_UINT8, ORT_UNDEFINED}, .output_type = ORT_FLOAT, .pack = pack, .check = check, .run = run,
};
