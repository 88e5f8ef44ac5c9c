/* The core's own test, for sanitizers and for machines without Python: every kernel of kernels.inc that this machine runs
 * against the scalar one, the operators on random shapes and buffers of exactly the size the interface names, threads, and
 * arguments nobody should give. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "ops/layer.h"

static void require(bool condition, const char *what, const char *where) {
    if (condition) return;
    fprintf(stderr, "selftest: %s (%s)\n", what, where);
    abort();
}

static uint64_t random_state = 0x2545f4914f6cdd1du;

static uint64_t draw(uint64_t below) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

static float number(void) { return ((float)draw(2001) - 1000) / 256; }

static float *numbers(size_t count) {
    float *made = malloc(count * sizeof *made + (count == 0));
    require(made != NULL, "out of memory", "numbers");
    for (size_t i = 0; i < count; i++) made[i] = number();
    return made;
}

typedef struct {
    eie_weight weight;
    uint64_t dims[5];
    uint8_t *codes;
    float codebook[256];
    size_t elements;
} sample;

static void make_weight(sample *s, uint32_t rank, const uint64_t *dims, uint32_t codebook_size, uint64_t percent) {
    s->elements = 1;
    for (uint32_t i = 0; i < rank; i++) s->elements *= (size_t)(s->dims[i] = dims[i]);
    s->codes = malloc(s->elements + (s->elements == 0));
    require(s->codes != NULL, "out of memory", "weight");
    for (size_t i = 0; i < s->elements; i++) s->codes[i] = draw(100) < percent && codebook_size > 1 ? (uint8_t)(1 + draw(codebook_size - 1)) : 0;
    s->codebook[0] = 0;
    for (uint32_t i = 1; i < codebook_size; i++) s->codebook[i] = number();
    s->weight = (eie_weight){s->codes, s->codebook, codebook_size, rank, s->dims};
}

static bool same(const float *a, const float *b, size_t count, eie_format format) {
    for (size_t i = 0; i < count; i++) {
        if (format != EIE_F32 ? memcmp(a + i, b + i, sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]))
                              : !(fabsf(a[i] - b[i]) <= 1e-3f * (30 + fabsf(b[i])))) { /* a product is of the order of 5, and up to 70000 are added */
            return false;
        }
    }
    return true;
}

static char seen[128][64]; /* names of the kernels that ran */
static size_t seen_count;

static void note(const char *kernel) {
    for (size_t i = 0; i < seen_count; i++) {
        if (strcmp(seen[i], kernel) == 0) return;
    }
    snprintf(seen[seen_count++], sizeof seen[0], "%s", kernel);
}

static bool runs_here(const eie_kernel *kernel) {
    for (size_t a = 0; eie_isa_available(a) != NULL; a++) {
        if (strcmp(eie_isa_available(a), kernel->isa) == 0) return true;
    }
    return false;
}

/* Runs a layer on one instruction set after the other, scalar being the last, and on a pool; all must agree. */
typedef eie_status make_layer(const void *what, eie_format format, eie_layer **layer);
typedef eie_status run_layer(const eie_layer *layer, const void *what, float *y, const eie_parallel *parallel);

static void compare(make_layer *make, run_layer *run, const void *what, size_t outputs, const eie_parallel *pool, const char *name) {
    for (eie_format format = EIE_F32; format <= EIE_U8; format++) {
        float *first = NULL;
        const char *isa;
        for (size_t i = 0; (isa = eie_isa_available(i)) != NULL; i++) {
            eie_layer *layer;
            require(eie_isa_select(isa) == EIE_OK, "an available instruction set can't be chosen", isa);
            require(make(what, format, &layer) == EIE_OK, "a layer can't be made", name);
            float *y = malloc(outputs * sizeof *y + (outputs == 0));
            require(run(layer, what, y, i % 2 ? pool : NULL) == EIE_OK, "a layer can't run", name);
            note(eie_layer_kernel(layer));
            if (first != NULL) require(same(y, first, outputs, format), "instruction sets differ", eie_layer_kernel(layer));
            if (first == NULL) first = y;
            else free(y);
            eie_layer_free(layer);
        }
        free(first);
    }
    require(eie_isa_select(eie_isa_available(0)) == EIE_OK, "the best instruction set can't be chosen", name);
}

/* ---- followers ------------------------------------------------------------------------------------------------------- */

/* One to three followers of an output of `channels` times `inner` elements, `total` in all; operands to be freed by free_followers. */
enum { FOLLOWERS = 3 };

static uint64_t draw_followers(eie_follower *f, size_t channels, size_t total) {
    const uint64_t count = 1 + draw(FOLLOWERS);
    for (uint64_t i = 0; i < count; i++) {
        f[i] = (eie_follower){.kind = (int32_t)draw(5), .low = number(), .high = number()};
        if (f[i].kind <= EIE_FOLLOW_ADD_CHANNEL) f[i].operand = numbers(f[i].kind == EIE_FOLLOW_ADD ? total : channels);
    }
    return count;
}

static void free_followers(eie_follower *f, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) free((void *)(uintptr_t)f[i].operand);
}

/* Followers one after the other, in the words of eie.h; a channel has `inner` elements. */
static void apply(const eie_follower *f, uint64_t count, size_t channels, size_t inner, size_t total, float *y) {
    for (uint64_t k = 0; k < count; k++) {
        for (size_t i = 0; i < total; i++) {
            if (f[k].kind == EIE_FOLLOW_ADD) y[i] += f[k].operand[i];
            else if (f[k].kind == EIE_FOLLOW_ADD_CHANNEL) y[i] += f[k].operand[i / inner % channels];
            else if (f[k].kind == EIE_FOLLOW_RELU) y[i] = y[i] < 0 ? 0 : y[i];
            else if (f[k].kind == EIE_FOLLOW_LEAKY) y[i] = y[i] < 0 ? f[k].low * y[i] : y[i];
            else if (y[i] < f[k].low) y[i] = f[k].low > f[k].high ? f[k].high : f[k].low;
            else if (y[i] > f[k].high) y[i] = f[k].high;
        }
    }
}

static void require_same_bits(const float *a, const float *b, size_t n, const char *what, const char *where) {
    for (size_t i = 0; i < n; i++) require(memcmp(a + i, b + i, sizeof *a) == 0 || (isnan(a[i]) && isnan(b[i])), what, where);
}

