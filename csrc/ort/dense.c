/* Layers that are hardly sparse: ONNX Runtime's own Gemm, Conv or ConvTranspose, made when the session is and run on the
 * weight decoded once. The packed form is not held then.
 *
 * Nothing checks the size of an output handed to an operator that is run this way, so only what has one meaning in every
 * version of ONNX Runtime is: everything else stays packed. */
#include <stdlib.h>
#include <string.h>

#include "ort/op.h"

#define EIE_MAX_ATTRIBUTES 8

/* What a convolution run this way pays that the same one in a model does not: its input is copied to columns, unless its
 * kernel is one place. Nanoseconds a value copied; 0.2 to 1.1 over the convolutions of five models, one core. */
static const double COLUMNS_TOUCH = 0.4;

/* How much longer than expected a packed convolution may take: its rates were fitted to maps of 14 by 14 and more, and the size
 * of this one is not known yet. */
static const double SMALL_MAP = 1.6;

static bool worked(const OrtApi *api, OrtStatus *status) {
    if (status == NULL) return true;
    api->ReleaseStatus(status);
    return false;
}

/* The payload's reader checked the product. */
static size_t elements_of(const eie_weight *weight) {
    uint64_t elements = 1;
    for (uint32_t i = 0; i < weight->rank; i++) elements *= weight->dims[i];
    return (size_t)elements;
}

static uint64_t nonzeros_of(const eie_weight *weight) {
    uint64_t count = 0;
    for (size_t i = 0, n = elements_of(weight); i < n; i++) count += weight->codes[i] != 0;
    return count;
}

/* ---- making ---------------------------------------------------------------------------------------------------- */
typedef struct {
    const OrtApi *api;
    OrtOpAttr *items[EIE_MAX_ATTRIBUTES];
    int count;
    bool failed;
} attribute_list;

static void add(attribute_list *list, const char *name, const void *values, size_t count, OrtOpAttrType type) {
    OrtOpAttr *made = NULL;
    if (list->failed || list->count == EIE_MAX_ATTRIBUTES ||
        !worked(list->api, list->api->CreateOpAttr(name, values, (int)count, type, &made))) {
        list->failed = true;
        return;
    }
    list->items[list->count++] = made;
}

/* The operator with the attributes listed, which are given back. Its bias is an input where the node has one. */
static bool make_op(eie_kernel *kernel, const OrtKernelInfo *info, const char *name, int version, attribute_list *list) {
    const OrtApi *api = kernel->api;
    const char *constraints[] = {"T"};
    const OrtElementType types[] = {ORT_FLOAT};
    size_t inputs = 0;
    bool made = !list->failed && worked(api, api->KernelInfo_GetInputCount(info, &inputs)) &&
                worked(api, api->CreateOp(info, name, "", version, constraints, types, 1, (const OrtOpAttr *const *)list->items,
                                          list->count, inputs > 2 ? 3 : 2, 1, &kernel->dense.op));
    for (int i = 0; i < list->count; i++) api->ReleaseOpAttr(list->items[i]);
    return made;
}

static bool make_weight(eie_kernel *kernel, const eie_weight *weight) {
    const OrtApi *api = kernel->api;
    eie_dense *dense = &kernel->dense;
    const size_t elements = elements_of(weight);
    int64_t dims[8];
    for (uint32_t i = 0; i < weight->rank; i++) dims[i] = (int64_t)weight->dims[i];
    if (elements > SIZE_MAX / sizeof(float)) return false;
    dense->values = malloc(elements * sizeof(float));
    if (dense->values == NULL) return false;
    for (size_t i = 0; i < elements; i++) dense->values[i] = weight->codebook[weight->codes[i]];
    return worked(api, api->CreateCpuMemoryInfo(0, 0, &dense->memory)) &&
           worked(api, api->CreateTensorWithDataAsOrtValue(dense->memory, dense->values, elements * sizeof(float), dims, weight->rank,
                                                           ORT_FLOAT, &dense->weight));
}

