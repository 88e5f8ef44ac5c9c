/* The life of a kernel: made, run, freed; and what every operator's run needs. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ort/op.h"

/* ---- errors ---------------------------------------------------------------------------------------------------- */
OrtStatus *eie_fail(const eie_kernel *kernel, OrtErrorCode code, const char *format, ...) {
    char text[1024];
    int used = snprintf(text, sizeof text, "ai.eie %s '%.200s': ", kernel->op->name, kernel->name == NULL ? "" : kernel->name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, sizeof text - (size_t)used, format, arguments);
    va_end(arguments);
    return kernel->api->CreateStatus(code, text);
}

OrtStatus *eie_fail_status(const eie_kernel *kernel, const char *what, eie_status status) {
    OrtErrorCode code = status == EIE_E_MEMORY ? ORT_FAIL : status == EIE_E_UNSUPPORTED ? ORT_NOT_IMPLEMENTED : ORT_INVALID_GRAPH;
    return eie_fail(kernel, code, "%s: %s", what, eie_status_message(status));
}

const char *eie_dims_text(const int64_t *dims, size_t rank, char out[160]) {
    size_t used = (size_t)snprintf(out, 160, "[");
    for (size_t i = 0; i < rank && used < 120; i++) {
        used += (size_t)(dims[i] < 0 ? snprintf(out + used, 160 - used, "%s?", i ? ", " : "")
                                     : snprintf(out + used, 160 - used, "%s%lld", i ? ", " : "", (long long)dims[i]));
    }
    snprintf(out + used, 160 - used, "]");
    return out;
}

bool eie_product(const int64_t *dims, size_t rank, uint64_t *product) {
    uint64_t count = 1, limit = (uint64_t)INT64_MAX / 8; /* an empty tensor's other dimensions count too */
    bool empty = false;
    for (size_t i = 0; i < rank; i++) {
        if (dims[i] < 0) return false;
        if (dims[i] == 0) {
            empty = true;
            continue;
        }
        if ((uint64_t)dims[i] > limit / count) return false;
        count *= (uint64_t)dims[i];
    }
    *product = empty ? 0 : count;
    return true;
}

/* ---- inputs and outputs ---------------------------------------------------------------------------------------- */
static OrtStatus *read_info(const eie_kernel *kernel, const OrtTensorInfo *info, const char *name, OrtElementType type,
                            eie_tensor *tensor) {
    const OrtApi *api = kernel->api;
    OrtStatus *status = api->GetTensorElementType(info, &tensor->type);
    if (status == NULL) status = api->GetDimensionsCount(info, &tensor->rank);
    if (status != NULL) return status;
    if (type != ORT_UNDEFINED && tensor->type != type) {
        return eie_fail(kernel, ORT_INVALID_ARGUMENT, "%s has the element type %d instead of %d", name, (int)tensor->type, (int)type);
    }
    if (tensor->rank > EIE_MAX_RANK) {
        return eie_fail(kernel, ORT_NOT_IMPLEMENTED, "%s has %zu dimensions, at most %d are computed", name, tensor->rank, EIE_MAX_RANK);
    }
    return api->GetDimensions(info, tensor->dims, tensor->rank);
}

static OrtStatus *read_value(const eie_kernel *kernel, const OrtValue *value, const char *name, OrtElementType type,
                             eie_tensor *tensor) {
    const OrtApi *api = kernel->api;
    OrtTensorInfo *info = NULL;
    OrtStatus *status = api->GetTensorTypeAndShape(value, &info);
    if (status != NULL) return status;
    status = read_info(kernel, info, name, type, tensor);
    api->ReleaseTensorTypeAndShapeInfo(info);
    if (status != NULL) return status;
    tensor->known = true;
    void *data = NULL;
    status = api->GetTensorMutableData((OrtValue *)value, &data); /* only read: inputs have no other accessor */
    tensor->data = data;
    return status;
}

