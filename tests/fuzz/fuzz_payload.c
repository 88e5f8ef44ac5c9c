/* Feeds broken payloads to the decoder. Built by clang with -fsanitize=fuzzer this is a libFuzzer target; built by
 * anything else it brings its own mutations:
 *
 *     fuzz_payload SECONDS [SEED-FILE...]
 *
 * Each input is read as it is, and again with its checksum put right, so that the checks behind it are reached. What
 * decodes is encoded again and must come back the same, and is run as every operator its shape allows.
 */
#include "codec/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LARGEST = 1 << 21, MOST = 1 << 16 }; /* elements worth decoding here; bytes of an input */

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz_payload: %s\n", what);
    abort();
}

static void round_trip(const eie_payload_info *info, const uint8_t *codes, const float *codebook, uint32_t codec) {
    eie_weight weight = {codes, codebook, info->codebook_size, info->rank, info->dims};
    eie_payload_options options = {codec, 0, info->pattern};
    eie_payload_info again;
    uint8_t *payload = NULL;
    size_t size = 0;
    float values[256];
    require(eie_payload_encode(&weight, &options, &payload, &size) == EIE_OK, "what decoded does not encode");
    require(eie_payload_inspect(payload, size, &again) == EIE_OK, "our own payload can't be inspected");
    require(again.elements == info->elements && again.rank == info->rank, "the shape changed on the way");
    uint8_t *copy = malloc((size_t)info->elements + 1);
    require(copy && eie_payload_decode(payload, size, copy, (size_t)info->elements, values) == EIE_OK,
            "our own payload does not decode");
    for (uint64_t i = 0; i < info->elements; i++)
        require(values[copy[i]] == codebook[codes[i]], "a value changed on the way");
    free(copy);
    eie_payload_free(payload);
}

/* Buffers are exactly as large as the interface says. */
static float *floats(size_t count, float value) {
    float *made = malloc(count * sizeof *made + 1);
    require(made != NULL, "out of memory");
    for (size_t i = 0; i < count; i++) made[i] = value * (float)(i % 7);
    return made;
}

static void run_matrix(const eie_weight *weight, eie_format format) {
    eie_layer *layer;
    if (eie_gemm_create(weight, format, NULL, &layer) != EIE_OK) return;
    float *x = floats((size_t)weight->dims[1] * 2, 0.25f), *y = floats((size_t)weight->dims[0] * 2, 0);
    require(eie_gemm_run(layer, x, 2, NULL, y, NULL) == EIE_OK, "a product fails");
    free(x);
    free(y);
    eie_layer_free(layer);
}

static void run_kernel(const eie_weight *weight, eie_format format, uint32_t transposed) {
    const uint32_t spatial = weight->rank - 2;
    eie_conv_params params = {.spatial = spatial, .transposed = transposed, .group = 1};
    int64_t in[4] = {(int64_t)weight->dims[transposed ? 0 : 1]}, out[4];
    size_t positions = 1, results = 1;
    for (uint32_t i = 0; i < spatial; i++) {
        params.strides[i] = 1 + i % 2;
        params.dilations[i] = 1;
        params.pads[i] = i % 2;
        in[1 + i] = 5;
        positions *= 5;
    }
    eie_layer *layer;
    if (eie_conv_create(weight, &params, format, &layer) != EIE_OK) return;
    if (eie_conv_output_dims(layer, in, out) == EIE_OK) {
        for (uint32_t i = 0; i <= spatial; i++) results *= (size_t)out[i];
        if (results < 1 << 20) {
            float *x = floats((size_t)in[0] * positions, 0.5f), *y = floats(results, 0);
            require(eie_conv_run(layer, x, 1, in, NULL, y, NULL) == EIE_OK, "a convolution fails");
            free(x);
            free(y);
        }
    }
    eie_layer_free(layer);
}

static void run_cell(const eie_weight *weight, eie_format format) {
    const uint64_t gates = weight->dims[1], hidden = weight->dims[2];
    eie_recurrent_params params = {.cell = gates == 4 * hidden ? EIE_LSTM : EIE_GRU, .hidden = hidden};
    params.direction = weight->dims[0] == 2 ? EIE_BIDIRECTIONAL : EIE_FORWARD;
    eie_layer *layer;
    if (eie_recurrent_create(weight, weight, &params, format, NULL, &layer) != EIE_OK) return;
    float *x = floats((size_t)hidden * 3, 0.1f), *y = floats((size_t)(3 * weight->dims[0] * hidden), 0);
    eie_recurrent_io io = {.x = x, .time = 3, .batch = 1, .y = y};
    require(eie_recurrent_run(layer, &io, NULL) == EIE_OK, "a sequence fails");
    free(x);
    free(y);
    eie_layer_free(layer);
}

