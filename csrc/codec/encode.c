/* Writing payloads: relabel the codes by value, try every way to store them, keep the smallest. */
#include "codec/bits.h"
#include "codec/codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDEST = 8, NARROWEST = 2 }; /* gaps, in bits */

/* What the weight is, in the codec's terms. */
typedef struct {
    const uint64_t *dims;
    uint32_t rank, pattern;
    uint64_t elements, nonzeros;
    uint8_t *codes;    /* relabelled */
    float values[255]; /* ascending; code 1 is the first */
    uint32_t symbols;
    uint64_t counts[256];           /* of each code */
    uint64_t gaps[WIDEST + 1][256]; /* [width][gap], fillers' gaps left out */
    uint64_t fillers[WIDEST + 1];
    eie_buffer codebook;
    uint32_t codebook_coded;
} subject;

/* One way to store it. Sizes are known before a byte of raw or Huffman is written. */
typedef struct {
    uint32_t code_codec, index_codec, index_bits, raw_bits, kernel_rank;
    uint64_t entries;
    uint64_t code_bytes, index_bytes;
    eie_buffer code_table, index_table;
    uint8_t code_lengths[256], index_lengths[256];
    uint64_t total;
} plan;

static void plan_free(plan *p) {
    eie_buffer_free(&p->code_table);
    eie_buffer_free(&p->index_table);
}

static void write_header(eie_buffer *out, const subject *s, const plan *p) {
    const uint8_t head[9] = {'E',
                             'I',
                             'E',
                             EIE_PAYLOAD_VERSION,
                             (uint8_t)(s->rank | p->kernel_rank << 4),
                             (uint8_t)(p->code_codec | p->index_codec << 4),
                             (uint8_t)(p->index_bits | p->raw_bits << 4),
                             (uint8_t)(s->pattern | s->codebook_coded << 4),
                             (uint8_t)s->symbols};
    eie_buffer_append(out, head, sizeof head);
    for (uint32_t i = 0; i < s->rank; i++) eie_buffer_varint(out, s->dims[i]);
    if (p->index_codec) eie_buffer_varint(out, p->entries);
    if (s->codebook_coded) eie_buffer_varint(out, s->codebook.size);
    if (p->code_codec == EIE_CODEC_HUFFMAN) eie_buffer_varint(out, p->code_table.size);
    if (p->index_codec == EIE_CODEC_HUFFMAN) eie_buffer_varint(out, p->index_table.size);
    if (p->code_codec != EIE_CODEC_RAW) eie_buffer_varint(out, p->code_bytes);
    if (p->index_codec > EIE_CODEC_RAW) eie_buffer_varint(out, p->index_bytes);
}

static eie_status measure(const subject *s, plan *p) {
    eie_buffer header = {0};
    write_header(&header, s, p);
    p->total =
        header.size + s->codebook.size + p->code_table.size + p->index_table.size + p->code_bytes + p->index_bytes + 4;
    eie_status status = header.failed || p->code_table.failed || p->index_table.failed ? EIE_E_MEMORY : EIE_OK;
    eie_buffer_free(&header);
    return status;
}

static uint32_t code_bits(const subject *s) {
    uint32_t bits = eie_context_depth(s->symbols + 1);
    return bits ? bits : 1;
}

/* Bytes of one stream; fills lengths and table when it is Huffman. */
static uint64_t stream_bytes(uint32_t codec, const uint64_t *counts, uint32_t symbols, uint64_t entries, uint32_t bits,
                             uint8_t *lengths, eie_buffer *table) {
    if (codec == EIE_CODEC_RAW) return eie_packed_bytes(entries, bits);
    uint64_t sum = 0;
    eie_huffman_lengths(counts, symbols, lengths);
    eie_huffman_table_encode(table, lengths, symbols);
    for (uint32_t i = 0; i < symbols; i++) sum += counts[i] * lengths[i];
    return (sum + 7) / 8;
}

