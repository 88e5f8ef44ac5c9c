/* Layers that are hardly sparse: ONNX Runtime's own Gemm, Conv or ConvTranspose, made when the session is and run on the
 * weight decoded once. The packed form is not held then.
 *
 * Nothing checks the size of an output handed to an operator that is run this way, so only what has one meaning in every
 * version of ONNX Runtime is: everything else stays packed. */
#include <stdlib.h>
#include <string.h>

#include "ort/op.h"

#define EIE_MAX_ATTRIBUTES 8

static bool worked(const OrtApi *api, OrtStatus *status) {
    if (status == NULL) return true;
    api->ReleaseStatus(status);
    return false;
}

uint64_t eie_nonzeros(const eie_weight *weight) {
    uint64_t elements = 1, count = 0;
    for (uint32_t i = 0; i < weight->rank; i++) elements *= weight->dims[i]; /* the payload's reader checked the product */
    for (uint64_t i = 0; i < elements; i++) count += weight->codes[i] != 0;
    return count;
}

/* ---- making ---------------------------------------------------------------------------------------------------- */
typedef struct {
    const OrtApi *api;
    OrtOpAttr *items[EIE_MAX_ATTRIBUTES];
    int count;
    bool failed;
} attribute_list;

static void add_ints(attribute_list *list, const char *name, const int64_t *values, size_t count, OrtOpAttrType type) {
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

/* The weight as the operator reads it; a matrix may be transposed. */
static bool make_weight(eie_kernel *kernel, const eie_weight *weight, bool transpose) {
    const OrtApi *api = kernel->api;
    eie_dense *dense = &kernel->dense;
    int64_t dims[8];
    size_t elements = 1;
    for (uint32_t i = 0; i < weight->rank; i++) {
        dims[i] = (int64_t)weight->dims[transpose ? weight->rank - 1 - i : i];
        elements *= (size_t)weight->dims[i];
    }
    if (elements > SIZE_MAX / sizeof(float)) return false;
    dense->values = malloc(elements * sizeof(float) + 1);
    if (dense->values == NULL) return false;
    if (transpose) {
        const size_t rows = (size_t)weight->dims[0], columns = (size_t)weight->dims[1];
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < columns; j++) dense->values[j * rows + i] = weight->codebook[weight->codes[i * columns + j]];
        }
    } else {
        for (size_t i = 0; i < elements; i++) dense->values[i] = weight->codebook[weight->codes[i]];
    }
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
    attribute_list list = {.api = kernel->api};
    const int64_t trans = getenv("TB") != NULL;
    add_ints(&list, "transB", &trans, 1, ORT_ATTRIBUTE_INT);
    if (!kernel->op->packed && make_op(kernel, info, "Gemm", 13, &list) && make_weight(kernel, weight, !trans)) return true;
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
        const int64_t total = ((int64_t)weight->dims[i + 2] - 1) * p->dilations[i], small = total / 2;
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

bool eie_dense_conv(eie_kernel *kernel, const OrtKernelInfo *info, const eie_weight *weight) {
    const eie_conv_params *p = &kernel->attributes.conv.params;
    attribute_list list = {.api = kernel->api};
    int64_t pads[6], shape[3];
    const int64_t group = (int64_t)p->group;
    const bool fixed = fixed_pads(kernel, weight, pads);
    if (kernel->op->packed || (!fixed && !same_is_same(kernel, weight))) return false;
    for (uint32_t i = 0; i < p->spatial; i++) shape[i] = (int64_t)weight->dims[i + 2];
    add_ints(&list, "kernel_shape", shape, p->spatial, ORT_ATTRIBUTE_INTS);
    add_ints(&list, "strides", p->strides, p->spatial, ORT_ATTRIBUTE_INTS);
    add_ints(&list, "dilations", p->dilations, p->spatial, ORT_ATTRIBUTE_INTS);
    add_ints(&list, "group", &group, 1, ORT_ATTRIBUTE_INT);
    if (p->transposed) add_ints(&list, "output_padding", p->output_padding, p->spatial, ORT_ATTRIBUTE_INTS);
    if (fixed) add_ints(&list, "pads", pads, 2 * p->spatial, ORT_ATTRIBUTE_INTS);
    if (!fixed) {
        const char *text = p->auto_pad == EIE_PAD_SAME_UPPER ? "SAME_UPPER" : "SAME_LOWER";
        add_ints(&list, "auto_pad", (const int64_t *)text, strlen(text), ORT_ATTRIBUTE_STRING);
    }
    uint64_t elements = 1;
    for (uint32_t i = 0; i < weight->rank; i++) elements *= weight->dims[i];
    eie_weight empty = *weight; /* of zeros: the layer made of it holds nothing, and checks and measures as ours do */
    uint8_t *zeros = calloc((size_t)elements + 1, 1);
    empty.codes = zeros;
    const bool made = zeros != NULL && make_op(kernel, info, kernel->op->name, 11, &list) && make_weight(kernel, weight, false) &&
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
    return status;
}
