/* RegisterCustomOps: the one function of this library that anybody calls. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ort/op.h"

#define EIE_OPS 7
#define EIE_FORMATS 4  /* as the nodes say, and each activation format in its place */
#define EIE_VARIANTS (2 * EIE_FORMATS) /* each with and without layers that run dense */

/* Before, ONNX Runtime dereferences a null pointer when a node with an inference function leaves an input out by an empty
 * name. Without the function the outputs' shapes are unknown until they are computed, unless the model states them. */
#define EIE_FIRST_MINOR_WITH_SAFE_INFERENCE 24

/* The option of a session that stands in the place of the nodes' `activations`. */
#define EIE_OPTION "ai.eie.activations"
/* The option of a session that says whether layers may run dense: "auto", where that is expected to be faster, or "never". */
#define EIE_DENSE_OPTION "ai.eie.dense"

static OrtCustomOpDomain *domains[EIE_VARIANTS]; /* live as long as the process: sessions keep pointers to them */
static eie_op ops[EIE_VARIANTS][EIE_OPS];
static eie_lock registering = EIE_LOCK_INITIAL;

static const char *ORT_CALL get_name(const OrtCustomOp *op) { return ((const eie_op *)op)->name; }

static const char *ORT_CALL get_provider(const OrtCustomOp *op) {
    (void)op;
    return NULL;
}

static OrtElementType ORT_CALL get_input_type(const OrtCustomOp *op, size_t index) {
    return ((const eie_op *)op)->input_types[index];
}

static size_t ORT_CALL get_input_count(const OrtCustomOp *op) { return ((const eie_op *)op)->inputs; }

static OrtElementType ORT_CALL get_output_type(const OrtCustomOp *op, size_t index) {
    (void)index;
    return ((const eie_op *)op)->output_type;
}

static size_t ORT_CALL get_output_count(const OrtCustomOp *op) { return ((const eie_op *)op)->outputs; }

static OrtCharacteristic ORT_CALL get_input_characteristic(const OrtCustomOp *op, size_t index) {
    return index < ((const eie_op *)op)->required ? ORT_REQUIRED : ORT_OPTIONAL;
}

/* Any output may be left out of LSTM and GRU. */
static OrtCharacteristic ORT_CALL get_output_characteristic(const OrtCustomOp *op, size_t index) {
    (void)index;
    return ((const eie_op *)op)->outputs > 1 ? ORT_OPTIONAL : ORT_REQUIRED;
}

static int ORT_CALL get_zero_at(const OrtCustomOp *op, size_t index) {
    (void)op;
    (void)index;
    return 0;
}

static int ORT_CALL get_zero(const OrtCustomOp *op) {
    (void)op;
    return 0;
}

static bool safe_inference(const OrtApiBase *base) {
    unsigned major = 0, minor = 0;
    return sscanf(base->GetVersionString(), "%u.%u", &major, &minor) == 2 &&
           (major > 1 || minor >= EIE_FIRST_MINOR_WITH_SAFE_INFERENCE);
}

static void fill(eie_op *op, const eie_op *from, const OrtApiBase *base, size_t variant) {
    *op = *from;
    op->api = base->GetApi(ORT_API_VERSION);
    const size_t format = variant % EIE_FORMATS;
    op->overridden = format > 0;
    op->override = format > 0 ? (eie_format)(format - 1) : EIE_F32;
    op->packed = variant >= EIE_FORMATS;
    if (op->inputs > op->required && !safe_inference(base)) op->ort.InferOutputShapeFn = NULL;
    OrtCustomOp *ort = &op->ort;
    ort->version = ORT_API_VERSION;
    ort->GetName = get_name;
    ort->GetExecutionProviderType = get_provider;
    ort->GetInputType = get_input_type;
    ort->GetInputTypeCount = get_input_count;
    ort->GetOutputType = get_output_type;
    ort->GetOutputTypeCount = get_output_count;
    ort->GetInputCharacteristic = get_input_characteristic;
    ort->GetOutputCharacteristic = get_output_characteristic;
    ort->GetInputMemoryType = get_zero_at;
    ort->GetVariadicInputMinArity = ort->GetVariadicInputHomogeneity = get_zero;
    ort->GetVariadicOutputMinArity = ort->GetVariadicOutputHomogeneity = get_zero;
    ort->CreateKernelV2 = eie_kernel_create;
    ort->KernelComputeV2 = eie_kernel_compute;
    ort->KernelDestroy = eie_kernel_destroy;
}

