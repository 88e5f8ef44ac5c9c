/* What is known of outputs before anything runs. The payloads are not shown here, so an output's channels come from the
 * bias, a kernel's size from the attribute; the rest gets a name of its own: ONNX Runtime takes two dimensions of one
 * name for equal when it plans memory, and one without a name for -1.
 *
 * Nothing here may fail a model that runs: where something is odd the output is left unknown, and the kernel says why. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ort/op.h"

typedef struct {
    size_t rank;
    int64_t dims[EIE_MAX_RANK];
    const char *names[EIE_MAX_RANK]; /* "" for a dimension with a value */
    char fresh[EIE_MAX_RANK][48];
} shape;

static bool worked(const OrtApi *api, OrtStatus *status) {
    if (status == NULL) return true;
    api->ReleaseStatus(status);
    return false;
}

/* A name no other dimension has, in this process or in a model an earlier one saved. */
static void set_unknown(shape *s, size_t i) {
    static eie_lock counting = EIE_LOCK_INITIAL;
    static unsigned long long counter;
    static char here;
    eie_lock_take(&counting);
    unsigned long long number = counter++;
    eie_lock_give(&counting);
    unsigned long long process = (unsigned long long)(uintptr_t)&here ^ (unsigned long long)time(NULL) * 0x9e3779b97f4a7c15ull;
    snprintf(s->fresh[i], sizeof s->fresh[i], "unk__eie_%llx_%llu", process, number);
    s->dims[i] = -1;
    s->names[i] = s->fresh[i];
}

static void set_dim(shape *s, size_t i, int64_t value) {
    s->dims[i] = value;
    s->names[i] = "";
    if (value < 0) set_unknown(s, i);
}

/* An input's shape, every dimension of it with a value or a name; false for one left out, a scalar or an unknown rank. */
static bool read_shape(const OrtApi *api, const OrtShapeInferContext *context, size_t index, shape *s) {
    size_t count = 0;
    OrtTensorInfo *info = NULL;
    if (!worked(api, api->ShapeInferContext_GetInputCount(context, &count)) || index >= count) return false;
    if (!worked(api, api->ShapeInferContext_GetInputTypeShape(context, index, &info)) || info == NULL) return false;
    if (!worked(api, api->GetDimensionsCount(info, &s->rank)) || s->rank < 1 || s->rank > EIE_MAX_RANK) return false;
    if (!worked(api, api->GetDimensions(info, s->dims, s->rank))) return false;
    if (!worked(api, api->GetSymbolicDimensions(info, s->names, s->rank))) return false;
    for (size_t i = 0; i < s->rank; i++) {
        if (s->names[i] == NULL || s->names[i][0] == 0) set_dim(s, i, s->dims[i]);
    }
    return true;
}

static void write_shape(const OrtApi *api, OrtShapeInferContext *context, size_t index, OrtElementType type, shape *s) {
    OrtTensorInfo *info = NULL;
    if (!worked(api, api->CreateTensorTypeAndShapeInfo(&info))) return;
    if (worked(api, api->SetTensorElementType(info, type)) && worked(api, api->SetDimensions(info, s->dims, s->rank)) &&
        worked(api, api->SetSymbolicDimensions(info, s->names, s->rank))) {
        worked(api, api->ShapeInferContext_SetOutputTypeShape(context, index, info));
    }
    api->ReleaseTensorTypeAndShapeInfo(info);
}

/* How many values there are; 0 where there is no such attribute, or it does not fit. */
static size_t read_ints(const OrtApi *api, const OrtShapeInferContext *context, const char *name, int64_t *values, size_t capacity,
                        bool *present) {
    const OrtOpAttr *attribute = NULL;
    size_t bytes = 0;
    *present = worked(api, api->ShapeInferContext_GetAttribute(context, name, &attribute)) && attribute != NULL;
    if (!*present) return 0;
    *present = worked(api, api->ReadOpAttr(attribute, ORT_ATTRIBUTE_INTS, values, capacity * sizeof *values, &bytes));
    return *present ? bytes / sizeof *values : 0;
}

static int64_t read_int(const OrtApi *api, const OrtShapeInferContext *context, const char *name, int64_t fallback) {
    const OrtOpAttr *attribute = NULL;
    int64_t value = fallback;
    size_t bytes = 0;
    if (!worked(api, api->ShapeInferContext_GetAttribute(context, name, &attribute)) || attribute == NULL) return fallback;
    return worked(api, api->ReadOpAttr(attribute, ORT_ATTRIBUTE_INT, &value, sizeof value, &bytes)) ? value : fallback;
}