/* index_bits 0: zeros stay codes. */
static eie_status plan_simple(const subject *s, uint32_t code_codec, uint32_t index_codec, uint32_t index_bits,
                              plan *p) {
    uint64_t codes[256], gaps[256];
    memset(p, 0, sizeof *p);
    memcpy(codes, s->counts, sizeof codes);
    p->index_bits = index_bits;
    p->entries = s->elements;
    if (index_bits) {
        memcpy(gaps, s->gaps[index_bits], sizeof gaps);
        p->entries = s->nonzeros + s->fillers[index_bits];
        codes[0] = s->fillers[index_bits];
        gaps[(1u << index_bits) - 1] += s->fillers[index_bits];
    }
    /* a stream without entries is raw: it has no code */
    p->code_codec = p->entries ? code_codec : EIE_CODEC_RAW;
    p->index_codec = !index_bits ? 0 : p->entries ? index_codec : EIE_CODEC_RAW;
    p->code_bytes =
        stream_bytes(p->code_codec, codes, s->symbols + 1, p->entries, code_bits(s), p->code_lengths, &p->code_table);
    if (index_bits)
        p->index_bytes = stream_bytes(p->index_codec, gaps, 1u << index_bits, p->entries, index_bits, p->index_lengths,
                                      &p->index_table);
    return measure(s, p);
}

/* Keeps the smaller in *best; total 0: none yet. */
static void keep(plan *best, plan *next) {
    if (best->total && best->total <= next->total) {
        plan_free(next);
        return;
    }
    plan_free(best);
    *best = *next;
}

static eie_status plan_best(const subject *s, const eie_payload_options *o, plan *best) {
    static const uint32_t codecs[2] = {EIE_CODEC_RAW, EIE_CODEC_HUFFMAN};
    uint32_t forced = o->codec == EIE_CODEC_CONTEXT ? EIE_CODEC_AUTO : o->codec;
    for (uint32_t width = 0; width <= WIDEST; width++) {
        if (width == 1 || (o->index_bits && width != o->index_bits)) continue;
        for (uint32_t way = 0; way < 4; way++) {
            uint32_t code = codecs[way >> 1], index = codecs[way & 1];
            plan next;
            if ((forced && (code != forced || index != forced)) || (!width && code != index)) continue;
            eie_status status = plan_simple(s, code, index, width, &next);
            if (status) {
                plan_free(&next);
                return status;
            }
            keep(best, &next);
        }
    }
    return EIE_OK;
}

typedef struct {
    eie_bit_writer writer;
    const uint16_t *words;
    const uint8_t *lengths; /* NULL: raw */
    uint32_t bits;
} field_writer;

static inline void put_field(field_writer *w, uint32_t value) {
    if (w->lengths) eie_bits_put(&w->writer, w->words[value], w->lengths[value]);
    else eie_bits_put(&w->writer, value, w->bits);
}

static void write_simple(eie_buffer *codes_out, eie_buffer *gaps_out, const subject *s, const plan *p) {
    uint16_t code_words[256], gap_words[256];
    field_writer code = {{codes_out, 0, 0}, code_words, NULL, code_bits(s)},
                 gap = {{gaps_out, 0, 0}, gap_words, NULL, p->index_bits};
    if (p->code_codec == EIE_CODEC_HUFFMAN) {
        eie_huffman_words(p->code_lengths, s->symbols + 1, code_words);
        code.lengths = p->code_lengths;
    }
    if (p->index_codec == EIE_CODEC_HUFFMAN) {
        eie_huffman_words(p->index_lengths, 1u << p->index_bits, gap_words);
        gap.lengths = p->index_lengths;
    }
    uint64_t zeros = 0, most = ((uint64_t)1 << p->index_bits) - 1;
    for (uint64_t i = 0; i < s->elements; i++) {
        if (p->index_codec && s->codes[i] == 0) {
            /* 2^bits zeros: a filler, which is itself the last of them. At the end of the weight as well. */
            if (zeros++ < most) continue;
            zeros = most;
        }
        put_field(&code, s->codes[i]);
        if (p->index_codec) put_field(&gap, (uint32_t)zeros);
        zeros = 0;
    }
    eie_bits_flush(&code.writer);
    eie_bits_flush(&gap.writer);
}