OrtStatus *eie_input(const eie_kernel *kernel, const OrtKernelContext *context, size_t index, const char *name,
                     OrtElementType type, eie_tensor *tensor, bool *present) {
    const OrtApi *api = kernel->api;
    const OrtValue *value = NULL;
    size_t count = 0;
    OrtStatus *status = api->KernelContext_GetInputCount(context, &count);
    if (status == NULL && index < count) status = api->KernelContext_GetInput(context, index, &value);
    if (status != NULL) return status;
    if (present != NULL) *present = value != NULL;
    if (value != NULL) return read_value(kernel, value, name, type, tensor);
    return present != NULL ? NULL : eie_fail(kernel, ORT_INVALID_ARGUMENT, "%s is missing", name);
}

OrtStatus *eie_optional_floats(const eie_kernel *kernel, const OrtKernelContext *context, size_t index, const char *name,
                               const int64_t *dims, size_t rank, const float **data) {
    eie_tensor tensor;
    bool present = false;
    *data = NULL;
    OrtStatus *status = eie_input(kernel, context, index, name, ORT_FLOAT, &tensor, &present);
    if (status != NULL || !present) return status;
    if (tensor.rank != rank || memcmp(tensor.dims, dims, rank * sizeof *dims) != 0) {
        char got[160], wanted[160];
        return eie_fail(kernel, ORT_INVALID_ARGUMENT, "%s has the shape %s instead of %s", name,
                        eie_dims_text(tensor.dims, tensor.rank, got), eie_dims_text(dims, rank, wanted));
    }
    *data = tensor.data;
    return NULL;
}

OrtStatus *eie_output(const eie_kernel *kernel, OrtKernelContext *context, size_t index, const int64_t *dims, size_t rank,
                      void **data, bool *empty) {
    const OrtApi *api = kernel->api;
    OrtValue *value = NULL;
    size_t count = 0;
    uint64_t elements = 0;
    *data = NULL;
    if (!eie_product(dims, rank, &elements)) {
        char text[160];
        return eie_fail(kernel, ORT_INVALID_ARGUMENT, "an output of shape %s is too large", eie_dims_text(dims, rank, text));
    }
    if (empty != NULL) *empty = elements == 0;
    OrtStatus *status = api->KernelContext_GetOutputCount(context, &count);
    if (status != NULL || index >= count) return status;
    status = api->KernelContext_GetOutput(context, index, dims, rank, &value);
    if (status != NULL || value == NULL) return status;
    return api->GetTensorMutableData(value, data);
}

/* ---- threads --------------------------------------------------------------------------------------------------- */
static void run_on_ort(void *pool, eie_task task, void *data, size_t count) {
    eie_pool *threads = pool;
    OrtStatus *status = threads->api->KernelContext_ParallelFor(threads->context, task, count, 0, data);
    if (status == NULL) return;
    if (threads->status != NULL) threads->api->ReleaseStatus(threads->status);
    threads->status = status;
}

eie_parallel eie_ort_threads(eie_pool *pool, const eie_kernel *kernel, const OrtKernelContext *context) {
    *pool = (eie_pool){kernel->api, context, NULL};
    return (eie_parallel){run_on_ort, pool};
}

OrtStatus *eie_finish(const eie_kernel *kernel, eie_status status, eie_pool *pool) {
    if (pool->status != NULL) return pool->status;
    if (status == EIE_OK) return NULL;
    OrtErrorCode code = status == EIE_E_MEMORY ? ORT_FAIL : ORT_INVALID_ARGUMENT;
    return eie_fail(kernel, code, "could not run: %s", eie_status_message(status));
}

/* ---- payloads -------------------------------------------------------------------------------------------------- */
static OrtStatus *decode(const eie_kernel *kernel, const eie_tensor *payload, eie_payload_info *info, uint8_t **codes,
                         float *codebook) {
    const uint8_t *bytes = payload->data != NULL ? payload->data : (const uint8_t *)"";
    if (payload->rank != 1) return eie_fail(kernel, ORT_INVALID_GRAPH, "its payload has %zu dimensions instead of one", payload->rank);
    size_t size = (size_t)payload->dims[0];
    eie_status status = eie_payload_inspect(bytes, size, info);
    if (status == EIE_OK) {
        *codes = info->elements < SIZE_MAX ? malloc((size_t)info->elements + 1) : NULL;
        status = *codes == NULL ? EIE_E_MEMORY : eie_payload_decode(bytes, size, *codes, (size_t)info->elements, codebook);
    }
    return status == EIE_OK ? NULL : eie_fail_status(kernel, "its payload can't be decoded", status);
}