void eie_dense_free(eie_kernel *kernel) {
    eie_dense *dense = &kernel->dense;
    if (dense->op != NULL) kernel->api->ReleaseOp(dense->op);
    if (dense->weight != NULL) kernel->api->ReleaseValue(dense->weight);
    if (dense->memory != NULL) kernel->api->ReleaseMemoryInfo(dense->memory);
    free(dense->values);
    *dense = (eie_dense){0};
}

bool eie_dense_gemm(eie_kernel *kernel, const OrtKernelInfo *info, const eie_weight *weight) {
    static const int64_t no = 0, yes = 1;
    static const float one = 1;
    attribute_list list = {.api = kernel->api};
    eie_verdict verdict;
    if (info == NULL || kernel->op->packed) return false;
    eie_gemm_choose(weight->dims[0], weight->dims[1], nonzeros_of(weight), weight->codebook_size, kernel->format, &verdict);
    if (!verdict.dense) return false;
    add(&list, "transA", &no, 1, ORT_ATTRIBUTE_INT);
    add(&list, "transB", &yes, 1, ORT_ATTRIBUTE_INT);
    add(&list, "alpha", &one, 1, ORT_ATTRIBUTE_FLOAT);
    add(&list, "beta", &one, 1, ORT_ATTRIBUTE_FLOAT);
    if (make_op(kernel, info, "Gemm", 13, &list) && make_weight(kernel, weight)) return true;
    eie_dense_free(kernel);
    return false;
}

/* Pads as they are for every input; false where they depend on its size. */
static bool fixed_pads(const eie_kernel *kernel, const eie_weight *weight, int64_t pads[6]) {
    const eie_conv_params *p = &kernel->attributes.conv.params;
    const bool same = p->auto_pad == EIE_PAD_SAME_UPPER || p->auto_pad == EIE_PAD_SAME_LOWER;
    for (uint32_t i = 0; i < p->spatial; i++) {
        if (same && (p->transposed || p->strides[i] != 1)) return false;
        if (p->transposed && (p->output_shape[i] != 0 || (p->output_padding[i] >= p->strides[i]))) return false;
        int64_t total; /* what SAME adds where the stride is 1 */
        if (__builtin_mul_overflow((int64_t)weight->dims[i + 2] - 1, p->dilations[i], &total)) return false;
        const int64_t small = total / 2;
        pads[i] = p->pads[i];
        pads[i + p->spatial] = p->pads[i + p->spatial];
        if (same) pads[i] = p->auto_pad == EIE_PAD_SAME_UPPER ? small : total - small;
        if (same) pads[i + p->spatial] = total - pads[i];
        if (p->auto_pad == EIE_PAD_VALID) pads[i] = pads[i + p->spatial] = 0;
    }
    return true;
}

/* Whether SAME pads that depend on the input's size are the same to ONNX Runtime: never negative, nothing dilated. */
static bool same_is_same(const eie_kernel *kernel, const eie_weight *weight) {
    const eie_conv_params *p = &kernel->attributes.conv.params;
    for (uint32_t i = 0; i < p->spatial; i++) {
        if (p->transposed || p->dilations[i] != 1 || (int64_t)weight->dims[i + 2] < p->strides[i]) return false;
    }
    return p->auto_pad == EIE_PAD_SAME_UPPER || p->auto_pad == EIE_PAD_SAME_LOWER;
}

/* Whether dense pays even with its input copied to columns. */
static bool conv_pays(const eie_kernel *kernel, const eie_weight *weight, const int64_t *pads) {
    const eie_conv_params *p = &kernel->attributes.conv.params;
    double copied = (double)weight->dims[1] * (double)p->group; /* for a position; of the output, if transposed */
    bool columns = false;
    eie_verdict verdict;
    eie_conv_choose(weight, p, nonzeros_of(weight), kernel->format, &verdict);
    for (uint32_t i = 0; i < p->spatial; i++) {
        copied *= (double)weight->dims[i + 2];
        columns |= weight->dims[i + 2] != 1 || p->strides[i] != 1 || pads[i] != 0 || pads[i + p->spatial] != 0;
    }
    return verdict.dense && (!columns || verdict.packed_ns * SMALL_MAP > verdict.dense_ns + copied * COLUMNS_TOUCH);
}