static float any(void);

static void test_follow_kernels(void) {
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        bool here = false;
        for (size_t a = 0; eie_isa_available(a) != NULL; a++) here |= strcmp(eie_isa_available(a), kernel->isa) == 0;
        if (kernel->kind != EIE_FOLLOWERS || !here) continue;
        for (size_t i = 0; i < 500; i++) { /* buffers of just this size, with odd numbers */
            const size_t n = i % 75;
            float *a = numbers(n), *b = numbers(n), *operand = numbers(n + 1);
            for (size_t j = 0; j < n; j++) a[j] = b[j] = any();
            const eie_follower f = {(int32_t)draw(5), number(), number(), operand};
            ((eie_follow_kernel *)kernel->run)(&f, n, a);
            apply(&f, 1, 1, n, n, b);
            require_same_bits(a, b, n, "followers differ", kernel->name);
            free(a), free(b), free(operand);
        }
        note(kernel->name);
    }
}

/* ---- Gemm ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const sample *weight;
    const float *x, *bias;
    uint64_t batch;
} gemm_case;

static eie_status make_gemm(const void *what, eie_format format, eie_layer **layer) {
    return eie_gemm_create(&((const gemm_case *)what)->weight->weight, format, NULL, layer);
}

static eie_status run_gemm(const eie_layer *layer, const void *what, float *y, const eie_parallel *parallel) {
    const gemm_case *c = what;
    const size_t out = (size_t)c->weight->dims[0], total = out * (size_t)c->batch;
    eie_follower f[FOLLOWERS];
    const uint64_t count = draw_followers(f, out, total);
    float *expected = numbers(total);
    require(eie_gemm_run(layer, c->x, c->batch, c->bias, expected, parallel) == EIE_OK, "a matrix can't run", "gemm");
    apply(f, count, out, 1, total, expected);
    const eie_status status = eie_gemm_run_followed(layer, c->x, c->batch, c->bias, f, count, y, parallel);
    require_same_bits(y, expected, total, "followers of a matrix differ", eie_layer_kernel(layer));
    free_followers(f, count);
    free(expected);
    return status == EIE_OK ? eie_gemm_run(layer, c->x, c->batch, c->bias, y, parallel) : status;
}

static void test_gemm(const eie_parallel *pool) {
    static const uint64_t sizes[] = {0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 1025};
    static const uint32_t codebooks[] = {1, 2, 3, 4, 5, 16, 17, 32, 33, 256};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    for (int i = 0; i < 400; i++) {
        sample w;
        const uint64_t dims[2] = {sizes[draw(SIZES)], i == 0 ? 70000 : sizes[draw(SIZES)]};
        make_weight(&w, 2, dims, codebooks[draw(10)], draw(4) == 0 ? 1 + draw(4) : draw(101)); /* hardly any: wide windows pay */
        gemm_case c = {&w, NULL, NULL, draw(3) ? draw(4) : draw(66)};
        float *x = numbers((size_t)(c.batch * dims[1])), *bias = draw(2) ? numbers((size_t)dims[0]) : NULL;
        if (c.batch > 0 && dims[1] > 0 && draw(10) == 0) x[draw(dims[1])] = draw(2) ? NAN : INFINITY;
        const bool finite = c.batch == 0 || dims[1] == 0 || draw(1) == 0;
        c.x = x;
        c.bias = bias;
        bool odd = false;
        for (uint64_t k = 0; k < c.batch * dims[1]; k++) odd |= !isfinite(x[k]);
        if (finite && odd) {
            for (uint64_t k = 0; k < c.batch * dims[1]; k++) x[k] = isfinite(x[k]) ? x[k] : 1000; /* f32 makes no promise there */
        }
        compare(make_gemm, run_gemm, &c, (size_t)(c.batch * dims[0]), pool, "gemm");
        free(x);
        free(bias);
        free(w.codes);
    }
}

/* A matrix large enough to be packed in parts is the same whoever packs it. */
static void test_packing(const eie_parallel *pool) {
    static const uint32_t codebooks[] = {2, 3, 16, 17, 32, 200};
    const uint64_t dims[2] = {1500, 2500};
    for (int i = 0; i < 6; i++) {
        sample w;
        make_weight(&w, 2, dims, codebooks[i], 2 + draw(20));
        float *x = numbers((size_t)dims[1]), *alone = numbers((size_t)dims[0]), *shared = numbers((size_t)dims[0]);
        for (eie_format format = EIE_F32; format <= EIE_U8; format++) {
            eie_layer *one, *many;
            require(eie_gemm_create(&w.weight, format, NULL, &one) == EIE_OK, "a matrix can't be packed", "packing");
            require(eie_gemm_create(&w.weight, format, pool, &many) == EIE_OK, "threads can't pack a matrix", "packing");
            require(eie_layer_bytes(one) == eie_layer_bytes(many), "threads pack a matrix to another size", eie_layer_kernel(one));
            require(eie_gemm_run(one, x, 1, NULL, alone, NULL) == EIE_OK && eie_gemm_run(many, x, 1, NULL, shared, NULL) == EIE_OK, "a matrix can't run", "packing");
            require_same_bits(shared, alone, (size_t)dims[0], "threads pack another matrix", eie_layer_kernel(one));
            eie_layer_free(one);
            eie_layer_free(many);
        }
        free(x), free(alone), free(shared);
        free(w.codes);
    }
}

/* ---- batches ------------------------------------------------------------------------------------------------------------ */

/* In u8 and i16 a vector's outputs are the same bits in a batch of any size, on every instruction set, with weights and activations that
 * come as close to overflow as they can. */
