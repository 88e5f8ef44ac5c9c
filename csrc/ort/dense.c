/* ONNX Runtime's own operator in a compressed layer's place: where a weight has few zeros, its dense kernels are faster. The
 * operator is made once, on the weight decoded once, and invoked at each run. */
#include <stdlib.h>
#include <string.h>

#include "ort/op.h"

enum { MOST_ATTRIBUTES = 8 };

struct eie_dense {
    OrtOp *plain, *biased; /* without and with a bias as third input; biased may be NULL */
    OrtMemoryInfo *memory;
    OrtValue *weight;
    float *values;
};

static bool worked(const OrtApi *api, OrtStatus *status) {
    if (status == NULL) return true;
    api->ReleaseStatus(status);
    return false;
}

static OrtOp *make_op(const eie_kernel *kernel, const char *name, int version, OrtOpAttr *const *attributes, size_t count, int inputs) {
    const char *constraint = "T";
    const OrtElementType type = ORT_FLOAT;
    OrtOp *op = NULL;
    return worked(kernel->api, kernel->api->CreateOp(kernel->info, name, "", version, &constraint, &type, 1, (const OrtOpAttr *const *)attributes,
                                                     (int)count, inputs, 1, &op)) ? op : NULL;
}

void eie_dense_create(eie_kernel *kernel, const char *name, int version, const eie_dense_attribute *attributes, size_t count, float *values,
                      const int64_t *dims, size_t rank, bool takes_bias) {
    const OrtApi *api = kernel->api;
    OrtOpAttr *made[MOST_ATTRIBUTES] = {NULL};
    eie_dense *d = calloc(1, sizeof *d);
    if (d == NULL || count > MOST_ATTRIBUTES) {
        free(d);
        free(values);
        return;
    }
    d->values = values;
    kernel->dense = d;
    size_t elements = 1;
    bool fine = true;
    for (size_t i = 0; i < rank; i++) elements *= (size_t)dims[i];
    for (size_t i = 0; i < count && fine; i++) {
        const eie_dense_attribute *a = &attributes[i];
        const OrtOpAttrType type = a->text != NULL ? ORT_ATTRIBUTE_STRING : a->single ? ORT_ATTRIBUTE_INT : ORT_ATTRIBUTE_INTS;
        const void *data = a->text != NULL ? (const void *)a->text : (const void *)a->numbers;
        fine = worked(api, api->CreateOpAttr(a->name, data, a->text != NULL ? (int)strlen(a->text) : a->count, type, &made[i]));
    }
    if (fine) d->plain = make_op(kernel, name, version, made, count, 2);
    if (fine && takes_bias) d->biased = make_op(kernel, name, version, made, count, 3);
    for (size_t i = 0; i < count; i++) {
        if (made[i] != NULL) api->ReleaseOpAttr(made[i]);
    }
    fine = d->plain != NULL && (d->biased != NULL || !takes_bias) && worked(api, api->CreateCpuMemoryInfo(0, 0, &d->memory)) &&
           worked(api, api->CreateTensorWithDataAsOrtValue(d->memory, values, elements * sizeof *values, dims, rank, ORT_FLOAT, &d->weight));
    if (!fine) eie_dense_free(kernel);
}

OrtStatus *eie_dense_run(const eie_kernel *kernel, OrtKernelContext *context, const int64_t *dims, size_t rank) {
    const OrtApi *api = kernel->api;
    const eie_dense *d = kernel->dense;
    const OrtValue *x = NULL, *bias = NULL;
    OrtValue *y = NULL;
    size_t inputs = 0;
    OrtStatus *status = api->KernelContext_GetInput(context, 0, &x);
    if (status == NULL) status = api->KernelContext_GetInputCount(context, &inputs);
    if (status == NULL && d->biased != NULL && inputs > 2) status = api->KernelContext_GetInput(context, 2, &bias);
    if (status == NULL) status = api->KernelContext_GetOutput(context, 0, dims, rank, &y);
    if (status != NULL) return status;
    const OrtValue *const given[] = {x, d->weight, bias};
    return api->InvokeOp(context, bias != NULL ? d->biased : d->plain, given, bias != NULL ? 3 : 2, &y, 1);
}

void eie_dense_free(eie_kernel *kernel) {
    const OrtApi *api = kernel->api;
    eie_dense *d = kernel->dense;
    if (d == NULL) return;
    if (d->weight != NULL) api->ReleaseValue(d->weight);
    if (d->memory != NULL) api->ReleaseMemoryInfo(d->memory);
    if (d->plain != NULL) api->ReleaseOp(d->plain);
    if (d->biased != NULL) api->ReleaseOp(d->biased);
    free(d->values);
    free(d);
    kernel->dense = NULL;
}