static void fill_all(eie_op *made, const OrtApiBase *base, size_t variant) {
    const eie_op *all[EIE_OPS] = {&eie_op_gemm, &eie_op_conv,   &eie_op_conv_transpose, &eie_op_lstm,
                                  &eie_op_gru,  &eie_op_gather, &eie_op_decode};
    for (size_t i = 0; i < EIE_OPS; i++) fill(&made[i], all[i], base, variant);
}

static OrtStatus *make_domain(const OrtApi *api, const OrtApiBase *base, size_t variant, OrtCustomOpDomain **domain) {
    if (domains[variant] == NULL) {
        OrtCustomOpDomain *made = NULL;
        fill_all(ops[variant], base, variant);
        OrtStatus *status = api->CreateCustomOpDomain("ai.eie", &made);
        for (size_t i = 0; i < EIE_OPS && status == NULL; i++) status = api->CustomOpDomain_Add(made, &ops[variant][i].ort);
        if (status != NULL) return status;
        domains[variant] = made;
    }
    *domain = domains[variant];
    return NULL;
}

/* The place of an option's value among `names`; the first stands for none given. `wrong` is the error for any other. */
static OrtStatus *read_option(const OrtApi *api, const OrtSessionOptions *options, const char *option, const char *const *names,
                              size_t count, const char *wrong, size_t *place) {
    char text[16] = "";
    size_t size = sizeof text;
    int given = 0;
    *place = 0;
    OrtStatus *status = api->HasSessionConfigEntry(options, option, &given);
    if (status != NULL || !given) return status;
    if ((status = api->GetSessionConfigEntry(options, option, text, &size)) != NULL) {
        api->ReleaseStatus(status); /* longer than any of the names */
        strcpy(text, "?");
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, names[i]) == 0) {
            *place = i;
            return NULL;
        }
    }
    return api->CreateStatus(ORT_INVALID_ARGUMENT, wrong);
}

static OrtStatus *read_variant(const OrtApi *api, const OrtSessionOptions *options, size_t *variant) {
    static const char *const formats[EIE_FORMATS] = {"", "f32", "i16", "u8"}; /* after the first in the order of eie_format */
    static const char *const dense[] = {"auto", "never"};
    size_t format = 0, packed = 0;
    OrtStatus *status = read_option(api, options, EIE_OPTION, formats, EIE_FORMATS, EIE_OPTION " must be f32, i16 or u8", &format);
    if (status == NULL) status = read_option(api, options, EIE_DENSE_OPTION, dense, 2, EIE_DENSE_OPTION " must be auto or never", &packed);
    *variant = format + packed * EIE_FORMATS;
    return status;
}

ORT_EXPORT OrtStatus *ORT_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_API_VERSION);
    if (api == NULL) {
        char text[128];
        snprintf(text, sizeof text, "ai.eie needs ONNX Runtime 1.17 or newer, this is %s", base->GetVersionString());
        return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED, text);
    }
    size_t variant;
    OrtCustomOpDomain *domain = NULL;
    OrtStatus *status = read_variant(api, options, &variant);
    if (status != NULL) return status;
    eie_lock_take(&registering);
    status = make_domain(api, base, variant, &domain);
    eie_lock_give(&registering);
    return status != NULL ? status : api->AddCustomOpDomain(options, domain);
}
