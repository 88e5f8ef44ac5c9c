/* What these custom operators use of ONNX Runtime's C API, declared here so that nothing of ONNX Runtime is needed to
 * build them.
 *
 * OrtApi is a table of functions that only ever grows: a slot keeps its number for ever. Members we do not use are gaps,
 * named after their first slot; the assertions below hold the count. API version 17 (ONNX Runtime 1.17) is the oldest
 * that has everything here.
 */
#ifndef EIE_ORT_API_H
#define EIE_ORT_API_H
#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32
#define ORT_CALL __stdcall
#define ORT_EXPORT __declspec(dllexport)
#else
#define ORT_CALL
#define ORT_EXPORT __attribute__((visibility("default")))
#endif

#define ORT_API_VERSION 17

typedef struct OrtStatus OrtStatus; /* NULL: no error */
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtTensorInfo OrtTensorInfo; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtOpAttr OrtOpAttr;
typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtOp OrtOp;
typedef struct OrtMemoryInfo OrtMemoryInfo;

typedef enum {
    ORT_FAIL = 1,
    ORT_INVALID_ARGUMENT = 2,
    ORT_NOT_IMPLEMENTED = 9,
    ORT_INVALID_GRAPH = 10,
} OrtErrorCode;

typedef enum {
    ORT_UNDEFINED = 0, /* as an input's type: any */
    ORT_FLOAT = 1,
    ORT_UINT8 = 2,
    ORT_INT32 = 6,
    ORT_INT64 = 7,
} OrtElementType;

typedef enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 } OrtCharacteristic;

typedef enum { ORT_ATTRIBUTE_INT = 1, ORT_ATTRIBUTE_INTS = 2, ORT_ATTRIBUTE_FLOAT = 3, ORT_ATTRIBUTE_STRING = 5 } OrtOpAttrType;