static void test_batches(const eie_parallel *pool) {
    for (int i = 0; i < 60; i++) {
        sample w;
        const uint64_t dims[2] = {1 + draw(200), 1 + draw(i % 4 ? 300 : 3000)}, batch = 2 + draw(64);
        make_weight(&w, 2, dims, 2 + (uint32_t)draw(i % 2 ? 3 : 200), 1 + draw(100));
        for (uint32_t k = 1; i % 3 == 0 && k < w.weight.codebook_size; k++) w.codebook[k] = draw(i % 2 ? 20 : 2) ? 4 : -4; /* all 127 */
        float *x = numbers((size_t)(batch * dims[1])), *y = numbers((size_t)(batch * dims[0])), *one = numbers((size_t)dims[0]);
        float *bias = draw(2) ? numbers((size_t)dims[0]) : NULL;
        for (uint64_t k = 0; i % 5 == 0 && k < batch * dims[1]; k++) x[k] = draw(2) ? 3 : -3;
        if (draw(3) == 0) x[draw(batch * dims[1])] = draw(2) ? NAN : INFINITY;
        for (size_t a = 0; eie_isa_available(a) != NULL; a++) {
            require(eie_isa_select(eie_isa_available(a)) == EIE_OK, "an available instruction set can't be chosen", "batches");
            for (eie_format format = EIE_I16; format <= EIE_U8; format++) {
                eie_layer *layer;
                require(eie_gemm_create(&w.weight, format, NULL, &layer) == EIE_OK, "a layer can't be made", "batches");
                const uint64_t before = eie_layer_bytes(layer);
                require(eie_gemm_run(layer, x, batch, bias, y, draw(2) ? pool : NULL) == EIE_OK, "a batch can't run", "batches");
                require(batch < 16 || eie_layer_bytes(layer) > before, "what a batch makes is not counted", "batches");
                for (uint64_t b = 0; b < batch; b++) {
                    require(eie_gemm_run(layer, x + b * dims[1], 1, bias, one, NULL) == EIE_OK, "a vector can't run", "batches");
                    require(same(y + b * dims[0], one, (size_t)dims[0], format), "a vector has other outputs in a batch", eie_layer_kernel(layer));
                }
                eie_layer_free(layer);
            }
        }
        free(x), free(y), free(one), free(bias);
        free(w.codes);
    }
    require(eie_isa_select(eie_isa_available(0)) == EIE_OK, "the best instruction set can't be chosen", "batches");
}

/* An item of bytes keeps what the kernels were promised: products of the first two, and of the last two, fit int16 together. */
static void draw_bytes(int8_t *weight, size_t items) {
    for (size_t e = 0; e < 2 * items; e++) {
        const int first = (int)draw(128), second = draw(2) ? -(int)draw(128) : (int)draw(129 - (uint64_t)first), sign = draw(2) ? 1 : -1;
        weight[2 * e] = (int8_t)(sign * first);
        weight[2 * e + 1] = (int8_t)(sign * (second > 127 ? 127 : second));
    }
}

static void test_batch_kernels(void) {
    enum { COLUMNS = 40, LANES = EIE_BATCH_LANES };
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        if (kernel->kind < EIE_BATCH_F32 || kernel->kind > EIE_BATCH_U8 || !runs_here(kernel)) continue;
        const size_t item = kernel->kind == EIE_BATCH_F32 ? 4 : kernel->kind == EIE_BATCH_I16 ? 2 : 1, sum = kernel->kind == EIE_BATCH_I16 ? 8 : 4;
        for (int i = 0; i < 300; i++) {
            const size_t rows = (size_t)draw(5), lanes = draw(2) ? LANES : LANES / 2;
            uint32_t *first = malloc((rows + 1) * sizeof *first);
            uint8_t row[4] = {3, 1, 0, 2};
            first[0] = 0;
            for (size_t r = 0; r < rows; r++) first[r + 1] = first[r] + (uint32_t)draw(25);
            const size_t entries = first[rows] * kernel->per;
            uint16_t *place = malloc(entries * sizeof *place + 1);
            uint8_t *weight = malloc(entries * 2 + 1), *x = aligned_alloc(64, COLUMNS * lanes * 4);
            float table[256];
            for (int t = 0; t < 256; t++) table[t] = number();
            for (size_t e = 0; e < entries; e++) place[e] = (uint16_t)(draw(COLUMNS) * 4 * item);
            for (size_t e = 0; e < entries; e++) weight[e] = (uint8_t)draw(256);
            if (kernel->kind == EIE_BATCH_U8) draw_bytes((int8_t *)weight, entries / 4);
            for (size_t e = 0; kernel->kind == EIE_BATCH_I16 && e < entries; e++) ((int16_t *)(void *)weight)[e] = (int16_t)((int)draw(8191) - 4095);
            for (size_t e = 0; e < COLUMNS * lanes; e++) {
                if (item == 4) ((float *)(void *)x)[e] = number();
                else if (item == 2) ((int16_t *)(void *)x)[e] = (int16_t)(draw(4) ? (int)draw(65535) - 32767 : -32767);
                else x[e] = draw(4) ? 255 : (uint8_t)draw(256);
            }
            uint8_t *a = malloc(4 * lanes * sum), *b = malloc(4 * lanes * sum);
            for (size_t e = 0; e < 4 * lanes * sum; e++) a[e] = b[e] = (uint8_t)(e % sum < 2 ? draw(256) : 0);
            const eie_batch batch = {rows, row, first, place, weight, table};
            const bool fresh = draw(2);
            eie_batch_kernel *scalar = item == 4 ? batch_f32_code_1x32_scalar : item == 2 ? batch_i16_pair_1x32_scalar : batch_u8_quad_1x32_scalar;
            ((eie_batch_kernel *)kernel->run)(&batch, x, lanes, fresh, a);
            scalar(&batch, x, lanes, fresh, b);
            const bool equal = item == 4 ? same((float *)(void *)a, (float *)(void *)b, 4 * lanes, EIE_F32) : memcmp(a, b, 4 * lanes * sum) == 0;
            require(equal, "sums differ from the scalar ones", kernel->name);
            free(first), free(place), free(weight), free(x), free(a), free(b);
        }
        note(kernel->name);
    }
}

