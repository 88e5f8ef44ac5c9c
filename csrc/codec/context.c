/* Places and values by context modelling: every binary decision is coded with a probability learned from what went
 * before in like circumstances. Encoder and decoder are the same walk over the weight, compiled twice.
 *
 * Places. Inside a kernel the circumstance is which positions before this one are taken; without a kernel, how full the
 * column has been so far and how full the row has been lately.
 * Values. Codes are ranks of values, so near codes are near values, and the distance from the first positive code says
 * how large a value is. The four highest bits are coded knowing how large the values of this column and of this row
 * are, and what stands left and above in the kernel. Lower bits look at the higher ones only, and the lowest may be
 * stored as they are: where a distribution is smooth, learning them costs more than it wins.
 */
#include "codec/codec.h"
#include "codec/bits.h"
#include "codec/range.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 4096, /* elements handled at a time: places, then values */
    SLOTS = 256,  /* chunks of a row that have statistics of their own; longer rows share */
    PAST = 9,     /* positions of a kernel that place contexts look back */
    SCALES = 6,
    NEIGHBOURS = 9, /* circumstances of a value */
    CLASS_BITS = 4,
    CLASSES = 1 << CLASS_BITS,
    FAR = 2560 /* above the largest weighted sum of three neighbours: 5 * 511 */
};

typedef struct {
    eie_steps steps;
    eie_bit flat[8][8];              /* [fullness of the column][of the row] */
    eie_bit kernel[PAST][1 << PAST]; /* [position in the kernel][which of those before are taken] */
    eie_bit high[SCALES][NEIGHBOURS][CLASSES];
    eie_bit low[256];
    uint32_t depth, high_bits, raw_bits;
    int32_t signed_rank[CLASSES]; /* of a class's middle: odd, negative below zero */
    int32_t size[CLASSES];        /* its logarithm, 1/2048 octaves */
    uint8_t logarithm[FAR];       /* 1/8 octaves */
    int32_t typical;              /* size of all values so far */
    uint32_t seen;                /* up to 32 */
    uint16_t *fullness;           /* a column's, 1/65536 */
    int16_t *column_size;         /* -1: no value yet */
    uint32_t row_fullness, row_before, start_fullness;
    int32_t row_size, size_before; /* ... the latter less twice the typical one */
    uint16_t list[CHUNK];          /* the chunk's elements that are not zero */
    uint8_t position[CHUNK];       /* in the kernel */
    int32_t left[EIE_MAX_KERNEL], up[EIE_MAX_KERNEL],
        up_right[EIE_MAX_KERNEL]; /* all ones where there is one, else 0 */
    int16_t ranks[2 * EIE_MAX_KERNEL + CHUNK];
} model;

uint32_t eie_kernel_rank(const uint64_t *dims, uint32_t rank) {
    uint64_t positions = 1;
    for (uint32_t i = 2; i < rank; i++) {
        /* the third dimension of an LSTM's weight is no kernel: too large for one */
        if (!dims[i] || dims[i] > EIE_MAX_KERNEL || positions * dims[i] > EIE_MAX_KERNEL) return 0;
        positions *= dims[i];
    }
    return rank > 2 ? rank - 2 : 0;
}

void eie_context_geometry(eie_context_shape *shape, const uint64_t *dims, uint32_t rank, uint32_t kernel_rank) {
    shape->rows = shape->columns = shape->kernel = shape->kernel_width = 1;
    for (uint32_t i = 0; i < rank; i++) {
        if (i >= rank - kernel_rank) shape->kernel *= (uint32_t)dims[i];
        else if (i + 1 == rank - kernel_rank) shape->columns = dims[i];
        else shape->rows *= dims[i];
    }
    if (kernel_rank) shape->kernel_width = (uint32_t)dims[rank - 1];
}

uint32_t eie_context_depth(uint32_t symbols) {
    uint32_t depth = 0;
    while (symbols > 1u << depth) depth++;
    return depth;
}

static double log2_factorial(double n) {
    return n < 1 ? 0 : n * log2(n / 2.718281828459045) + 0.5 * log2(6.283185307179586 * n) + 0.12 / n;
}

/* How many low bits are not worth learning: it would save less than a 200th of them, and cost time. What a learning bit
 * costs is about log2 of (n0 + n1 + 1)! / (n0! n1!). */
uint32_t eie_context_raw_bits(const uint64_t *counts, uint32_t symbols) {
    uint32_t depth = eie_context_depth(symbols), raw = 0;
    double total = 0;
    for (uint32_t s = 0; s < symbols; s++) total += (double)counts[s];
    for (; raw + CLASS_BITS < depth; raw++) {
        double cost = 0, n[2];
        for (uint32_t node = 0; node < 1u << (depth - raw - 1); node++) {
            n[0] = n[1] = 0;
            for (uint32_t i = 0, s = node << (raw + 1); i < 2u << raw && s < symbols; i++, s++)
                n[i >> raw] += (double)counts[s];
            cost += log2_factorial(n[0] + n[1] + 1) - log2_factorial(n[0]) - log2_factorial(n[1]);
        }
        if (cost < 0.995 * total) break;
    }
    return raw;
}