static OrtStatus *pack(eie_kernel *kernel, const eie_tensor *payloads, const OrtKernelInfo *info) {
    uint8_t *codes[2] = {NULL, NULL};
    float codebooks[2][256];
    eie_payload_info infos[2];
    eie_weight weights[2];
    OrtStatus *status = NULL;
    for (size_t i = 0; i < kernel->op->payloads && status == NULL; i++) {
        status = decode(kernel, &payloads[i], &infos[i], &codes[i], codebooks[i]);
        weights[i] = (eie_weight){codes[i], codebooks[i], infos[i].codebook_size, infos[i].rank, infos[i].dims};
    }
    if (status == NULL) {
        kernel->rank = infos[0].rank;
        memcpy(kernel->dims, infos[0].dims, sizeof kernel->dims);
        status = kernel->op->pack(kernel, weights, info);
    }
    free(codes[0]);
    free(codes[1]);
    return status;
}

static OrtStatus *payload_value(const eie_kernel *kernel, const OrtValue *value, size_t i, eie_tensor *payload) {
    return read_value(kernel, value, kernel->op->payloads > 1 && i == 1 ? "payload R" : "its payload", ORT_UINT8, payload);
}

/* Packs now if all payloads are constants that can be read now. */
static OrtStatus *pack_constants(eie_kernel *kernel, const OrtKernelInfo *info) {
    eie_tensor payloads[2];
    for (size_t i = 0; i < kernel->op->payloads; i++) {
        const OrtValue *value = NULL;
        int constant = 0;
        OrtStatus *status = kernel->api->KernelInfoGetConstantInput_tensor(info, kernel->op->payload + i, &constant, &value);
        if (status != NULL || !constant || value == NULL) {
            if (status != NULL) kernel->api->ReleaseStatus(status);
            return NULL;
        }
        status = payload_value(kernel, value, i, &payloads[i]);
        if (status != NULL) return status;
    }
    OrtStatus *status = pack(kernel, payloads, info);
    kernel->constant = status == NULL;
    return status;
}

/* The payload must be the bytes the weights were packed from. One that lies where it lay is compared by length and
 * checksum, its last four bytes; elsewhere byte by byte. */
static bool unchanged(eie_kernel *kernel, size_t i, const eie_tensor *payload) {
    const uint8_t *bytes = payload->data, *copy = kernel->payloads[i].copy;
    size_t size = kernel->payloads[i].size;
    if (payload->rank != 1 || (uint64_t)payload->dims[0] != size || size < 4) return false;
    if (memcmp(bytes + size - 4, copy + size - 4, 4) != 0) return false;
    if (bytes == kernel->payloads[i].seen) return true;
    if (memcmp(bytes, copy, size) != 0) return false;
    kernel->payloads[i].seen = bytes;
    return true;
}

static OrtStatus *remember(eie_kernel *kernel, const eie_tensor *payloads) {
    for (size_t i = 0; i < kernel->op->payloads; i++) {
        size_t size = (size_t)payloads[i].dims[0];
        free(kernel->payloads[i].copy);
        kernel->payloads[i].copy = malloc(size + 1);
        if (kernel->payloads[i].copy == NULL) return eie_fail_status(kernel, "its payload", EIE_E_MEMORY);
        if (size > 0) memcpy(kernel->payloads[i].copy, payloads[i].data, size);
        kernel->payloads[i].size = size;
        kernel->payloads[i].seen = payloads[i].data;
    }
    return NULL;
}

/* At a run, for payloads that could not be read when the session was made. The caller holds the lock. */
static OrtStatus *pack_late(eie_kernel *kernel, const OrtKernelContext *context) {
    eie_tensor payloads[2];
    for (size_t i = 0; i < kernel->op->payloads; i++) {
        OrtStatus *status = eie_input(kernel, context, kernel->op->payload + i, "its payload", ORT_UINT8, &payloads[i], NULL);
        if (status != NULL) return status;
        if (kernel->packed && !unchanged(kernel, i, &payloads[i])) {
            return eie_fail(kernel, ORT_INVALID_ARGUMENT, "its payload changed between runs; compressed weights are constants");
        }
    }
    if (kernel->packed) return NULL;
    OrtStatus *status = remember(kernel, payloads);
    if (status == NULL) status = pack(kernel, payloads, NULL);
    kernel->packed = status == NULL;
    return status;
}