static void test_transpose(void) {
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        if (kernel->kind != EIE_BATCH_TRANSPOSE || !runs_here(kernel)) continue;
        for (int i = 0; i < 1000; i++) {
            const size_t bytes = (size_t)1 << draw(3), rows = (size_t)draw(40), columns = (size_t)draw(40), pitch = columns + (size_t)draw(3), to_pitch = rows + (size_t)draw(3);
            const size_t inputs = rows > 0 ? ((rows - 1) * pitch + columns) * bytes : 0, outputs = columns > 0 ? ((columns - 1) * to_pitch + rows) * bytes : 0;
            uint8_t *x = malloc(inputs + 1), *a = malloc(outputs + 1), *b = malloc(outputs + 1);
            for (size_t e = 0; e < inputs; e++) x[e] = (uint8_t)draw(256);
            for (size_t e = 0; e < outputs; e++) a[e] = b[e] = (uint8_t)draw(256);
            const eie_transposed how = {rows, columns, pitch, to_pitch};
            ((eie_transpose_kernel *)kernel->run)(x, &how, bytes, a);
            for (size_t e = 0; e < rows * columns; e++) memcpy(b + (e % columns * to_pitch + e / columns) * bytes, x + (e / columns * pitch + e % columns) * bytes, bytes);
            require(memcmp(a, b, outputs) == 0, "columns are no rows", kernel->name);
            free(x), free(a), free(b);
        }
        note(kernel->name);
    }
}

static void test_batch_scale(void) {
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        if (kernel->kind != EIE_BATCH_SCALE_U8 || !runs_here(kernel)) continue;
        for (int i = 0; i < 100; i++) {
            const size_t rows = (size_t)draw(5), lanes = 16 * (1 + (size_t)draw(4));
            int32_t *sums = malloc(rows * lanes * sizeof *sums + 1), row_sum[5], zero[64];
            float *a = numbers(rows * lanes), factor[64];
            for (size_t r = 0; r < rows; r++) row_sum[r] = (int32_t)draw(16646144) - 8323072; /* 65,536 weights of 127 */
            for (size_t l = 0; l < lanes; l++) zero[l] = (int32_t)draw(256), factor[l] = number();
            for (size_t e = 0; e < rows * lanes; e++) sums[e] = (row_sum[e / lanes] + (int32_t)draw(1000)) * (int32_t)draw(256);
            const eie_batch_scale how = {rows, lanes, row_sum, zero, factor};
            ((eie_batch_scale_kernel *)kernel->run)(sums, &how, a);
            for (size_t e = 0; e < rows * lanes; e++) {
                const int64_t exact = sums[e] - (int64_t)zero[e % lanes] * row_sum[e / lanes];
                require(a[e] == (float)exact * factor[e % lanes], "a sum is scaled otherwise", kernel->name);
            }
            free(sums), free(a);
        }
        note(kernel->name);
    }
}

/* ---- convolution ------------------------------------------------------------------------------------------------------- */

/* Every kernel, on every number of vectors and buffers of just the size it may read, against sums taken one by one. */
static void test_conv_kernels(void) {
    static const eie_format formats[] = {EIE_F32, EIE_I16, EIE_U8};
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        bool here = false;
        for (size_t a = 0; eie_isa_available(a) != NULL; a++) here |= strcmp(eie_isa_available(a), kernel->isa) == 0;
        if (kernel->kind < EIE_CONV_F32 || kernel->kind > EIE_CONV_U8 || !here) continue;
        const eie_format format = formats[kernel->kind - EIE_CONV_F32];
        const size_t lanes = kernel->sets, pitch = 16, item = format == EIE_I16 ? 8 : 4;
        for (int i = 0; i < 400; i++) {
            const size_t rows = 1 + (size_t)draw(kernel->window), entries = i % 5 == 0 ? (size_t)draw(3) : (size_t)draw(60), lines = 40;
            const bool fresh = draw(2);
            const size_t places = (lines + rows - 1) * pitch;
            uint32_t *x = aligned_alloc(64, places * 4), *offset = malloc(entries * 4 + 1), *weight = malloc(entries * 4 + 1);
            uint8_t *y = malloc(rows * lanes * item), *before = malloc(rows * lanes * item);
            require(x != NULL && offset != NULL && weight != NULL && y != NULL && before != NULL, "out of memory", "conv kernels");
            for (size_t j = 0; j < places; j++) {
                const float value = number();
                if (format == EIE_F32) memcpy(x + j, &value, 4);
                else if (kernel->per == 4) x[j] = (uint32_t)draw(1ull << 32);
                else x[j] = format == EIE_I16 ? (uint32_t)(draw(65535) + 1) % 65535 << 16 | (uint32_t)draw(32768) : (uint32_t)(draw(256) << 16 | draw(256));
                if (format == EIE_I16 && x[j] >> 16 == 32768) x[j] ^= 1u << 16; /* -32768 is no activation */
            }
            for (size_t e = 0; e < entries; e++) { /* weights of i16 so small that the sum of a call fits int32: docs/numerics.md */
                const float value = number();
                offset[e] = (uint32_t)(draw(lines) * 64 + (lanes < pitch ? draw(pitch - lanes + 1) * 4 : 0));
                weight[e] = kernel->per == 4 ? (uint32_t)draw(1ull << 32) & 0x7f7f7f7fu : (uint16_t)(draw(1000) - 500) | (uint32_t)(draw(1000) - 500) << 16;
                if (format == EIE_U8 && kernel->per == 2) weight[e] = (uint16_t)(draw(255) - 127) | (uint32_t)(draw(255) - 127) << 16;
                if (format == EIE_F32) memcpy(weight + e, &value, 4);
            }
            for (size_t j = 0; j < rows * lanes; j++) {
                const float value = number();
                const int32_t whole = (int32_t)draw(2001) - 1000;
                const int64_t wide = (int64_t)draw(1ull << 50);
                memcpy(y + j * item, format == EIE_F32 ? (const void *)&value : format == EIE_U8 ? (const void *)&whole : (const void *)&wide, item);
            }
            memcpy(before, y, rows * lanes * item);
            ((eie_conv_kernel *)kernel->run)(offset, weight, entries, x, rows, fresh, y);
            for (size_t j = 0; j < rows * lanes; j++) {
                double real = 0;
                int64_t sum = 0;
                for (size_t e = 0; e < entries; e++) {
                    const uint32_t at = x[offset[e] / 4 + j / lanes * pitch + j % lanes], w = weight[e];
                    float a, b;
                    memcpy(&a, &at, 4), memcpy(&b, &w, 4);
                    if (format == EIE_F32) real += (double)a * b;
                    for (int c = 0; c < 4 && kernel->per == 4; c++) sum += (int64_t)(uint8_t)(at >> 8 * c) * (int8_t)(w >> 8 * c);
                    for (int c = 0; c < 2 && kernel->per == 2; c++) sum += (int64_t)(int16_t)(at >> 16 * c) * (int16_t)(w >> 16 * c);
                }
                float made, old;
                int32_t whole, was;
                int64_t wide, had;
                memcpy(&made, y + j * item, 4), memcpy(&old, before + j * item, 4), memcpy(&whole, y + j * item, 4), memcpy(&was, before + j * item, 4);
                if (format == EIE_F32) require(fabs(made - real - (fresh ? 0 : old)) <= 1e-3, "sums differ", kernel->name);
                if (format == EIE_U8) require(whole == sum + (fresh ? 0 : was), "sums differ", kernel->name);
                if (format != EIE_I16) continue;
                memcpy(&wide, y + j * item, 8), memcpy(&had, before + j * item, 8);
                require(wide == sum + (fresh ? 0 : had), "sums differ", kernel->name);
            }
            free(x), free(offset), free(weight), free(y), free(before);
        }
        note(kernel->name);
    }
}