/* 8 log2 x, linear between powers of two; x > 0. */
static int32_t log_eighths(uint32_t x) {
    uint32_t octave = 0;
    while (x >> (octave + 1)) octave++;
    return (int32_t)(8 * octave + ((8 * (x - (1u << octave))) >> octave));
}

/* Whole kernels. */
static uint32_t chunk_length(const eie_context_shape *shape) {
    return CHUNK / shape->kernel * shape->kernel;
}

static model *model_new(const eie_context_shape *shape) {
    uint64_t length = shape->columns * shape->kernel, slots = length / chunk_length(shape) + 1;
    size_t columns = (size_t)(slots < SLOTS ? slots : SLOTS) * CHUNK;
    model *m = malloc(sizeof *m);
    if (!m) return NULL;
    m->fullness = malloc(columns * sizeof *m->fullness);
    m->column_size = malloc(columns * sizeof *m->column_size);
    if (!m->fullness || !m->column_size) {
        free(m->fullness);
        free(m->column_size);
        free(m);
        return NULL;
    }
    eie_steps_fill(&m->steps);
    eie_bits_even(m->flat[0], sizeof m->flat / sizeof(eie_bit));
    eie_bits_even(m->kernel[0], sizeof m->kernel / sizeof(eie_bit));
    eie_bits_even(m->high[0][0], sizeof m->high / sizeof(eie_bit));
    eie_bits_even(m->low, sizeof m->low / sizeof(eie_bit));
    m->depth = eie_context_depth(shape->symbols);
    m->high_bits = m->depth < CLASS_BITS ? m->depth : CLASS_BITS;
    m->raw_bits = shape->raw_bits;
    uint32_t coarse = m->depth - m->high_bits;
    for (uint32_t g = 0; g < CLASSES; g++) {
        uint32_t middle = (g << coarse) + (1u << coarse >> 1);
        if (middle + 1 > shape->symbols) middle = shape->symbols ? shape->symbols - 1 : 0;
        m->signed_rank[g] = 2 * ((int32_t)middle - (int32_t)shape->negative) + 1;
        m->size[g] = log_eighths((uint32_t)abs(m->signed_rank[g])) << 8;
    }
    m->typical = log_eighths(shape->symbols ? shape->symbols : 1) << 8;
    m->seen = 0;
    uint64_t elements = shape->rows * length;
    m->start_fullness = elements ? (uint32_t)((double)shape->nonzeros / (double)elements * 65535) : 0;
    for (size_t i = 0; i < columns; i++) {
        m->fullness[i] = (uint16_t)m->start_fullness;
        m->column_size[i] = -1;
    }
    for (uint32_t i = 0; i < CHUNK; i++) m->position[i] = (uint8_t)(i % shape->kernel);
    for (uint32_t q = 0; q < shape->kernel; q++) {
        uint32_t x = q % shape->kernel_width, below = q >= shape->kernel_width;
        m->left[q] = x > 0 ? -1 : 0;
        m->up[q] = below ? -1 : 0;
        m->up_right[q] = below && x == 0 && shape->kernel_width > 1 ? -1 : 0;
    }
    if (shape->kernel > 1) {
        m->logarithm[0] = 0;
        for (uint32_t i = 1; i < FAR; i++) m->logarithm[i] = (uint8_t)log_eighths(i);
    }
    memset(m->ranks, 0, sizeof m->ranks);
    return m;
}

static void model_free(model *m) {
    if (!m) return;
    free(m->fullness);
    free(m->column_size);
    free(m);
}

/* Places of `count` elements of a row without kernel; lists those that are not zero. */
EIE_INLINE uint32_t places_flat(model *m, eie_range *range, uint8_t *codes, uint32_t count, uint16_t *fullness,
                                const int encoding) {
    eie_range r = *range;
    uint32_t row = m->row_fullness, before = m->row_before, listed = 0;
    for (uint32_t i = 0; i < count; i++) {
        /* the row as it was before the last element: so a decoder need not wait for that one to know where to look */
        uint32_t column = fullness[i];
        eie_bit *bit = &m->flat[column >> 13][before >> 13];
        uint32_t taken = eie_range_adaptive(&r, bit, &m->steps, encoding && codes[i], encoding);
        before = row;
        if (!encoding) codes[i] = (uint8_t)taken;
        m->list[listed] = (uint16_t)i;
        listed += taken;
        uint32_t flip = (0u - taken) & 0xffff, c = column ^ flip, d = row ^ flip;
        fullness[i] = (uint16_t)((c - (c >> 4)) ^ flip);
        row = (d - (d >> 4)) ^ flip;
    }
    m->row_fullness = row;
    m->row_before = before;
    *range = r;
    return listed;
}