bool eie_dense_conv(eie_kernel *kernel, const OrtKernelInfo *info, const eie_weight *weight) {
    const eie_conv_params *p = &kernel->attributes.conv.params;
    attribute_list list = {.api = kernel->api};
    int64_t pads[6] = {0}, shape[3];
    const int64_t group = (int64_t)p->group;
    if (info == NULL || kernel->op->packed) return false;
    const bool fixed = fixed_pads(kernel, weight, pads);
    if ((!fixed && !same_is_same(kernel, weight)) || !conv_pays(kernel, weight, pads)) return false;
    for (uint32_t i = 0; i < p->spatial; i++) shape[i] = (int64_t)weight->dims[i + 2];
    add(&list, "kernel_shape", shape, p->spatial, ORT_ATTRIBUTE_INTS);
    add(&list, "strides", p->strides, p->spatial, ORT_ATTRIBUTE_INTS);
    add(&list, "dilations", p->dilations, p->spatial, ORT_ATTRIBUTE_INTS);
    add(&list, "group", &group, 1, ORT_ATTRIBUTE_INT);
    if (p->transposed) add(&list, "output_padding", p->output_padding, p->spatial, ORT_ATTRIBUTE_INTS);
    if (fixed) {
        add(&list, "pads", pads, 2 * p->spatial, ORT_ATTRIBUTE_INTS);
    } else {
        const char *text = p->auto_pad == EIE_PAD_SAME_UPPER ? "SAME_UPPER" : "SAME_LOWER";
        add(&list, "auto_pad", text, strlen(text), ORT_ATTRIBUTE_STRING);
    }
    eie_weight empty = *weight; /* the layer made of zeros holds next to nothing, and checks and measures as any does */
    uint8_t *zeros = calloc(elements_of(weight), 1);
    empty.codes = zeros;
    const bool made = make_op(kernel, info, kernel->op->name, 11, &list) && zeros != NULL && make_weight(kernel, weight) &&
                      eie_conv_create(&empty, p, EIE_F32, &kernel->layer) == EIE_OK;
    free(zeros);
    if (!made) eie_dense_free(kernel);
    return made;
}

/* ---- running --------------------------------------------------------------------------------------------------- */
static OrtStatus *view(const eie_kernel *kernel, const void *data, const int64_t *dims, size_t rank, OrtValue **value) {
    size_t elements = 1;
    for (size_t i = 0; i < rank; i++) elements *= (size_t)dims[i];
    return kernel->api->CreateTensorWithDataAsOrtValue(kernel->dense.memory, (void *)data, elements * sizeof(float), dims, rank, ORT_FLOAT,
                                                       value);
}

OrtStatus *eie_dense_run(const eie_kernel *kernel, const OrtKernelContext *context, const void *x, const int64_t *x_dims,
                         const float *bias, int64_t channels, void *y, const int64_t *y_dims, size_t rank) {
    const OrtApi *api = kernel->api;
    OrtValue *inputs[3] = {NULL, kernel->dense.weight, NULL}, *output = NULL;
    OrtStatus *status = view(kernel, x, x_dims, rank, &inputs[0]);
    if (status == NULL) status = view(kernel, y, y_dims, rank, &output);
    if (status == NULL && bias != NULL) status = view(kernel, bias, &channels, 1, &inputs[2]);
    if (status == NULL) {
        status = api->InvokeOp(context, kernel->dense.op, (const OrtValue *const *)inputs, bias != NULL ? 3 : 2, &output, 1);
    }
    if (inputs[0] != NULL) api->ReleaseValue(inputs[0]);
    if (inputs[2] != NULL) api->ReleaseValue(inputs[2]);
    if (output != NULL) api->ReleaseValue(output);
    if (status == NULL) return NULL;
    OrtStatus *named = eie_fail(kernel, ORT_FAIL, "could not run dense: %s", api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    return named;
}