typedef struct {
    const sample *weight;
    eie_conv_params params;
    int64_t in[4], out[4];
    const float *x, *bias;
    uint64_t batch;
} conv_case;

static eie_status make_conv(const void *what, eie_format format, eie_layer **layer) {
    const conv_case *c = what;
    return eie_conv_create(&c->weight->weight, &c->params, format, layer);
}

static eie_status run_conv(const eie_layer *layer, const void *what, float *y, const eie_parallel *parallel) {
    const conv_case *c = what;
    const size_t channels = (size_t)c->out[0];
    size_t inner = 1;
    for (uint32_t a = 1; a <= c->params.spatial; a++) inner *= (size_t)c->out[a];
    const size_t total = (size_t)c->batch * channels * inner;
    eie_follower f[FOLLOWERS];
    const uint64_t count = draw_followers(f, channels, total);
    float *expected = numbers(total);
    require(eie_conv_run(layer, c->x, c->batch, c->in, c->bias, expected, parallel) == EIE_OK, "a convolution can't run", "conv");
    apply(f, count, channels, inner, total, expected);
    const eie_status status = eie_conv_run_followed(layer, c->x, c->batch, c->in, c->bias, f, count, y, parallel);
    require_same_bits(y, expected, total, "followers of a convolution differ", eie_layer_kernel(layer));
    free_followers(f, count);
    free(expected);
    return status == EIE_OK ? eie_conv_run(layer, c->x, c->batch, c->in, c->bias, y, parallel) : status;
}

static void test_conv(const eie_parallel *pool) {
    int ran = 0;
    for (int i = 0; i < 600; i++) {
        conv_case c = {.batch = draw(3)};
        sample w;
        const uint32_t spatial = 1 + (uint32_t)draw(3);
        const uint64_t group = 1 + draw(3), inner = 1 + draw(4), outer = 1 + draw(5);
        uint64_t dims[5] = {outer * group, inner};
        c.params = (eie_conv_params){.spatial = spatial, .transposed = (uint32_t)draw(2), .group = group, .auto_pad = (int32_t)(draw(3) ? 0 : draw(4))};
        c.in[0] = (int64_t)(c.params.transposed ? outer * group : inner * group);
        size_t inputs = (size_t)(c.batch * (uint64_t)c.in[0]), outputs = (size_t)c.batch;
        for (uint32_t a = 0; a < spatial; a++) {
            dims[2 + a] = 1 + draw(4);
            c.params.strides[a] = 1 + (int64_t)draw(3);
            c.params.dilations[a] = 1 + (int64_t)draw(3);
            c.params.pads[a] = (int64_t)draw(4);
            c.params.pads[a + spatial] = (int64_t)draw(4);
            c.params.output_padding[a] = (int64_t)draw(2);
            c.in[1 + a] = 1 + (int64_t)draw(spatial == 1 ? 600 : spatial == 2 ? 25 : 9);
            inputs *= (size_t)c.in[1 + a];
        }
        make_weight(&w, 2 + spatial, dims, draw(2) ? 16 : 256, draw(101));
        c.weight = &w;
        eie_layer *layer;
        require(make_conv(&c, EIE_F32, &layer) == EIE_OK, "a convolution can't be made", "conv");
        if (eie_conv_output_dims(layer, c.in, c.out) == EIE_OK) {
            for (uint32_t a = 0; a <= spatial; a++) outputs *= (size_t)c.out[a];
            float *x = numbers(inputs), *bias = draw(2) ? numbers((size_t)c.out[0]) : NULL;
            c.x = x;
            c.bias = bias;
            compare(make_conv, run_conv, &c, outputs, pool, "conv");
            free(x);
            free(bias);
            ran++;
        }
        eie_layer_free(layer);
        free(w.codes);
    }
    require(ran > 300, "hardly any convolution ran", "conv");
}

/* ---- LSTM and GRU --------------------------------------------------------------------------------------------------------- */

typedef struct {
    const sample *w, *r;
    eie_recurrent_params params;
    eie_recurrent_io io;
} cell_case;

static eie_status make_cell(const void *what, eie_format format, eie_layer **layer) {
    const cell_case *c = what;
    return eie_recurrent_create(&c->w->weight, &c->r->weight, &c->params, format, NULL, layer);
}

static eie_status run_cell(const eie_layer *layer, const void *what, float *y, const eie_parallel *parallel) {
    eie_recurrent_io io = ((const cell_case *)what)->io;
    io.y = y;
    return eie_recurrent_run(layer, &io, parallel);
}