/* The same with a kernel. */
EIE_INLINE uint32_t places_kernel(model *m, eie_range *range, uint8_t *codes, uint32_t count, uint32_t kernel,
                                  const int encoding) {
    eie_range r = *range;
    uint32_t listed = 0;
    for (uint32_t start = 0; start < count; start += kernel) {
        uint32_t past = 0;
        eie_bit s = m->kernel[0][0];
        for (uint32_t q = 0; q < kernel; q++) {
            uint32_t i = start + q;
            eie_bit *bit = &m->kernel[q < PAST ? q : PAST - 1][past];
            eie_bit *next = &m->kernel[q + 1 < PAST ? q + 1 : PAST - 1][past << 1 & ((1u << PAST) - 2)];
            eie_bit zero = next[0], one = next[1];
            uint32_t taken = eie_range_learn(&r, bit, s, &m->steps, encoding && codes[i], encoding);
            if (!encoding) codes[i] = (uint8_t)taken;
            m->list[listed] = (uint16_t)i;
            listed += taken;
            past = (past << 1 | taken) & ((1u << PAST) - 1);
            /* late positions share their bits: the next one may be the one just learned */
            s = q + 1 < PAST ? eie_range_select(zero, one, taken) : next[taken];
        }
    }
    *range = r;
    return listed;
}

/* Nine circumstances: nothing before in the kernel, or the sign and four sizes, against the typical one, of what is. */
static inline uint32_t neighbourhood(const model *m, const int16_t *ranks, uint32_t q, uint32_t width,
                                     int32_t typical) {
    int32_t sum = 2 * ((ranks[-1] & m->left[q]) + (ranks[-(int32_t)width] & m->up[q])) +
                  (ranks[1 - (int32_t)width] & m->up_right[q]);
    int32_t size = ((int32_t)m->logarithm[sum < 0 ? -sum : sum] << 8) - 2048 - typical;
    uint32_t context = 1u + (size >= -2304) + (size >= -768) + (size >= 768) + (sum < 0 ? 4u : 0u);
    return sum ? context : 0;
}

/* Highest bits and the rest are coded apart: neither waits for the other, so a processor decodes both at once. */
typedef struct {
    eie_range places, high, low;
    eie_bit_reader reader; /* of raw bits */
    eie_bit_writer writer;
} streams;

/* Codes of the listed elements. 0 when one is past the last symbol. */
EIE_INLINE int values(model *m, streams *s, uint8_t *codes, uint32_t listed, int16_t *column_size, uint32_t symbols,
                      uint32_t width, const int kernel, const int encoding) {
    eie_range high = s->high, low = s->low;
    eie_bit_reader reader = s->reader;
    eie_bit_writer writer = s->writer;
    const uint32_t high_bits = m->high_bits, low_bits = m->depth - high_bits - m->raw_bits, raw_bits = m->raw_bits;
    int32_t typical = m->typical, row = m->row_size, before = m->size_before;
    uint32_t bad = 0;
    int16_t *ranks = m->ranks + 2 * EIE_MAX_KERNEL;
    if (kernel) memset(ranks, 0, CHUNK * sizeof *ranks);
    for (uint32_t t = 0; t < listed; t++) {
        uint32_t i = m->list[t], symbol = encoding ? codes[i] - 1u : 0;
        int32_t column = column_size[i] < 0 ? typical : column_size[i];
        int32_t scale = ((column + before) >> 10) + SCALES / 2;
        scale = scale < 0 ? 0 : scale > SCALES - 1 ? SCALES - 1 : scale;
        uint32_t near = kernel ? neighbourhood(m, ranks + i, m->position[i], width, typical) : 0;
        uint32_t class = eie_range_tree(&high, m->high[scale][near], high_bits, &m->steps,
                                        symbol >> (low_bits + raw_bits), encoding);
        uint32_t node = 1u << high_bits | class;
        node = eie_range_descend(&low, m->low, node, low_bits, &m->steps, symbol >> raw_bits, encoding);
        if (encoding) {
            if (raw_bits) eie_bits_put(&writer, symbol & ((1u << raw_bits) - 1), raw_bits);
        } else {
            symbol = node - (1u << (high_bits + low_bits));
            if (raw_bits) {
                eie_bits_fill(&reader);
                symbol = symbol << raw_bits | eie_bits_take(&reader, raw_bits);
            }
            bad |= symbol >= symbols;
            codes[i] = (uint8_t)(symbol + 1);
        }
        int32_t size = m->size[class];
        if (kernel) ranks[i] = (int16_t)m->signed_rank[class];
        before = row - 2 * typical; /* as it was before this value, for the same reason as in places_flat */
        typical += (size - typical) >> (m->seen < 32 ? 3 : 9);
        m->seen += m->seen < 32;
        column_size[i] = (int16_t)(column + ((size - column) >> 2));
        row += (size - row) >> 3;
    }
    m->typical = typical;
    m->row_size = row;
    m->size_before = before;
    s->high = high;
    s->low = low;
    s->reader = reader;
    s->writer = writer;
    return !bad;
}