/* Relabels by value: fills codes, values, counts. */
static eie_status relabel(subject *s, const eie_weight *w) {
    uint64_t seen[256] = {0};
    uint8_t label[256] = {0};
    for (uint64_t i = 0; i < s->elements; i++) seen[w->codes[i]]++;
    for (uint32_t c = 0; c < 256; c++) {
        if (c < w->codebook_size ? !isfinite(w->codebook[c]) : seen[c] != 0) return EIE_E_ARGUMENT;
        if (!seen[c] || w->codebook[c] == 0) continue;
        float value = w->codebook[c];
        uint32_t at = 0;
        while (at < s->symbols && s->values[at] < value) at++;
        if (at < s->symbols && s->values[at] == value) continue;
        memmove(s->values + at + 1, s->values + at, (s->symbols - at) * sizeof *s->values);
        s->values[at] = value;
        s->symbols++;
    }
    for (uint32_t c = 0; c < w->codebook_size; c++) {
        if (!seen[c]) continue;
        for (uint32_t v = 0; v < s->symbols; v++)
            if (s->values[v] == w->codebook[c]) label[c] = (uint8_t)(v + 1);
        s->counts[label[c]] += seen[c];
    }
    s->nonzeros = s->elements - s->counts[0];
    for (uint64_t i = 0; i < s->elements; i++) s->codes[i] = label[w->codes[i]];
    return EIE_OK;
}

static void count_gaps(subject *s) {
    uint64_t run = 0;
    for (uint64_t i = 0; i <= s->elements; i++) {
        if (i < s->elements && s->codes[i] == 0) {
            run++;
            continue;
        }
        for (uint32_t b = NARROWEST; b <= WIDEST; b++) {
            s->fillers[b] += run >> b;
            if (i < s->elements) s->gaps[b][run & ((1u << b) - 1)]++;
        }
        run = 0;
    }
}

static void encode_codebook(subject *s) {
    eie_codebook_encode(&s->codebook, s->values, s->symbols);
    s->codebook_coded = s->codebook.size + 2 < 4 * (size_t)s->symbols;
    if (s->codebook_coded) return;
    s->codebook.size = 0;
    for (uint32_t i = 0; i < s->symbols; i++) {
        uint32_t bits;
        memcpy(&bits, s->values + i, 4);
        for (uint32_t k = 0; k < 4; k++) eie_buffer_byte(&s->codebook, bits >> (8 * k) & 255);
    }
}

/* Context modelling, into the two buffers. *fits 0: it is so small that its size could not back the announced elements.
 */
static eie_status plan_context(const subject *s, plan *p, eie_buffer *places, eie_buffer *values, int *fits) {
    eie_context_shape shape;
    memset(p, 0, sizeof *p);
    *fits = 0;
    if (!s->elements) return EIE_OK;
    p->code_codec = p->index_codec = EIE_CODEC_CONTEXT;
    p->entries = s->nonzeros;
    p->kernel_rank = eie_kernel_rank(s->dims, s->rank);
    p->raw_bits = eie_context_raw_bits(s->counts + 1, s->symbols);
    eie_context_geometry(&shape, s->dims, s->rank, p->kernel_rank);
    shape.nonzeros = s->nonzeros;
    shape.symbols = s->symbols;
    shape.raw_bits = p->raw_bits;
    for (shape.negative = 0; shape.negative < s->symbols && s->values[shape.negative] < 0;) shape.negative++;
    eie_status status = eie_context_encode(s->codes, &shape, places, values);
    if (status) return status;
    p->code_bytes = values->size;
    p->index_bytes = places->size;
    status = measure(s, p);
    *fits = s->elements <= p->total * EIE_ELEMENTS_PER_BYTE + EIE_ELEMENTS_FREE;
    return status;
}

