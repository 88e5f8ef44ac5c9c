/* ai.eie.Gemm: Y = X W^T + bias, X of any rank from 1. */
#include <string.h>

#include "ort/op.h"

static OrtStatus *pack(eie_kernel *kernel, const eie_weight *weights, const OrtKernelInfo *info) {
    if (weights->rank != 2) {
        return eie_fail(kernel, ORT_INVALID_GRAPH, "its weight has %u dimensions instead of [out, in]", weights->rank);
    }
    if (eie_dense_gemm(kernel, info, weights)) return NULL;
    eie_status status = eie_gemm_create(weights, kernel->format, NULL, &kernel->layer);
    return status == EIE_OK ? NULL : eie_fail_status(kernel, "its weight can't be used", status);
}

static OrtStatus *check(const eie_kernel *kernel, const eie_tensor *x) {
    if (!x->known) return NULL;
    int64_t in = x->rank == 0 ? -2 : x->dims[x->rank - 1];
    if (in == -1 || (in >= 0 && (uint64_t)in == kernel->dims[1])) return NULL;
    char text[160];
    return eie_fail(kernel, ORT_INVALID_ARGUMENT, "X has the shape %s, and its weight takes %llu inputs",
                    eie_dims_text(x->dims, x->rank, text), (unsigned long long)kernel->dims[1]);
}

static OrtStatus *run(const eie_kernel *kernel, OrtKernelContext *context) {
    eie_tensor x;
    OrtStatus *status = eie_input(kernel, context, 0, "X", ORT_FLOAT, &x, NULL);
    if (status == NULL) status = check(kernel, &x);
    if (status != NULL) return status;
    int64_t out = (int64_t)kernel->dims[0], in = (int64_t)kernel->dims[1];
    const float *bias;
    status = eie_optional_floats(kernel, context, 2, "bias", &out, 1, &bias);
    if (status != NULL) return status;
    void *y;
    bool empty;
    uint64_t batch = 0;
    x.dims[x.rank - 1] = out;
    status = eie_output(kernel, context, 0, x.dims, x.rank, &y, &empty);
    if (status != NULL || empty || y == NULL || !eie_product(x.dims, x.rank - 1, &batch)) return status;
    if (kernel->dense.op != NULL) {
        const int64_t x_dims[] = {(int64_t)batch, in}, y_dims[] = {(int64_t)batch, out};
        return eie_dense_run(kernel, context, x.data, x_dims, bias, out, y, y_dims, 2);
    }
    eie_pool pool;
    eie_parallel threads = eie_ort_threads(&pool, kernel, context);
    return eie_finish(kernel, eie_gemm_run(kernel->layer, x.data, batch, bias, y, &threads), &pool);
}

const eie_op eie_op_gemm = {
    .name = "Gemm", .inputs = 3, .outputs = 1, .required = 2, .payload = 1, .payloads = 1, .computes = true,
    .input_types = {ORT_FLOAT, ORT_UINT8, ORT_FLOAT}, .output_type = ORT_FLOAT,
    .ort.InferOutputShapeFn = eie_infer_gemm, .pack = pack, .check = check, .run = run,
};