typedef struct OrtApi {
    OrtStatus *(ORT_CALL *CreateStatus)(OrtErrorCode code, const char *message); /* 0 */
    void *gap_1[1];
    const char *(ORT_CALL *GetErrorMessage)(const OrtStatus *status); /* 2 */
    void *gap_3[23];
    OrtStatus *(ORT_CALL *CreateCustomOpDomain)(const char *domain, OrtCustomOpDomain **out); /* 26 */
    OrtStatus *(ORT_CALL *CustomOpDomain_Add)(OrtCustomOpDomain *domain, const OrtCustomOp *op);
    OrtStatus *(ORT_CALL *AddCustomOpDomain)(OrtSessionOptions *options, OrtCustomOpDomain *domain);
    void *gap_29[20];
    OrtStatus *(ORT_CALL *CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *info, void *data, size_t bytes, const int64_t *dims,
                                                          size_t rank, OrtElementType type, OrtValue **out); /* 49 */
    void *gap_50[1];
    OrtStatus *(ORT_CALL *GetTensorMutableData)(OrtValue *value, void **out); /* 51 */
    void *gap_52[3];
    OrtStatus *(ORT_CALL *CastTypeInfoToTensorInfo)(const OrtTypeInfo *info, const OrtTensorInfo **out); /* 55 */
    void *gap_56[1];
    OrtStatus *(ORT_CALL *CreateTensorTypeAndShapeInfo)(OrtTensorInfo **out); /* 57 */
    OrtStatus *(ORT_CALL *SetTensorElementType)(OrtTensorInfo *info, OrtElementType type);
    OrtStatus *(ORT_CALL *SetDimensions)(OrtTensorInfo *info, const int64_t *dims, size_t count);
    OrtStatus *(ORT_CALL *GetTensorElementType)(const OrtTensorInfo *info, OrtElementType *out);
    OrtStatus *(ORT_CALL *GetDimensionsCount)(const OrtTensorInfo *info, size_t *out);
    OrtStatus *(ORT_CALL *GetDimensions)(const OrtTensorInfo *info, int64_t *dims, size_t count);
    OrtStatus *(ORT_CALL *GetSymbolicDimensions)(const OrtTensorInfo *info, const char **names, size_t count);
    void *gap_64[1];
    OrtStatus *(ORT_CALL *GetTensorTypeAndShape)(const OrtValue *value, OrtTensorInfo **out); /* 65 */
    void *gap_66[3];
    OrtStatus *(ORT_CALL *CreateCpuMemoryInfo)(int allocator, int memory, OrtMemoryInfo **out); /* 69 */
    void *gap_70[15];
    OrtStatus *(ORT_CALL *KernelInfoGetAttribute_float)(const OrtKernelInfo *info, const char *name, float *out); /* 85 */
    OrtStatus *(ORT_CALL *KernelInfoGetAttribute_int64)(const OrtKernelInfo *info, const char *name, int64_t *out);
    OrtStatus *(ORT_CALL *KernelInfoGetAttribute_string)(const OrtKernelInfo *info, const char *name, char *out, size_t *size);
    OrtStatus *(ORT_CALL *KernelContext_GetInputCount)(const OrtKernelContext *context, size_t *out);
    OrtStatus *(ORT_CALL *KernelContext_GetOutputCount)(const OrtKernelContext *context, size_t *out);
    OrtStatus *(ORT_CALL *KernelContext_GetInput)(const OrtKernelContext *context, size_t index, const OrtValue **out);
    OrtStatus *(ORT_CALL *KernelContext_GetOutput)(OrtKernelContext *context, size_t index, const int64_t *dims, size_t rank,
                                                   OrtValue **out);
    void *gap_92[1];
    void(ORT_CALL *ReleaseStatus)(OrtStatus *status); /* 93 */
    void(ORT_CALL *ReleaseMemoryInfo)(OrtMemoryInfo *info);
    void *gap_95[1];
    void(ORT_CALL *ReleaseValue)(OrtValue *value); /* 96 */
    void *gap_97[1];
    void(ORT_CALL *ReleaseTypeInfo)(OrtTypeInfo *info); /* 98 */
    void(ORT_CALL *ReleaseTensorTypeAndShapeInfo)(OrtTensorInfo *info);
    void *gap_100[62];
    OrtStatus *(ORT_CALL *KernelInfoGetAttributeArray_float)(const OrtKernelInfo *info, const char *name, float *out,
                                                             size_t *count); /* 162 */
    OrtStatus *(ORT_CALL *KernelInfoGetAttributeArray_int64)(const OrtKernelInfo *info, const char *name, int64_t *out,
                                                             size_t *count);
    void *gap_164[47];
    OrtStatus *(ORT_CALL *CreateOpAttr)(const char *name, const void *data, int count, OrtOpAttrType type, OrtOpAttr **out); /* 211 */
    void(ORT_CALL *ReleaseOpAttr)(OrtOpAttr *attribute);
    OrtStatus *(ORT_CALL *CreateOp)(const OrtKernelInfo *info, const char *name, const char *domain, int version,
                                    const char **constraints, const OrtElementType *types, int constraint_count,
                                    const OrtOpAttr *const *attributes, int attribute_count, int inputs, int outputs, OrtOp **out);
    OrtStatus *(ORT_CALL *InvokeOp)(const OrtKernelContext *context, const OrtOp *op, const OrtValue *const *inputs, int input_count,
                                    OrtValue *const *outputs, int output_count);
    void(ORT_CALL *ReleaseOp)(OrtOp *op);
    void *gap_216[14];
    OrtStatus *(ORT_CALL *KernelInfo_GetInputCount)(const OrtKernelInfo *info, size_t *out); /* 230 */
    void *gap_231[2];
    OrtStatus *(ORT_CALL *KernelInfo_GetOutputName)(const OrtKernelInfo *info, size_t index, char *out, size_t *size); /* 233 */
    OrtStatus *(ORT_CALL *KernelInfo_GetInputTypeInfo)(const OrtKernelInfo *info, size_t index, OrtTypeInfo **out);
    void *gap_235[2];
    OrtStatus *(ORT_CALL *HasSessionConfigEntry)(const OrtSessionOptions *options, const char *key, int *out); /* 237 */
    OrtStatus *(ORT_CALL *GetSessionConfigEntry)(const OrtSessionOptions *options, const char *key, char *out, size_t *size);
    void *gap_239[5];
    OrtStatus *(ORT_CALL *KernelInfo_GetNodeName)(const OrtKernelInfo *info, char *out, size_t *size); /* 244 */
    void *gap_245[4];
    OrtStatus *(ORT_CALL *KernelInfoGetConstantInput_tensor)(const OrtKernelInfo *info, size_t index, int *is_constant,
                                                             const OrtValue **out); /* 249 */
    void *gap_250[17];
    OrtStatus *(ORT_CALL *ShapeInferContext_GetInputCount)(const OrtShapeInferContext *context, size_t *out); /* 267 */
    OrtStatus *(ORT_CALL *ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext *context, size_t index,
                                                               OrtTensorInfo **out); /* the context's own: not released */
    OrtStatus *(ORT_CALL *ShapeInferContext_GetAttribute)(const OrtShapeInferContext *context, const char *name,
                                                          const OrtOpAttr **out);
    OrtStatus *(ORT_CALL *ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext *context, size_t index,
                                                                const OrtTensorInfo *info);
    OrtStatus *(ORT_CALL *SetSymbolicDimensions)(OrtTensorInfo *info, const char **names, size_t count);
    OrtStatus *(ORT_CALL *ReadOpAttr)(const OrtOpAttr *attribute, OrtOpAttrType type, void *data, size_t size, size_t *out);
    void *gap_273[1];
    OrtStatus *(ORT_CALL *KernelContext_ParallelFor)(const OrtKernelContext *context, void (*task)(void *, size_t), size_t total,
                                                     size_t batches, void *data); /* 274 */
} OrtApi;