/* The bias is as long as the output has channels; -1 where there is none, or its length is unknown. */
static int64_t channels(const OrtApi *api, const OrtShapeInferContext *context, shape *scratch) {
    return read_shape(api, context, 2, scratch) && scratch->rank == 1 && scratch->names[0][0] == 0 ? scratch->dims[0] : -1;
}

OrtStatus *ORT_CALL eie_infer_gemm(const OrtCustomOp *op, OrtShapeInferContext *context) {
    const OrtApi *api = ((const eie_op *)op)->api;
    shape y, bias;
    if (!read_shape(api, context, 0, &y)) return NULL;
    set_dim(&y, y.rank - 1, channels(api, context, &bias));
    write_shape(api, context, 0, ORT_FLOAT, &y);
    return NULL;
}

typedef struct {
    bool same;
    int64_t kernel[3], strides[3], dilations[3], pads[6];
} window;

static bool read_window(const OrtApi *api, const OrtShapeInferContext *context, size_t spatial, window *w) {
    const OrtOpAttr *attribute = NULL;
    char text[16] = "NOTSET";
    size_t bytes = 0;
    bool present;
    if (worked(api, api->ShapeInferContext_GetAttribute(context, "auto_pad", &attribute)) && attribute != NULL &&
        !worked(api, api->ReadOpAttr(attribute, ORT_ATTRIBUTE_STRING, text, sizeof text, &bytes))) {
        return false;
    }
    w->same = strncmp(text, "SAME", 4) == 0;
    size_t found = read_ints(api, context, "kernel_shape", w->kernel, 3, &present);
    size_t strides = read_ints(api, context, "strides", w->strides, 3, &present);
    size_t dilations = read_ints(api, context, "dilations", w->dilations, 3, &present);
    size_t pads = read_ints(api, context, "pads", w->pads, 6, &present);
    for (size_t i = 0; i < spatial; i++) {
        if (strides == 0) w->strides[i] = 1;
        if (dilations == 0) w->dilations[i] = 1;
        if (pads == 0 || strcmp(text, "VALID") == 0) w->pads[i] = w->pads[i + spatial] = 0;
    }
    return found == spatial && (strides == 0 || strides == spatial) && (dilations == 0 || dilations == spatial) &&
           (pads == 0 || pads == 2 * spatial);
}

/* -1 where anything is outside what a kernel would accept. */
static int64_t convolved(const window *w, size_t spatial, size_t i, int64_t in) {
    int64_t all[] = {in, w->kernel[i], w->strides[i], w->dilations[i], w->pads[i], w->pads[i + spatial]};
    for (size_t k = 0; k < 6; k++) {
        if (all[k] < (k == 1 || k == 2 || k == 3) || all[k] > INT32_MAX) return -1;
    }
    if (w->same) return (in + w->strides[i] - 1) / w->strides[i];
    if (w->dilations[i] > INT32_MAX / w->kernel[i]) return -1;
    int64_t room = in + w->pads[i] + w->pads[i + spatial] - w->dilations[i] * (w->kernel[i] - 1) - 1;
    return room < 0 ? -1 : room / w->strides[i] + 1;
}

OrtStatus *ORT_CALL eie_infer_conv(const OrtCustomOp *op, OrtShapeInferContext *context) {
    const eie_op *self = (const eie_op *)op;
    shape y, bias;
    window w;
    if (!read_shape(self->api, context, 0, &y) || y.rank < 3 || y.rank > 5) return NULL;
    size_t spatial = y.rank - 2;
    bool known = strcmp(self->name, "Conv") == 0 && read_window(self->api, context, spatial, &w);
    set_dim(&y, 1, channels(self->api, context, &bias));
    for (size_t i = 0; i < spatial; i++) {
        set_dim(&y, i + 2, known && y.names[i + 2][0] == 0 ? convolved(&w, spatial, i, y.dims[i + 2]) : -1);
    }
    write_shape(self->api, context, 0, ORT_FLOAT, &y);
    return NULL;
}

OrtStatus *ORT_CALL eie_infer_decode(const OrtCustomOp *op, OrtShapeInferContext *context) {
    const OrtApi *api = ((const eie_op *)op)->api;
    shape y;
    bool given;
    y.rank = read_ints(api, context, "shape", y.dims, EIE_MAX_RANK, &given);
    if (!given && read_int(api, context, "transpose", 0) == 1) {
        y.rank = 2;
        y.dims[0] = y.dims[1] = -1;
        given = true;
    }
    if (!given) return NULL;
    for (size_t i = 0; i < y.rank; i++) set_dim(&y, i, y.dims[i]);
    write_shape(api, context, 0, ORT_FLOAT, &y);
    return NULL;
}