static void test_recurrent(const eie_parallel *pool) {
    for (int i = 0; i < 150; i++) {
        const bool lstm = draw(2);
        const uint64_t hidden = 1 + draw(40), input = 1 + draw(70), gates = lstm ? 4 : 3, batch = draw(4), time = draw(6);
        cell_case c = {.params = {.cell = lstm ? EIE_LSTM : EIE_GRU, .direction = (int32_t)draw(3), .hidden = hidden, .layout = (int32_t)draw(2),
                                  .input_forget = (int32_t)draw(2), .linear_before_reset = (int32_t)draw(2), .clip = draw(2) ? 0.7f : 0}};
        const uint64_t directions = c.params.direction == EIE_BIDIRECTIONAL ? 2 : 1;
        sample w, r;
        make_weight(&w, 3, (uint64_t[]){directions, gates * hidden, input}, 16, 50);
        make_weight(&r, 3, (uint64_t[]){directions, gates * hidden, hidden}, 200, 80);
        int32_t *lengths = malloc(batch * sizeof *lengths + 1);
        for (uint64_t b = 0; b < batch; b++) lengths[b] = (int32_t)draw(time + 1);
        float *x = numbers((size_t)(time * batch * input)), *bias = numbers((size_t)(directions * 2 * gates * hidden));
        float *state = numbers((size_t)(directions * batch * hidden)), *peephole = numbers((size_t)(directions * 3 * hidden));
        c.w = &w;
        c.r = &r;
        c.io = (eie_recurrent_io){.x = x, .time = time, .batch = batch, .bias = draw(2) ? bias : NULL, .sequence_lengths = draw(2) ? lengths : NULL,
                                  .initial_h = draw(2) ? state : NULL, .initial_c = lstm && draw(2) ? state : NULL, .peephole = lstm && draw(2) ? peephole : NULL};
        compare(make_cell, run_cell, &c, (size_t)(time * directions * batch * hidden), pool, "recurrent");
        free(x);
        free(bias);
        free(state);
        free(peephole);
        free(lengths);
        free(w.codes);
        free(r.codes);
    }
}

/* ---- quantization, tables -------------------------------------------------------------------------------------------------- */

static void test_output(void) {
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        if (kernel->kind != EIE_OUTPUT_U8 || !runs_here(kernel)) continue;
        for (size_t n = 0; n < 70; n++) { /* buffers of just this size: a sanitizer sees what reaches further */
            int32_t *sums = malloc(n * sizeof *sums + 1), *row_sums = malloc(n * sizeof *row_sums + 1);
            uint32_t *order = malloc(n * sizeof *order + 1);
            float *bias = numbers(n), *a = numbers(n), *b = malloc(n * sizeof *b + 1);
            require(sums != NULL && row_sums != NULL && order != NULL && b != NULL, "out of memory", "output");
            memcpy(b, a, n * sizeof *b);
            for (size_t i = 0; i < n; i++) {
                const int32_t value = (int32_t)draw(16777216) - 8388608;
                sums[i] = value * (draw(8) == 0 ? 127 : 1); /* also sums that are next to overflow */
                row_sums[i] = sums[i] / 255;
                order[i] = draw(6) == 0 ? (uint32_t)EIE_NO_ROW : (uint32_t)(n - 1 - i);
            }
            const eie_output_u8 how = {order, row_sums, draw(2) ? bias : NULL, number(), (int32_t)draw(256)};
            ((eie_output_u8_kernel *)kernel->run)(sums, n, &how, a);
            output_u8_scalar(sums, n, &how, b);
            require(memcmp(a, b, n * sizeof *a) == 0, "outputs differ from the scalar ones", kernel->name);
            free(sums), free(row_sums), free(order), free(bias), free(a), free(b);
        }
        note(kernel->name);
    }
}

static void test_scale(void) {
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        if (kernel->kind != EIE_SCALE_U8 || !runs_here(kernel)) continue;
        for (size_t n = 0; n < 70; n++) {
            int32_t *sums = malloc(n * sizeof *sums + 1);
            float *a = numbers(n), *b = numbers(n), bias = number(), factor = number();
            require(sums != NULL, "out of memory", "scale");
            for (size_t i = 0; i < n; i++) sums[i] = (int32_t)draw(1u << 31);
            const int32_t less = (int32_t)draw(1u << 31);
            ((eie_scale_kernel *)kernel->run)(sums, n, less, factor, n % 2 ? &bias : NULL, a);
            scale_u8_scalar(sums, n, less, factor, n % 2 ? &bias : NULL, b);
            require(memcmp(a, b, n * sizeof *a) == 0, "outputs differ from the scalar ones", kernel->name);
            free(sums), free(a), free(b);
        }
        note(kernel->name);
    }
}

static float any(void) { return draw(12) == 0 ? (float[]){NAN, INFINITY, -INFINITY, 0, -0.0f, 1e-40f, 88.5f, -200}[draw(8)] : number() * 2; }

/* Gates of every size and of odd numbers: the same bits as the scalar ones, in buffers of just that size. */
static void test_cells(void) {
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        const bool lstm = kernel->kind == EIE_CELL_LSTM, gates = kernel->kind == EIE_CELL_GATES;
        if ((!lstm && !gates && kernel->kind != EIE_CELL_BLEND) || !runs_here(kernel)) continue;
        for (size_t i = 0; i < 300; i++) {
            const size_t n = i % 75;
            float *a = numbers(4 * n), *b = numbers(4 * n), *bias = numbers(4 * n), *p = numbers(3 * n), *state[4];
            for (size_t j = 0; j < 4 * n; j++) a[j] = any(), b[j] = any();
            for (int s = 0; s < 4; s++) state[s] = numbers(n);
            for (size_t j = 0; j < n; j++) state[0][j] = state[1][j] = any(), state[2][j] = state[3][j] = any();
            const float clip = draw(2) ? INFINITY : 0.7f;
            const eie_cell_gates how = {a, b, bias, draw(2) ? p : NULL, clip, draw(2) == 0};
            if (lstm) {
                ((eie_cell_lstm_kernel *)kernel->run)(&how, n, state[0], state[2]);
                cell_lstm_scalar(&how, n, state[1], state[3]);
            } else if (gates) {
                ((eie_cell_gates_kernel *)kernel->run)(b, bias, clip, n, state[0]);
                cell_gates_scalar(b, bias, clip, n, state[1]);
            } else {
                ((eie_cell_blend_kernel *)kernel->run)(a, b, clip, n, state[0]);
                cell_blend_scalar(a, b, clip, n, state[1]);
            }
            require(same(state[0], state[1], n, EIE_I16) && same(state[2], state[3], n, EIE_I16), "cells differ", kernel->name);
            for (int s = 0; s < 4; s++) free(state[s]);
            free(a), free(b), free(bias), free(p);
        }
        note(kernel->name);
    }
}

