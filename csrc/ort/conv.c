/* ai.eie.Conv and ai.eie.ConvTranspose: ONNX's, with 1 to 3 spatial dimensions. */
#include <string.h>

#include "ort/op.h"

/* Reads up to `most` values of at least `least`; *count says how many, 0 where there are none. */
static OrtStatus *values(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, int64_t least, size_t most,
                         int64_t *out, size_t *count) {
    bool present;
    OrtStatus *status = eie_attribute_ints(kernel, info, name, out, most, count, &present);
    for (size_t i = 0; status == NULL && i < *count; i++) {
        if (out[i] < least || out[i] > INT32_MAX) {
            status = eie_fail(kernel, ORT_INVALID_GRAPH, "%s has the value %lld instead of at least %lld", name, (long long)out[i],
                              (long long)least);
        }
    }
    return status;
}

static OrtStatus *attributes(eie_kernel *kernel, const OrtKernelInfo *info) {
    static const char *const pads[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"}; /* in the order of eie_auto_pad */
    eie_conv_attributes *a = &kernel->attributes.conv;
    eie_conv_params *p = &a->params;
    int64_t group = 1;
    p->transposed = strcmp(kernel->op->name, "ConvTranspose") == 0;
    for (size_t i = 0; i < 3; i++) p->strides[i] = p->dilations[i] = 1;
    OrtStatus *status = eie_attribute_choice(kernel, info, "auto_pad", pads, 4, &p->auto_pad);
    if (status == NULL) status = eie_attribute_int(kernel, info, "group", &group);
    if (status == NULL && group < 1) status = eie_fail(kernel, ORT_INVALID_GRAPH, "group is %lld", (long long)group);
    if (status == NULL) status = values(kernel, info, "kernel_shape", 1, 3, a->kernel, &a->kernel_rank);
    if (status == NULL) status = values(kernel, info, "strides", 1, 3, p->strides, &a->strides);
    if (status == NULL) status = values(kernel, info, "dilations", 1, 3, p->dilations, &a->dilations);
    if (status == NULL) status = values(kernel, info, "pads", 0, 6, p->pads, &a->pads);
    if (status == NULL && p->transposed) status = values(kernel, info, "output_padding", 0, 3, p->output_padding, &a->padding);
    if (status == NULL && p->transposed) status = values(kernel, info, "output_shape", 0, 3, p->output_shape, &a->output_shape);
    p->group = (uint64_t)group;
    return status;
}

static OrtStatus *check_count(const eie_kernel *kernel, const char *name, size_t count, size_t needed) {
    if (count == 0 || count == needed) return NULL;
    return eie_fail(kernel, ORT_INVALID_GRAPH, "%s has %zu values instead of %zu", name, count, needed);
}

static OrtStatus *pack(eie_kernel *kernel, const eie_weight *weights, const OrtKernelInfo *info) {
    eie_conv_attributes *a = &kernel->attributes.conv;
    if (weights->rank < 3 || weights->rank > 5) {
        return eie_fail(kernel, ORT_INVALID_GRAPH, "its weight has %u dimensions, which is no kernel of 1 to 3 spatial ones",
                        weights->rank);
    }
    size_t spatial = a->params.spatial = weights->rank - 2;
    OrtStatus *status = check_count(kernel, "kernel_shape", a->kernel_rank, spatial);
    if (status == NULL) status = check_count(kernel, "strides", a->strides, spatial);
    if (status == NULL) status = check_count(kernel, "dilations", a->dilations, spatial);
    if (status == NULL) status = check_count(kernel, "pads", a->pads, 2 * spatial);
    if (status == NULL) status = check_count(kernel, "output_padding", a->padding, spatial);
    if (status == NULL) status = check_count(kernel, "output_shape", a->output_shape, spatial);
    for (size_t i = 0; i < a->kernel_rank && status == NULL; i++) {
        if ((uint64_t)a->kernel[i] != weights->dims[i + 2]) {
            char text[160];
            status = eie_fail(kernel, ORT_INVALID_GRAPH, "kernel_shape is %s, and its weight has another",
                              eie_dims_text(a->kernel, a->kernel_rank, text));
        }
    }
    if (status == NULL && weights->dims[0] % a->params.group != 0) {
        status = eie_fail(kernel, ORT_INVALID_GRAPH, "its %llu channels can't be split into %llu groups",
                          (unsigned long long)weights->dims[0], (unsigned long long)a->params.group);
    }
    if (status != NULL) return status;
    if (eie_dense_conv(kernel, info, weights)) return NULL;
    eie_status packed = eie_conv_create(weights, &a->params, kernel->format, &kernel->layer);
    return packed == EIE_OK ? NULL : eie_fail_status(kernel, "its weight can't be used", packed);
}

static OrtStatus *check(const eie_kernel *kernel, const eie_tensor *x) {
    const eie_conv_params *p = &kernel->attributes.conv.params;
    if (!x->known) return NULL;
    char text[160];
    eie_dims_text(x->dims, x->rank, text);
    if (x->rank != p->spatial + 2u) {
        return eie_fail(kernel, ORT_INVALID_ARGUMENT, "X has the shape %s instead of %u dimensions", text, p->spatial + 2u);
    }
    uint64_t channels = p->transposed ? kernel->dims[0] : kernel->dims[1] * p->group;
    if (x->dims[1] < 0 || (uint64_t)x->dims[1] == channels) return NULL;
    return eie_fail(kernel, ORT_INVALID_ARGUMENT, "X has the shape %s, and its weight takes %llu channels", text,
                    (unsigned long long)channels);
}

static OrtStatus *run(const eie_kernel *kernel, OrtKernelContext *context) {
    eie_tensor x;
    OrtStatus *status = eie_input(kernel, context, 0, "X", ORT_FLOAT, &x, NULL);
    if (status == NULL) status = check(kernel, &x);
    if (status != NULL) return status;
    int64_t dims[5] = {x.dims[0]};
    eie_status fits = eie_conv_output_dims(kernel->layer, x.dims + 1, dims + 1);
    if (fits != EIE_OK) {
        char text[160];
        return eie_fail(kernel, ORT_INVALID_ARGUMENT, "X has the shape %s: %s", eie_dims_text(x.dims, x.rank, text),
                        eie_status_message(fits));
    }
    const float *bias;
    status = eie_optional_floats(kernel, context, 2, "bias", dims + 1, 1, &bias);
    if (status != NULL) return status;
    void *y;
    bool empty;
    status = eie_output(kernel, context, 0, dims, x.rank, &y, &empty);
    if (status != NULL || empty || y == NULL) return status;
    if (kernel->dense.op != NULL) {
        return eie_dense_run(kernel, context, x.data, x.dims, bias, dims[1], y, dims, x.rank);
    }
    eie_pool pool;
    eie_parallel threads = eie_ort_threads(&pool, kernel, context);
    eie_status ran = eie_conv_run(kernel->layer, x.data, (uint64_t)x.dims[0], x.dims + 1, bias, y, &threads);
    return eie_finish(kernel, ran, &pool);
}

#define CONVOLUTION                                                                                   \
    .inputs = 3, .outputs = 1, .required = 2, .payload = 1, .payloads = 1, .computes = true,          \
    .input_types = {ORT_FLOAT, ORT_UINT8, ORT_FLOAT}, .output_type = ORT_FLOAT,                       \
    .ort.InferOutputShapeFn = eie_infer_conv, .attributes = attributes, .pack = pack, .check = check, \
    .run = run

const eie_op eie_op_conv = {.name = "Conv", CONVOLUTION};
const eie_op eie_op_conv_transpose = {.name = "ConvTranspose", CONVOLUTION};