static void run_table(const eie_weight *weight, size_t elements) {
    eie_layer *layer;
    const int64_t past = (int64_t)weight->dims[0], first = -past;
    if (eie_gather_create(weight, &layer) != EIE_OK) return;
    float *y = floats(past > 0 ? elements / (size_t)past : 1, 0);
    require(eie_gather_run(layer, &past, 1, y) == EIE_E_ARGUMENT, "a row past the end is given");
    if (past > 0) require(eie_gather_run(layer, &first, 1, y) == EIE_OK, "the first row is not given");
    free(y);
    eie_layer_free(layer);
}

static void operate(const eie_payload_info *info, const uint8_t *codes, const float *codebook) {
    const eie_weight weight = {codes, codebook, info->codebook_size, info->rank, info->dims};
    for (uint32_t i = 0; i < info->rank; i++) {
        if (info->dims[i] > 1 << 16) return; /* an empty weight may have any other dimensions: no buffer here is that large */
    }
    if (info->rank >= 1) run_table(&weight, (size_t)info->elements);
    for (eie_format format = EIE_F32; format <= EIE_U8; format++) {
        if (info->rank == 2) run_matrix(&weight, format);
        for (uint32_t t = 0; info->rank >= 3 && info->rank <= 5 && t < 2; t++) run_kernel(&weight, format, t);
        if (info->rank == 3) run_cell(&weight, format);
    }
}

static eie_status decode(const uint8_t *data, size_t size) {
    eie_payload_info info;
    eie_status status = eie_payload_inspect(data, size, &info);
    if (status) return status;
    require(info.elements <= (uint64_t)size * EIE_ELEMENTS_PER_BYTE + EIE_ELEMENTS_FREE,
            "more elements than the size can back");
    require(info.code_bytes + info.index_bytes + info.codebook_bytes + info.table_bytes + info.container_bytes == size,
            "sizes do not add up");
    if (info.elements > LARGEST) return EIE_E_MEMORY;
    float codebook[256];
    uint8_t *codes = malloc((size_t)info.elements + 1);
    require(codes != NULL, "out of memory");
    status = eie_payload_decode(data, size, codes, (size_t)info.elements, codebook);
    if (status == EIE_OK) {
        for (uint64_t i = 0; i < info.elements; i++) require(codes[i] < info.codebook_size, "a code past the codebook");
        require(codebook[0] == 0, "the codebook does not begin with zero");
        for (uint32_t codec = EIE_CODEC_AUTO; codec <= EIE_CODEC_CONTEXT && info.elements <= 4096; codec++)
            round_trip(&info, codes, codebook, codec);
        if (info.elements <= 8192) operate(&info, codes, codebook);
    }
    free(codes);
    return status;
}

/* EIE_OK when it decodes once its checksum is right. */
static eie_status both_ways(const uint8_t *data, size_t size) {
    /* exactly as large as the input, for the address sanitizer to see one byte past */
    uint8_t *copy = malloc(size ? size : 1);
    require(copy != NULL, "out of memory");
    if (size) memcpy(copy, data, size);
    eie_status status = decode(copy, size);
    if (size >= 4) {
        uint32_t crc = eie_crc32(copy, size - 4);
        for (int k = 0; k < 4; k++) copy[size - 4 + (size_t)k] = (uint8_t)(crc >> (8 * k));
        status = decode(copy, size);
    }
    free(copy);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    both_ways(data, size);
    return 0;
}

#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
typedef struct {
    uint8_t *data;
    size_t size;
} input;

enum { POOL = 1024 };
static input pool[POOL];
static size_t pool_size;
static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint64_t draw(uint64_t below) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return below ? random_state % below : 0;
}

static void keep(const uint8_t *data, size_t size) {
    size_t at = pool_size < POOL ? pool_size++ : (size_t)draw(POOL);
    uint8_t *copy = malloc(size ? size : 1);
    require(copy != NULL, "out of memory");
    if (size) memcpy(copy, data, size);
    free(pool[at].data);
    pool[at] = (input){copy, size};
}