/* ---- the three callbacks --------------------------------------------------------------------------------------- */
static OrtStatus *read_name(eie_kernel *kernel, const OrtKernelInfo *info) {
    const OrtApi *api = kernel->api;
    size_t size = 0;
    OrtStatus *status = api->KernelInfo_GetNodeName(info, NULL, &size);
    if (status != NULL) return status;
    bool nameless = size <= 1;
    if (nameless) status = api->KernelInfo_GetOutputName(info, 0, NULL, &size);
    if (status != NULL) return status;
    kernel->name = calloc(size + 1, 1);
    if (kernel->name == NULL) return eie_fail_status(kernel, "its name", EIE_E_MEMORY);
    if (nameless) return api->KernelInfo_GetOutputName(info, 0, kernel->name, &size);
    return api->KernelInfo_GetNodeName(info, kernel->name, &size);
}

/* What is known of the data input while the session is made; shape inference would swallow an error, so it is said here. */
static OrtStatus *check_static(const eie_kernel *kernel, const OrtKernelInfo *info) {
    const OrtApi *api = kernel->api;
    OrtTypeInfo *type = NULL;
    const OrtTensorInfo *tensor = NULL;
    eie_tensor x = {.known = false};
    size_t slot = kernel->op->payload == 0 ? kernel->op->payloads : 0;
    if (kernel->op->check == NULL) return NULL;
    OrtStatus *status = api->KernelInfo_GetInputTypeInfo(info, slot, &type);
    if (status == NULL) status = api->CastTypeInfoToTensorInfo(type, &tensor);
    if (status != NULL || tensor == NULL) { /* nothing is known */
        if (status != NULL) api->ReleaseStatus(status);
        if (type != NULL) api->ReleaseTypeInfo(type);
        return NULL;
    }
    status = read_info(kernel, tensor, "X", ORT_UNDEFINED, &x);
    api->ReleaseTypeInfo(type);
    if (status != NULL) return status;
    x.known = x.rank > 0; /* a scalar and an unknown rank look the same here */
    return kernel->op->check(kernel, &x);
}

void ORT_CALL eie_kernel_destroy(void *given) {
    eie_kernel *kernel = given;
    if (kernel == NULL) return;
    eie_dense_free(kernel);
    eie_layer_free(kernel->layer);
    for (size_t i = 0; i < 2; i++) free(kernel->payloads[i].copy);
    free(kernel->codes);
    free(kernel->name);
    eie_lock_free(&kernel->lock);
    free(kernel);
}

OrtStatus *ORT_CALL eie_kernel_create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    *out = NULL;
    eie_kernel *kernel = calloc(1, sizeof *kernel);
    if (kernel == NULL) return api->CreateStatus(ORT_FAIL, "ai.eie: out of memory");
    kernel->api = api;
    kernel->op = (const eie_op *)op;
    eie_lock_init(&kernel->lock);
    OrtStatus *status = read_name(kernel, info);
    if (status == NULL && kernel->op->computes) status = eie_attribute_format(kernel, info);
    if (status == NULL && kernel->op->attributes != NULL) status = kernel->op->attributes(kernel, info);
    if (status == NULL) status = pack_constants(kernel, info);
    if (status == NULL && kernel->constant) status = check_static(kernel, info);
    if (status != NULL) {
        eie_kernel_destroy(kernel);
        return status;
    }
    *out = kernel;
    return NULL;
}

OrtStatus *ORT_CALL eie_kernel_compute(void *given, OrtKernelContext *context) {
    eie_kernel *kernel = given;
    if (!kernel->constant) {
        eie_lock_take(&kernel->lock);
        OrtStatus *status = pack_late(kernel, context);
        eie_lock_give(&kernel->lock);
        if (status != NULL) return status;
    }
    return kernel->op->run(kernel, context);
}
