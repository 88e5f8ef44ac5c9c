/* Packed or dense? An estimate for this machine's instruction set, made when a layer is loaded. The rates were fitted to
 * `eie bench layers`, one core, batch 1, the dense ones being ONNX Runtime's float32 operators (for avx2, neon and scalar: on a
 * machine that has no more). They differ between machines, but their quotient, which is all that counts here, much less. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "ops/layer.h"

typedef struct {
    const char *isa;
    double packed_gemm; /* entries, padding included, a nanosecond */
    double dense_gemm;  /* weights a nanosecond */
    double packed_conv; /* products a nanosecond */
    double dense_conv;
    double packed_batch; /* products with weights that are not zero a nanosecond, in batches of 16 and 64 */
    double dense_batch;  /* products, likewise */
    double visits;      /* vectors of activations a row passes a nanosecond: its sums go from and to memory for each chunk of them */
} eie_rates;

static const eie_rates RATES[] = {
    {"avx512", 13.0, 6.5, 68.0, 95.0, 35.0, 100.0, 10700.0},
    {"avx2", 5.5, 5.0, 33.0, 43.0, 15.0, 33.0, 3000.0},
    {"neon", 2.0, 4.0, 10.0, 16.0, 5.0, 16.0, 4000.0},
    {"scalar", 4.0, 5.0, 8.0, 45.0, 3.0, 33.0, 4000.0},
};

/* How much faster a dense matrix that stays in the second-level cache is: its time is that of reading it. */
static const double IN_CACHE = 3;

/* Bytes a nanosecond that packed entries are read at from behind the second-level cache. */
static const double FAR_BYTES = 28;

/* How much faster a packed matrix must be expected to be, at batch 1 and in batches: how large they are is not known when a layer is
 * loaded, and estimates miss by as much. */
static const double WORTH = 1.2;

/* Reading an input and writing an output of a convolution, nanoseconds. */
static const double PACKED_TOUCH = 0.3, DENSE_TOUCH = 0.3;

static const eie_rates *rates_of(const char *isa) {
    size_t i = 0;
    while (i + 1 < sizeof RATES / sizeof RATES[0] && strcmp(RATES[i].isa, isa) != 0) i++;
    return &RATES[i];
}

/* How many times more entries there are because a step may hold too few of a row: fitted to random matrices. */
static double padding(double density, const eie_kernel *k) {
    const double within = density * (double)k->window * (double)k->sets; /* entries of a lane in a window */
    return within > 0 ? 1 + 0.55 * (double)k->per / within : 1;
}

static void decide(double kept, double sparse, double dense, bool packed, const eie_kernel *kernel, eie_format format, eie_verdict *v) {
    static const char *names[] = {"f32", "i16", "u8"};
    v->dense = format == EIE_F32 && !packed;
    v->packed_ns = sparse;
    v->dense_ns = dense;
    v->speedup = format != EIE_F32 || sparse <= 0 ? 0 : (float)(v->dense ? sparse / dense : dense / sparse);
    snprintf(v->kernel, sizeof v->kernel, "%s", v->dense ? "dense" : kernel->name);
    if (format != EIE_F32) {
        snprintf(v->why, sizeof v->why, "%s is computed from the packed form", names[format]);
    } else if (v->dense && sparse < dense) {
        snprintf(v->why, sizeof v->why, "%.0f %% kept: packed would be only %.1f times faster, and not in batches", 100 * kept, dense / sparse);
    } else if (v->dense) {
        snprintf(v->why, sizeof v->why, "%.0f %% kept: dense is expected to be %.1f times faster", 100 * kept, sparse / dense);
    } else {
        snprintf(v->why, sizeof v->why, "%.0f %% kept: expected to be %.1f times faster than dense", 100 * kept, sparse > 0 ? dense / sparse : 1.0);
    }
}

void eie_gemm_choose(uint64_t out, uint64_t in, uint64_t nonzeros, uint32_t codebook_size, eie_format format, eie_verdict *verdict) {
    static const eie_kernel_kind kinds[] = {EIE_GEMM_F32, EIE_GEMM_I16, EIE_GEMM_U8};
    const eie_kernel *k = eie_kernel_find(kinds[(int)format >= 0 && format <= EIE_U8 ? format : EIE_F32], codebook_size);
    const eie_rates *r = rates_of(k->isa);
    const double all = (double)out * (double)in, kept = all > 0 ? (double)nonzeros / all : 0;
    const double in_cache = all * sizeof(float) < 1 << 20 ? IN_CACHE : 1;
    const double entries = (double)nonzeros * padding(kept, k), bytes = entries * (k->form == EIE_VALUE || k->form == EIE_PLANE ? 5.1 : 1.4);
    double packed = entries / r->packed_gemm;
    if (bytes > 1.7e6 && packed < bytes / FAR_BYTES) packed = bytes / FAR_BYTES;
    const double dense = all / (r->dense_gemm * in_cache);
    const bool batches = (double)nonzeros / r->packed_batch * WORTH <= all / r->dense_batch;
    decide(kept, packed, dense, batches && packed * WORTH <= dense, k, format, verdict);
}

void eie_conv_choose(const eie_weight *weight, const eie_conv_params *params, uint64_t nonzeros, eie_format format, eie_verdict *verdict) {
    static const eie_kernel_kind kinds[] = {EIE_CONV_F32, EIE_CONV_I16, EIE_CONV_U8};
    const eie_kernel *k = eie_kernel_find(kinds[(int)format >= 0 && format <= EIE_U8 ? format : EIE_F32], weight->codebook_size);
    const eie_rates *r = rates_of(k->isa);
    double all = 1, touched = 1; /* inputs that go into an output position, and the outputs of it */
    for (uint32_t i = 0; i < weight->rank; i++) all *= (double)weight->dims[i];
    for (uint32_t i = 0; i < params->spatial && i < 3; i++) touched *= (double)params->strides[i];
    if (params->transposed) {
        touched = (double)weight->dims[0] / touched + (double)(weight->dims[1] * params->group);
    } else {
        touched = (double)(weight->dims[1] * params->group) * touched + (double)weight->dims[0];
    }
    /* vectors of a channel: its lines with those that taps reach besides, once for each column of taps */
    double vectors = (double)k->window;
    for (uint32_t i = 2; i < weight->rank; i++) {
        const double reach = (double)(weight->dims[i] - 1) * (double)params->dilations[i - 2];
        if (i + 2 == weight->rank && reach < 4 * vectors) vectors += reach; /* lines are shared by the taps of a column */
        else vectors *= (double)weight->dims[i];
    }
    const double passed = (double)weight->dims[0] * (double)weight->dims[1] * vectors / r->visits;
    const double packed = (double)nonzeros / r->packed_conv + passed + touched * PACKED_TOUCH, dense = all / r->dense_conv + touched * DENSE_TOUCH;
    decide(all > 0 ? (double)nonzeros / all : 0, packed, dense, packed <= dense, k, format, verdict);
}