/* Small weights of many kinds, so that it runs without any seed file. */
static void make_seeds(void) {
    static const uint64_t shapes[][4] = {{0},          {1},          {37},           {8, 12},    {5, 3, 7},
                                         {6, 4, 3, 3}, {3, 2, 5, 5}, {2, 300, 1, 1}, {1, 1, 128}};
    static const uint32_t ranks[] = {0, 1, 1, 2, 3, 4, 4, 4, 3};
    uint8_t codes[4096];
    float codebook[256] = {0};
    for (uint32_t k = 1; k < 256; k++) codebook[k] = ((float)k - 100.5f) / 64;
    for (uint32_t s = 0; s < sizeof ranks / sizeof *ranks; s++)
        for (uint32_t kind = 0; kind < 24; kind++) {
            uint32_t symbols = kind & 1 ? 255 : kind & 2 ? 15 : kind % 3, zeros = kind & 4 ? 90 : kind & 8 ? 50 : 2;
            for (uint32_t i = 0; i < sizeof codes; i++)
                codes[i] = draw(100) < zeros || !symbols ? 0 : (uint8_t)(1 + draw(symbols));
            eie_weight weight = {codes, codebook, 256, ranks[s], shapes[s]};
            eie_payload_options options = {kind % 4,
                                           kind % 4 == EIE_CODEC_CONTEXT ? 0
                                           : kind / 4 == 5               ? 3
                                                                         : 0,
                                           kind % 4};
            uint8_t *payload;
            size_t size;
            require(eie_payload_encode(&weight, &options, &payload, &size) == EIE_OK, "a seed does not encode");
            require(both_ways(payload, size) == EIE_OK, "a seed does not decode");
            keep(payload, size);
            eie_payload_free(payload);
        }
}

static size_t mutate(uint8_t *data, size_t size) {
    static const uint8_t odd[] = {0, 1, 127, 128, 255, 16, 64, 2};
    for (uint64_t times = 1 + draw(4); times > 0; times--) {
        size_t at = (size_t)draw(draw(2) && size > 40 ? 40 : size), length = 1 + (size_t)draw(8);
        switch (draw(7)) {
        case 0: data[at] ^= (uint8_t)(1u << draw(8)); break;
        case 1: data[at] = (uint8_t)draw(256); break;
        case 2: data[at] = odd[draw(sizeof odd)]; break;
        case 3: data[at] = (uint8_t)(data[at] + (draw(2) ? 1 : 255)); break;
        case 4: /* cut out */
            if (size < at + length + 8) break;
            memmove(data + at, data + at + length, size - at - length);
            size -= length;
            break;
        case 5: /* double */
            if (size + length > MOST || at + length > size) break;
            memmove(data + at + length, data + at, size - at);
            size += length;
            break;
        default: { /* a piece of another input */
            const input *other = &pool[draw(pool_size)];
            size_t from = (size_t)draw(other->size);
            for (size_t i = 0; i < length && at + i < size && from + i < other->size; i++)
                data[at + i] = other->data[from + i];
        }
        }
    }
    return size;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "fuzz_payload SECONDS [SEED-FILE...]\n");
        return 2;
    }
    static uint8_t buffer[MOST + 64];
    make_seeds();
    for (int i = 2; i < count; i++) {
        FILE *file = fopen(arguments[i], "rb");
        require(file != NULL, arguments[i]);
        size_t size = fread(buffer, 1, MOST, file);
        fclose(file);
        both_ways(buffer, size);
        if (size >= 8) keep(buffer, size);
    }
    time_t end = time(NULL) + atoi(arguments[1]);
    uint64_t runs = 0, decoded = 0;
    while (time(NULL) < end)
        for (int batch = 0; batch < 256; batch++, runs++) {
            const input *seed = &pool[draw(pool_size)];
            size_t size = seed->size;
            memcpy(buffer, seed->data, size);
            size = mutate(buffer, size);
            if (both_ways(buffer, size) != EIE_OK) continue;
            decoded++;
            if (draw(8) == 0) keep(buffer, size);
        }
    for (size_t i = 0; i < pool_size; i++) free(pool[i].data);
    printf("%llu inputs, %llu of them decoded, no failure\n", (unsigned long long)runs, (unsigned long long)decoded);
    return 0;
}
#endif