static void test_lines(void) {
    for (size_t k = 0; k < eie_kernel_count; k++) {
        const eie_kernel *kernel = &eie_kernels[k];
        if (kernel->kind != EIE_CONV_LINES || !runs_here(kernel)) continue;
        for (int i = 0; i < 3000; i++) {
            const size_t width = (size_t)draw(50), gap = (size_t)draw(3), count = (size_t)draw(4), lanes = (size_t)draw(40);
            const size_t inputs = count > 0 ? (count - 1) * (width + gap) + width : 0, outputs = count > 0 ? (count - 1) * (lanes + gap) + lanes : 0;
            const eie_lines how = {.pitch = width + gap, .count = count, .first = (int64_t)draw(120) - 60, .step = 1 + (int64_t)draw(draw(2) ? 3 : 1u << 31),
                                   .width = (int64_t)width, .lanes = lanes, .to_pitch = lanes + gap, .pad = 7};
            uint32_t *x = (uint32_t *)(void *)numbers(inputs), *a = (uint32_t *)(void *)numbers(outputs), *b = malloc(outputs * sizeof *b + 1);
            require(b != NULL, "out of memory", "lines");
            memcpy(b, a, outputs * sizeof *b);
            ((eie_lines_kernel *)kernel->run)(x, &how, a);
            for (size_t l = 0; l < count; l++) {
                for (size_t lane = 0; lane < lanes; lane++) {
                    const int64_t at = how.first + (int64_t)lane * how.step;
                    b[l * how.to_pitch + lane] = at >= 0 && at < how.width ? x[l * how.pitch + (size_t)at] : how.pad;
                }
            }
            require(memcmp(a, b, outputs * sizeof *a) == 0, "lines are others", kernel->name);
            free(x), free(a), free(b);
        }
        note(kernel->name);
    }
}

static void test_quantize(void) {
    for (int i = 0; i < 2000; i++) {
        const size_t n = (size_t)draw(100);
        float *x = numbers(n);
        const float scale = ldexpf(1, (int)draw(250) - 149);
        for (size_t k = 0; k < n; k++) x[k] = draw(200) == 0 ? (draw(2) ? NAN : -INFINITY) : x[k] * scale;
        uint8_t *q[2] = {malloc(n + 1), malloc(n + 1)};
        int16_t *w[2] = {malloc(n * 2 + 1), malloc(n * 2 + 1)};
        for (size_t k = 0; k < eie_kernel_count; k++) {
            const eie_kernel *kernel = &eie_kernels[k];
            if (!runs_here(kernel)) continue;
            float scales[2];
            int32_t zero[2], exponent[2];
            if (kernel->kind == EIE_QUANTIZE_U8) {
                const bool a = ((eie_quantize_u8_kernel *)kernel->run)(x, n, q[0], &scales[0], &zero[0]);
                const bool b = quantize_u8_scalar(x, n, q[1], &scales[1], &zero[1]);
                require(a == b && (!a || (scales[0] == scales[1] && zero[0] == zero[1] && memcmp(q[0], q[1], n) == 0)), "quantization differs", kernel->name);
                note(kernel->name);
            } else if (kernel->kind == EIE_QUANTIZE_I16) {
                const bool a = ((eie_quantize_i16_kernel *)kernel->run)(x, n, w[0], &exponent[0]);
                const bool b = quantize_i16_scalar(x, n, w[1], &exponent[1]);
                require(a == b && (!a || (exponent[0] == exponent[1] && memcmp(w[0], w[1], n * 2) == 0)), "quantization differs", kernel->name);
                note(kernel->name);
            }
        }
        for (int k = 0; k < 2; k++) free(q[k]), free(w[k]);
        free(x);
    }
}

/* The limits of `eie bench`: they read no further than they are told, and do what they count. */
static void test_limits(void) {
    for (size_t i = 0; eie_isa_available(i) != NULL; i++) {
        require(eie_isa_select(eie_isa_available(i)) == EIE_OK, "an available instruction set can't be chosen", "limits");
        uint8_t *buffer = aligned_alloc(64, 1024);
        float sink;
        int32_t whole;
        require(buffer != NULL, "out of memory", "limits");
        for (int k = 0; k < 1024; k++) buffer[k] = (uint8_t)draw(256);
        require(eie_bench_read(buffer, 1024, 2) == 2 * eie_bench_read(buffer, 1024, 1), "reading is another each time", "limits");
        require(eie_bench_fma(100, &sink) >= 100 && isfinite(sink), "nothing is multiplied", "limits");
        require(eie_bench_dot(100, &whole) >= 0, "fewer than none are multiplied", "limits");
        const uint8_t kept = buffer[700];
        const eie_status status = eie_bench_flush(buffer, 1024);
        require((status == EIE_OK || status == EIE_E_UNSUPPORTED) && buffer[700] == kept, "flushing changes what is there", "limits");
        free(buffer);
    }
    require(eie_isa_select(eie_isa_available(0)) == EIE_OK, "the best instruction set can't be chosen", "limits");
}

static void test_gather(void) {
    sample t;
    make_weight(&t, 3, (uint64_t[]){7, 2, 3}, 9, 60);
    eie_layer *layer;
    require(eie_gather_create(&t.weight, &layer) == EIE_OK, "a table can't be made", "gather");
    float *y = malloc(3 * 6 * sizeof *y);
    require(eie_gather_run(layer, (int64_t[]){0, -1, 6}, 3, y) == EIE_OK, "rows are not given", "gather");
    for (int k = 0; k < 6; k++) require(y[6 + k] == t.codebook[t.codes[36 + k]] && y[12 + k] == y[6 + k], "a row is another", "gather");
    const int64_t outside[] = {7, -8, INT64_MAX, INT64_MIN};
    for (int k = 0; k < 4; k++) require(eie_gather_run(layer, &outside[k], 1, y) == EIE_E_ARGUMENT, "a row outside is given", "gather");
    free(y);
    eie_layer_free(layer);
    free(t.codes);
}

/* ---- arguments nobody should give ------------------------------------------------------------------------------------------- */

