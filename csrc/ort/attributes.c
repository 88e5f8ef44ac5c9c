/* Attributes of a node. ONNX Runtime answers "there is none" and "it is of another kind" with the same status, so a
 * failed read is followed by reads as every other kind: where one of those works, the attribute is there and wrong. */
#include <string.h>

#include "ort/op.h"

static bool worked(const OrtApi *api, OrtStatus *status) {
    if (status == NULL) return true;
    api->ReleaseStatus(status);
    return false;
}

static bool scalar_exists(const OrtApi *api, const OrtKernelInfo *info, const char *name) {
    int64_t integer;
    float real;
    size_t size = 0;
    return worked(api, api->KernelInfoGetAttribute_int64(info, name, &integer)) ||
           worked(api, api->KernelInfoGetAttribute_float(info, name, &real)) ||
           worked(api, api->KernelInfoGetAttribute_string(info, name, NULL, &size));
}

static bool exists(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name) {
    const OrtApi *api = kernel->api;
    size_t size = 0;
    return scalar_exists(api, info, name) || worked(api, api->KernelInfoGetAttributeArray_int64(info, name, NULL, &size)) ||
           worked(api, api->KernelInfoGetAttributeArray_float(info, name, NULL, &size));
}

static OrtStatus *absent(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, const char *kind) {
    if (!exists(kernel, info, name)) return NULL;
    return eie_fail(kernel, ORT_INVALID_GRAPH, "attribute '%s' is not of kind %s", name, kind);
}

OrtStatus *eie_attribute_int(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, int64_t *value) {
    int64_t found;
    if (!worked(kernel->api, kernel->api->KernelInfoGetAttribute_int64(info, name, &found))) return absent(kernel, info, name, "int");
    *value = found;
    return NULL;
}

OrtStatus *eie_attribute_flag(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, bool *value) {
    int64_t found = *value;
    OrtStatus *status = eie_attribute_int(kernel, info, name, &found);
    if (status != NULL) return status;
    if (found != 0 && found != 1) {
        return eie_fail(kernel, ORT_INVALID_GRAPH, "%s is %lld instead of 0 or 1", name, (long long)found);
    }
    *value = found != 0;
    return NULL;
}

OrtStatus *eie_attribute_float(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, float *value) {
    float found;
    if (!worked(kernel->api, kernel->api->KernelInfoGetAttribute_float(info, name, &found))) return absent(kernel, info, name, "float");
    *value = found;
    return NULL;
}

OrtStatus *eie_attribute_choice(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name,
                                const char *const *choices, size_t count, int32_t *value) {
    const OrtApi *api = kernel->api;
    char text[64];
    size_t size = 0;
    if (!worked(api, api->KernelInfoGetAttribute_string(info, name, NULL, &size))) return absent(kernel, info, name, "string");
    if (size > sizeof text) return eie_fail(kernel, ORT_INVALID_GRAPH, "%s is a text of %zu bytes", name, size - 1);
    OrtStatus *status = api->KernelInfoGetAttribute_string(info, name, text, &size);
    if (status != NULL) return status;
    text[sizeof text - 1] = 0;
    char known[128] = "";
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *value = (int32_t)i;
            return NULL;
        }
        if (strlen(known) + strlen(choices[i]) + 3 < sizeof known) strcat(strcat(known, i == 0 ? "" : ", "), choices[i]);
    }
    return eie_fail(kernel, ORT_INVALID_GRAPH, "%s is '%s', which is none of %s", name, text, known);
}

OrtStatus *eie_attribute_ints(const eie_kernel *kernel, const OrtKernelInfo *info, const char *name, int64_t *values,
                              size_t capacity, size_t *count, bool *present) {
    const OrtApi *api = kernel->api;
    size_t size = 0;
    *count = 0;
    *present = false;
    if (!worked(api, api->KernelInfoGetAttributeArray_int64(info, name, NULL, &size))) return absent(kernel, info, name, "ints");
    if (size == 0 && scalar_exists(api, info, name)) return absent(kernel, info, name, "ints"); /* a scalar reads as no values */
    *present = true;
    if (size > capacity) return eie_fail(kernel, ORT_INVALID_GRAPH, "%s has %zu values, at most %zu fit", name, size, capacity);
    if (size > 0) {
        OrtStatus *status = api->KernelInfoGetAttributeArray_int64(info, name, values, &size);
        if (status != NULL) return status;
    }
    *count = size;
    return NULL;
}

OrtStatus *eie_attribute_format(eie_kernel *kernel, const OrtKernelInfo *info) {
    static const char *const formats[] = {"f32", "i16", "u8"}; /* in the order of eie_format */
    int32_t format = EIE_F32;
    OrtStatus *status = eie_attribute_choice(kernel, info, "activations", formats, 3, &format);
    kernel->format = kernel->op->overridden ? kernel->op->override : (eie_format)format;
    return status;
}