/* The whole weight. Returns how many elements are not zero, or UINT64_MAX where a code is impossible. */
EIE_INLINE uint64_t walk(model *m, streams *s, uint8_t *codes, const eie_context_shape *shape, const int encoding) {
    uint64_t total = 0, length = shape->columns * shape->kernel;
    uint32_t chunk = chunk_length(shape);
    for (uint64_t row = 0; row < shape->rows; row++) {
        m->row_fullness = m->row_before = m->start_fullness;
        m->row_size = m->typical;
        m->size_before = -m->typical;
        size_t slot = 0;
        for (uint64_t start = 0; start < length; start += chunk, slot = (slot + 1) % SLOTS) {
            uint8_t *here = codes + row * length + start;
            uint32_t count = length - start < chunk ? (uint32_t)(length - start) : chunk, listed;
            if (shape->kernel > 1) listed = places_kernel(m, &s->places, here, count, shape->kernel, encoding);
            else listed = places_flat(m, &s->places, here, count, m->fullness + slot * CHUNK, encoding);
            total += listed;
            int16_t *sizes = m->column_size + slot * CHUNK;
            int good = shape->kernel > 1
                           ? values(m, s, here, listed, sizes, shape->symbols, shape->kernel_width, 1, encoding)
                           : values(m, s, here, listed, sizes, shape->symbols, 1, 0, encoding);
            if (!good) return UINT64_MAX;
        }
    }
    return total;
}

eie_status eie_context_encode(const uint8_t *codes, const eie_context_shape *shape, eie_buffer *places,
                              eie_buffer *values_out) {
    model *m = model_new(shape);
    if (!m) return EIE_E_MEMORY;
    eie_buffer high = {0}, low = {0}, raw = {0};
    streams s = {eie_range_writer(places), eie_range_writer(&high), eie_range_writer(&low), {0}, {&raw, 0, 0}};
    walk(m, &s, (uint8_t *)codes, shape, 1); /* encoding, it writes no code */
    model_free(m);
    eie_range_finish(&s.places);
    eie_range_finish(&s.high);
    eie_range_finish(&s.low);
    eie_bits_flush(&s.writer);
    if (low.size || high.size || raw.size) eie_buffer_varint(values_out, low.size);
    eie_buffer_append(values_out, high.data, high.size);
    eie_buffer_append(values_out, low.data, low.size);
    eie_buffer_append(values_out, raw.data, raw.size);
    eie_status status =
        high.failed || low.failed || raw.failed || places->failed || values_out->failed ? EIE_E_MEMORY : EIE_OK;
    eie_buffer_free(&high);
    eie_buffer_free(&low);
    eie_buffer_free(&raw);
    return status;
}

eie_status eie_context_decode(uint8_t *codes, const eie_context_shape *shape, const uint8_t *places, size_t places_size,
                              const uint8_t *values_in, size_t values_size) {
    uint64_t raw_size = eie_packed_bytes(shape->nonzeros, shape->raw_bits);
    eie_cursor cursor = {values_in, values_in + values_size, EIE_OK};
    uint64_t low_size = values_size ? eie_read_varint(&cursor) : 0, left = (uint64_t)(cursor.end - cursor.at);
    if (cursor.status || raw_size > left || low_size > left - raw_size) return EIE_E_CORRUPT;
    const uint8_t *raw = cursor.end - raw_size, *low = raw - low_size;
    model *m = model_new(shape);
    if (!m) return EIE_E_MEMORY;
    streams s = {eie_range_reader(places, places_size),
                 eie_range_reader(cursor.at, (size_t)(low - cursor.at)),
                 eie_range_reader(low, (size_t)low_size),
                 eie_bits_open(raw, (size_t)raw_size),
                 {0}};
    uint64_t found = walk(m, &s, codes, shape, 0);
    model_free(m);
    int closed =
        s.places.at == s.places.end && s.high.at == s.high.end && s.low.at == s.low.end && eie_bits_closed(&s.reader);
    return found == shape->nonzeros && closed ? EIE_OK : EIE_E_CORRUPT;
}