static eie_status write_payload(const subject *s, const eie_payload_options *o, eie_buffer *out) {
    eie_buffer places = {0}, values = {0};
    plan best, context;
    int fits = 0;
    memset(&best, 0, sizeof best);
    eie_status status = plan_best(s, o, &best);
    int wanted = !o->index_bits && (o->codec == EIE_CODEC_AUTO || o->codec == EIE_CODEC_CONTEXT);
    if (!status && wanted) status = plan_context(s, &context, &places, &values, &fits);
    if (!status && fits && (o->codec == EIE_CODEC_CONTEXT || context.total < best.total)) {
        plan_free(&best);
        best = context;
    } else if (!status) {
        places.size = values.size = 0;
        write_simple(&values, &places, s, &best);
    }
    if (!status) {
        eie_buffer_reserve(out, (size_t)best.total);
        write_header(out, s, &best);
        eie_buffer_append(out, s->codebook.data, s->codebook.size);
        eie_buffer_append(out, best.code_table.data, best.code_table.size);
        eie_buffer_append(out, best.index_table.data, best.index_table.size);
        eie_buffer_append(out, values.data, values.size);
        eie_buffer_append(out, places.data, places.size);
        uint32_t crc = out->failed ? 0 : eie_crc32(out->data, out->size);
        for (uint32_t k = 0; k < 4; k++) eie_buffer_byte(out, crc >> (8 * k) & 255);
        if (out->failed || values.failed || places.failed || s->codebook.failed) status = EIE_E_MEMORY;
    }
    plan_free(&best);
    eie_buffer_free(&places);
    eie_buffer_free(&values);
    return status;
}

static int options_fit(const eie_payload_options *o) {
    if (o->codec > EIE_CODEC_CONTEXT || o->pattern > 3) return 0;
    return !o->index_bits || (o->index_bits >= NARROWEST && o->index_bits <= WIDEST && o->codec != EIE_CODEC_CONTEXT);
}

eie_status eie_payload_encode(const eie_weight *weight, const eie_payload_options *options, uint8_t **payload,
                              size_t *size) {
    eie_payload_options defaults = {0}, o = options ? *options : defaults;
    if (!payload || !size) return EIE_E_ARGUMENT;
    *payload = NULL;
    *size = 0;
    if (!weight || !weight->codebook || weight->rank > EIE_MAX_RANK || weight->codebook_size < 1 ||
        weight->codebook_size > 256 || weight->codebook[0] != 0 || (weight->rank && !weight->dims) || !options_fit(&o))
        return EIE_E_ARGUMENT;
    uint64_t elements = 1;
    int empty = 0;
    for (uint32_t i = 0; i < weight->rank; i++) {
        if (weight->dims[i] >> 62) return EIE_E_ARGUMENT;
        empty |= weight->dims[i] == 0;
    }
    for (uint32_t i = 0; i < weight->rank && !empty; i++) {
        if (weight->dims[i] > ((uint64_t)1 << 48) / elements) return EIE_E_ARGUMENT;
        elements *= weight->dims[i];
    }
    if (empty) elements = 0;
    if ((elements && !weight->codes) || elements > SIZE_MAX / 2) return EIE_E_ARGUMENT;
    subject *s = calloc(1, sizeof *s);
    if (!s) return EIE_E_MEMORY;
    s->dims = weight->dims;
    s->rank = weight->rank;
    s->pattern = o.pattern;
    s->elements = elements;
    s->codes = malloc((size_t)elements + 1);
    eie_buffer out = {0};
    eie_status status = s->codes ? relabel(s, weight) : EIE_E_MEMORY;
    if (!status) {
        count_gaps(s);
        encode_codebook(s);
        status = write_payload(s, &o, &out);
    }
    free(s->codes);
    eie_buffer_free(&s->codebook);
    free(s);
    if (status) {
        eie_buffer_free(&out);
        return status;
    }
    *payload = out.data;
    *size = out.size;
    return EIE_OK;
}

void eie_payload_free(uint8_t *payload) {
    free(payload);
}