static void test_arguments(void) {
    uint8_t codes[64] = {0};
    float codebook[4] = {0, 1, 2, 3};
    const uint64_t matrix[] = {8, 8}, endless[] = {1ull << 40, 1ull << 40}, kernel[] = {2, 2, 4, 4};
    eie_layer *layer;
    eie_weight w = {codes, codebook, 4, 2, matrix};
    require(eie_gemm_create(NULL, EIE_F32, NULL, &layer) == EIE_E_ARGUMENT, "no weight is taken", "arguments");
    require(eie_gemm_create(&w, (eie_format)9, NULL, &layer) == EIE_E_ARGUMENT, "a format that is none is taken", "arguments");
    w.dims = endless;
    require(eie_gemm_create(&w, EIE_F32, NULL, &layer) == EIE_E_SHAPE, "an endless matrix is taken", "arguments");
    w.dims = matrix;
    w.codebook_size = 0;
    require(eie_gemm_create(&w, EIE_F32, NULL, &layer) == EIE_E_ARGUMENT, "an empty codebook is taken", "arguments");
    w.codebook_size = 3;
    codes[5] = 3;
    require(eie_gemm_create(&w, EIE_F32, NULL, &layer) == EIE_E_CORRUPT, "a code past the codebook is taken", "arguments");
    codes[5] = 0;
    codebook[0] = 1;
    require(eie_gemm_create(&w, EIE_F32, NULL, &layer) == EIE_E_ARGUMENT, "a codebook without zero is taken", "arguments");
    codebook[0] = 0;
    w = (eie_weight){codes, codebook, 4, 4, kernel};
    const int64_t odd[] = {0, -1, INT64_MIN, INT64_MAX, 1ll << 40};
    for (int k = 0; k < 5; k++) {
        for (int field = 0; field < 6; field++) {
            for (uint32_t t = 0; t < 2; t++) {
                eie_conv_params p = {.spatial = 2, .transposed = t, .group = 1, .strides = {1, 1}, .dilations = {1, 1}};
                int64_t *at[] = {&p.strides[1], &p.dilations[0], &p.pads[3], &p.output_padding[1], &p.output_shape[0], (int64_t *)&p.group};
                *at[field] = odd[k];
                const bool fine = odd[k] == 0 && field >= 2 && field <= 4;
                const eie_status status = eie_conv_create(&w, &p, EIE_F32, &layer);
                require((status == EIE_OK) == fine, "odd parameters of a convolution", "arguments");
                if (status == EIE_OK) eie_layer_free(layer);
            }
        }
    }
    for (uint32_t t = 0; t < 2; t++) { /* large but legal: a status, no absurd allocation, no overflow */
        eie_conv_params p = {.spatial = 2, .transposed = t, .group = 1, .strides = {t ? 200 : INT32_MAX - 1, 300}, .dilations = {INT32_MAX - 1, 1},
                             .pads = {INT32_MAX - 1, 0, INT32_MAX - 1, 0}};
        int64_t in[] = {2, 5, INT32_MAX}, out[3];
        require(eie_conv_create(&w, &p, EIE_F32, &layer) == EIE_OK, "large parameters", "arguments");
        require(eie_conv_run(layer, NULL, 1, in, NULL, NULL, NULL) != EIE_OK, "an endless convolution ran", "arguments");
        in[0] = 3;
        require(eie_conv_output_dims(layer, in, out) == EIE_E_SHAPE, "wrong channels are taken", "arguments");
        eie_layer_free(layer);
    }
    eie_conv_params wide = {.spatial = 2, .transposed = 1, .group = 1, .strides = {INT32_MAX - 1, 2}, .dilations = {1, 1}};
    require(eie_conv_create(&w, &wide, EIE_F32, &layer) == EIE_E_UNSUPPORTED, "a row for each of 2^32 phases is made", "arguments");
    w = (eie_weight){codes, codebook, 4, 2, matrix};
    float y[8], x[8] = {0};
    const eie_follower wrong[] = {{-1, 0, 0, x}, {5, 0, 0, x}, {EIE_FOLLOW_ADD, 0, 0, NULL}, {EIE_FOLLOW_ADD_CHANNEL, 0, 0, NULL}};
    require(eie_gemm_create(&w, EIE_F32, NULL, &layer) == EIE_OK, "a matrix can't be made", "arguments");
    for (int k = 0; k < 4; k++) require(eie_gemm_run_followed(layer, x, 1, NULL, &wrong[k], 1, y, NULL) == EIE_E_ARGUMENT, "a wrong follower", "arguments");
    require(eie_gemm_run_followed(layer, x, 1, NULL, NULL, 1, y, NULL) == EIE_E_ARGUMENT, "no followers are taken", "arguments");
    eie_layer_free(layer);
    eie_parallel *pool;
    require(eie_pool_create(0, &pool) == EIE_E_ARGUMENT && eie_pool_create(100000, &pool) == EIE_E_ARGUMENT, "odd numbers of threads", "arguments");
    require(eie_isa_select("z80") == EIE_E_ARGUMENT && eie_isa_select(NULL) == EIE_E_ARGUMENT, "an unknown instruction set", "arguments");
}

int main(void) {
    eie_parallel *pool;
    require(eie_pool_create(3, &pool) == EIE_OK, "no threads", "pool");
    test_quantize();
    test_output();
    test_scale();
    test_lines();
    test_cells();
    test_follow_kernels();
    test_gemm(pool);
    test_packing(pool);
    test_batches(pool);
    test_batch_kernels();
    test_transpose();
    test_batch_scale();
    test_conv_kernels();
    test_conv(pool);
    test_recurrent(pool);
    test_gather();
    test_limits();
    test_arguments();
    eie_pool_free(pool);
    size_t runnable = 0;
    for (size_t k = 0; k < eie_kernel_count; k++) {
        bool here = false, ran = false;
        for (size_t a = 0; eie_isa_available(a) != NULL; a++) here |= strcmp(eie_isa_available(a), eie_kernels[k].isa) == 0;
        for (size_t i = 0; i < seen_count; i++) ran |= strcmp(seen[i], eie_kernels[k].name) == 0;
        require(!here || ran, "a listed kernel did not run", eie_kernels[k].name);
        runnable += here;
    }
    printf("selftest: %zu of %zu kernels run here, all of them as the scalar ones\n", runnable, eie_kernel_count);
    return 0;
}