#define ORT_SLOT(member, slot) \
    _Static_assert(offsetof(OrtApi, member) == (slot) * sizeof(void *), #member " stands in the wrong slot")
ORT_SLOT(CreateStatus, 0);
ORT_SLOT(GetErrorMessage, 2);
ORT_SLOT(CreateCustomOpDomain, 26);
ORT_SLOT(AddCustomOpDomain, 28);
ORT_SLOT(CreateTensorWithDataAsOrtValue, 49);
ORT_SLOT(GetTensorMutableData, 51);
ORT_SLOT(CastTypeInfoToTensorInfo, 55);
ORT_SLOT(CreateTensorTypeAndShapeInfo, 57);
ORT_SLOT(GetTensorTypeAndShape, 65);
ORT_SLOT(CreateCpuMemoryInfo, 69);
ORT_SLOT(KernelInfoGetAttribute_float, 85);
ORT_SLOT(KernelContext_GetOutput, 91);
ORT_SLOT(ReleaseStatus, 93);
ORT_SLOT(ReleaseValue, 96);
ORT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
ORT_SLOT(KernelInfoGetAttributeArray_int64, 163);
ORT_SLOT(CreateOpAttr, 211);
ORT_SLOT(ReleaseOp, 215);
ORT_SLOT(KernelInfo_GetInputCount, 230);
ORT_SLOT(KernelInfo_GetOutputName, 233);
ORT_SLOT(KernelInfo_GetInputTypeInfo, 234);
ORT_SLOT(GetSessionConfigEntry, 238);
ORT_SLOT(KernelInfo_GetNodeName, 244);
ORT_SLOT(KernelInfoGetConstantInput_tensor, 249);
ORT_SLOT(ShapeInferContext_SetOutputTypeShape, 270);
ORT_SLOT(KernelContext_ParallelFor, 274);

typedef struct OrtApiBase {
    const OrtApi *(ORT_CALL *GetApi)(uint32_t version); /* NULL where it is older than asked for */
    const char *(ORT_CALL *GetVersionString)(void);
} OrtApiBase;

/* The members API version 18 added at the end are not read of an operator that says version 17. */
struct OrtCustomOp {
    uint32_t version;
    void *(ORT_CALL *CreateKernel)(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info);
    const char *(ORT_CALL *GetName)(const OrtCustomOp *op);
    const char *(ORT_CALL *GetExecutionProviderType)(const OrtCustomOp *op); /* NULL: CPU */
    OrtElementType(ORT_CALL *GetInputType)(const OrtCustomOp *op, size_t index);
    size_t(ORT_CALL *GetInputTypeCount)(const OrtCustomOp *op);
    OrtElementType(ORT_CALL *GetOutputType)(const OrtCustomOp *op, size_t index);
    size_t(ORT_CALL *GetOutputTypeCount)(const OrtCustomOp *op);
    void(ORT_CALL *KernelCompute)(void *kernel, OrtKernelContext *context);
    void(ORT_CALL *KernelDestroy)(void *kernel);
    OrtCharacteristic(ORT_CALL *GetInputCharacteristic)(const OrtCustomOp *op, size_t index);
    OrtCharacteristic(ORT_CALL *GetOutputCharacteristic)(const OrtCustomOp *op, size_t index);
    int(ORT_CALL *GetInputMemoryType)(const OrtCustomOp *op, size_t index); /* 0: wherever the provider's are */
    int(ORT_CALL *GetVariadicInputMinArity)(const OrtCustomOp *op);
    int(ORT_CALL *GetVariadicInputHomogeneity)(const OrtCustomOp *op);
    int(ORT_CALL *GetVariadicOutputMinArity)(const OrtCustomOp *op);
    int(ORT_CALL *GetVariadicOutputHomogeneity)(const OrtCustomOp *op);
    OrtStatus *(ORT_CALL *CreateKernelV2)(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
    OrtStatus *(ORT_CALL *KernelComputeV2)(void *kernel, OrtKernelContext *context);
    OrtStatus *(ORT_CALL *InferOutputShapeFn)(const OrtCustomOp *op, OrtShapeInferContext *context); /* or NULL */
    int(ORT_CALL *GetStartVersion)(const OrtCustomOp *op);
    int(ORT_CALL *GetEndVersion)(const OrtCustomOp *op);
    void *in_place[4];
};

_Static_assert(offsetof(OrtCustomOp, InferOutputShapeFn) == 19 * sizeof(void *), "OrtCustomOp has the wrong layout");
_Static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void *), "OrtCustomOp has the wrong size");

#endif
