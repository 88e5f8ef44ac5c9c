/* Reading payloads: the header, and the way back to codes. Everything here takes bytes from strangers. */
#include "codec/bits.h"
#include "codec/codec.h"

#include <string.h>

const char *eie_status_message(eie_status status) {
    switch (status) {
    case EIE_OK: return "all is well";
    case EIE_E_TRUNCATED: return "the payload ends before what it announces";
    case EIE_E_MAGIC: return "this is no EIE payload";
    case EIE_E_VERSION: return "the payload is of a newer version than this library";
    case EIE_E_CHECKSUM: return "the payload is damaged: its checksum does not match";
    case EIE_E_CORRUPT: return "the payload's contents are impossible";
    case EIE_E_SHAPE: return "weight, parameters and input do not fit each other";
    case EIE_E_UNSUPPORTED: return "valid, but nothing here computes it";
    case EIE_E_MEMORY: return "out of memory";
    case EIE_E_ARGUMENT: return "an argument is out of its range";
    }
    return "unknown status";
}

uint64_t eie_packed_bytes(uint64_t count, uint32_t bits) {
    return count / 8 * bits + (count % 8 * bits + 7) / 8;
}

static uint32_t read_byte(eie_cursor *c) {
    if (c->at == c->end) {
        c->status = EIE_E_TRUNCATED;
        return 0;
    }
    return *c->at++;
}

uint64_t eie_read_varint(eie_cursor *c) {
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 63; shift += 7) {
        uint32_t byte = read_byte(c);
        value |= (uint64_t)(byte & 127) << shift;
        if (byte & 128) continue;
        if ((shift && !byte) || value >> 62) break;
        return value;
    }
    if (!c->status) c->status = EIE_E_CORRUPT;
    return 0;
}

static eie_status read_dims(eie_cursor *c, size_t size, eie_payload_info *info) {
    uint64_t most = (uint64_t)size * EIE_ELEMENTS_PER_BYTE + EIE_ELEMENTS_FREE, product = 1;
    int empty = 0;
    for (uint32_t i = 0; i < info->rank; i++) {
        info->dims[i] = eie_read_varint(c);
        empty |= info->dims[i] == 0;
    }
    if (c->status) return c->status;
    for (uint32_t i = 0; i < info->rank && !empty; i++) {
        if (info->dims[i] > most / product) return EIE_E_CORRUPT;
        product *= info->dims[i];
    }
    info->elements = empty ? 0 : product;
    return EIE_OK;
}

/* What the codecs, the counts and the code widths may be, together. */
static int fits(const eie_layout *l) {
    const eie_payload_info *i = &l->info;
    int relative = i->index_codec == EIE_CODEC_RAW || i->index_codec == EIE_CODEC_HUFFMAN;
    if (i->pattern > 3 || l->codebook_coded > 1 || l->kernel_rank > (i->rank > 2 ? i->rank - 2 : 0)) return 0;
    if (i->code_codec < EIE_CODEC_RAW || i->code_codec > EIE_CODEC_CONTEXT || i->index_codec > EIE_CODEC_CONTEXT)
        return 0;
    if ((i->code_codec == EIE_CODEC_CONTEXT) != (i->index_codec == EIE_CODEC_CONTEXT)) return 0;
    if (relative ? i->index_bits < 2 || i->index_bits > 8 : i->index_bits != 0) return 0;
    if (i->entries > i->elements || (i->index_codec == 0 && i->entries != i->elements)) return 0;
    if (i->code_codec != EIE_CODEC_CONTEXT) return l->kernel_rank == 0 && l->raw_bits == 0;
    uint32_t depth = eie_context_depth(i->codebook_size - 1);
    if (l->raw_bits > (depth > 4 ? depth - 4 : 0) || (i->entries && i->codebook_size == 1)) return 0;
    uint64_t positions = 1;
    for (uint32_t k = i->rank - l->kernel_rank; k < i->rank; k++) {
        if (i->dims[k] == 0 || i->dims[k] > EIE_MAX_KERNEL) return 0;
        positions *= i->dims[k]; /* at most 128^6 */
    }
    return positions <= EIE_MAX_KERNEL;
}

/* The parts follow each other; their sizes must use up the payload exactly. */
static eie_status place_parts(eie_layout *l, size_t at, size_t size) {
    eie_payload_info *i = &l->info;
    uint64_t parts[5] = {i->codebook_bytes, l->code_table_size, l->index_table_size, i->code_bytes, i->index_bytes};
    size_t *where[5] = {&l->codebook_at, &l->code_table_at, &l->index_table_at, &l->codes_at, &l->indices_at};
    i->container_bytes = at + 4;
    for (int p = 0; p < 5; p++) {
        *where[p] = at;
        if (parts[p] > size - at) return EIE_E_TRUNCATED;
        at += (size_t)parts[p];
    }
    if (size - at < 4) return EIE_E_TRUNCATED;
    l->end = at;
    return size - at == 4 ? EIE_OK : EIE_E_CORRUPT;
}

eie_status eie_layout_read(const uint8_t *payload, size_t size, eie_layout *layout) {
    memset(layout, 0, sizeof *layout);
    eie_payload_info *i = &layout->info;
    if (!payload || size < 4)
        return payload && size && memcmp(payload, "EIE", size < 3 ? size : 3) ? EIE_E_MAGIC : EIE_E_TRUNCATED;
    if (memcmp(payload, "EIE", 3) != 0) return EIE_E_MAGIC;
    i->version = payload[3];
    if (i->version != EIE_PAYLOAD_VERSION) return EIE_E_VERSION;
    eie_cursor c = {payload + 4, payload + size, EIE_OK};
    uint32_t shape = read_byte(&c), codecs = read_byte(&c), widths = read_byte(&c), flags = read_byte(&c);
    i->rank = shape & 15;
    layout->kernel_rank = shape >> 4;
    i->code_codec = codecs & 15;
    i->index_codec = codecs >> 4;
    i->index_bits = widths & 15;
    layout->raw_bits = widths >> 4;
    i->pattern = flags & 15;
    layout->codebook_coded = flags >> 4;
    i->codebook_size = read_byte(&c) + 1;
    i->bits = eie_context_depth(i->codebook_size);
    i->bits += i->bits == 0;
    if (c.status) return c.status;
    if (i->rank > EIE_MAX_RANK) return EIE_E_CORRUPT;
    eie_status status = read_dims(&c, size, i);
    if (status) return status;
    i->entries = i->index_codec ? eie_read_varint(&c) : i->elements;
    i->codebook_bytes = layout->codebook_coded ? eie_read_varint(&c) : 4 * (uint64_t)(i->codebook_size - 1);
    uint64_t tables[2] = {i->code_codec == EIE_CODEC_HUFFMAN ? eie_read_varint(&c) : 0,
                          i->index_codec == EIE_CODEC_HUFFMAN ? eie_read_varint(&c) : 0};
    if (c.status) return c.status;
    if (!fits(layout)) return EIE_E_CORRUPT;
    i->code_bytes = i->code_codec == EIE_CODEC_RAW ? eie_packed_bytes(i->entries, i->bits) : eie_read_varint(&c);
    i->index_bytes = i->index_codec == EIE_CODEC_RAW ? eie_packed_bytes(i->entries, i->index_bits)
                     : i->index_codec                ? eie_read_varint(&c)
                                                     : 0;
    if (c.status) return c.status;
    if (tables[0] > size || tables[1] > size) return EIE_E_TRUNCATED;
    layout->code_table_size = (size_t)tables[0];
    layout->index_table_size = (size_t)tables[1];
    i->table_bytes = tables[0] + tables[1];
    return place_parts(layout, (size_t)(c.at - payload), size);
}

eie_status eie_payload_inspect(const uint8_t *payload, size_t size, eie_payload_info *info) {
    eie_layout layout;
    if (!info) return EIE_E_ARGUMENT;
    eie_status status = eie_layout_read(payload, size, &layout);
    *info = layout.info;
    return status;
}

typedef uint16_t huffman_table[1 << EIE_HUFFMAN_LIMIT];

/* One field, raw or Huffman; `table` NULL: raw. The reader holds enough bits. */
static inline uint32_t next_field(eie_bit_reader *r, const uint16_t *table, uint32_t bits) {
    if (!table) return eie_bits_take(r, bits);
    uint32_t found = table[r->bits & ((1u << EIE_HUFFMAN_LIMIT) - 1)];
    eie_bits_take(r, found >> 8);
    return found & 255;
}

/* Zeros are stored as code 0: a code an element. */
static eie_status decode_plain(const eie_layout *l, const uint8_t *payload, const uint16_t *table, uint8_t *codes) {
    const eie_payload_info *i = &l->info;
    eie_bit_reader r = eie_bits_open(payload + l->codes_at, (size_t)i->code_bytes);
    uint32_t worst = 0;
    for (uint64_t e = 0; e < i->elements; e++) {
        eie_bits_fill(&r);
        uint32_t code = next_field(&r, table, i->bits);
        worst = code > worst ? code : worst;
        codes[e] = (uint8_t)code;
    }
    return worst < i->codebook_size && eie_bits_closed(&r) ? EIE_OK : EIE_E_CORRUPT;
}

/* Relative index, as in Deep Compression: a gap an entry, the zeros before it. */
static eie_status decode_relative(const eie_layout *l, const uint8_t *payload, const uint16_t *code_table,
                                  const uint16_t *index_table, uint8_t *codes) {
    const eie_payload_info *i = &l->info;
    eie_bit_reader c = eie_bits_open(payload + l->codes_at, (size_t)i->code_bytes);
    eie_bit_reader g = eie_bits_open(payload + l->indices_at, (size_t)i->index_bytes);
    uint64_t at = 0;
    uint32_t worst = 0;
    memset(codes, 0, (size_t)i->elements);
    for (uint64_t e = 0; e < i->entries; e++) {
        eie_bits_fill(&c);
        eie_bits_fill(&g);
        uint32_t code = next_field(&c, code_table, i->bits);
        at += next_field(&g, index_table, i->index_bits);
        if (at >= i->elements) return EIE_E_CORRUPT;
        worst = code > worst ? code : worst;
        codes[at++] = (uint8_t)code;
    }
    /* long tails of zeros have fillers too: an announced size is always backed by entries */
    int covered = i->elements - at < (uint64_t)1 << i->index_bits;
    return covered && worst < i->codebook_size && eie_bits_closed(&c) && eie_bits_closed(&g) ? EIE_OK : EIE_E_CORRUPT;
}

static eie_status decode_codes(const eie_layout *l, const uint8_t *payload, uint32_t negative, uint8_t *codes) {
    const eie_payload_info *i = &l->info;
    if (i->code_codec == EIE_CODEC_CONTEXT) {
        eie_context_shape shape;
        if (!i->elements) return i->code_bytes || i->index_bytes || i->entries ? EIE_E_CORRUPT : EIE_OK;
        eie_context_geometry(&shape, i->dims, i->rank, l->kernel_rank);
        shape.nonzeros = i->entries;
        shape.symbols = i->codebook_size - 1;
        shape.negative = negative;
        shape.raw_bits = l->raw_bits;
        return eie_context_decode(codes, &shape, payload + l->indices_at, (size_t)i->index_bytes, payload + l->codes_at,
                                  (size_t)i->code_bytes);
    }
    huffman_table code_table, index_table;
    const uint16_t *codes_by = NULL, *indices_by = NULL;
    if (i->code_codec == EIE_CODEC_HUFFMAN) {
        if (!eie_huffman_table_decode(payload + l->code_table_at, l->code_table_size, i->codebook_size, code_table))
            return EIE_E_CORRUPT;
        codes_by = code_table;
    }
    if (i->index_codec == EIE_CODEC_HUFFMAN) {
        if (!eie_huffman_table_decode(payload + l->index_table_at, l->index_table_size, 1u << i->index_bits,
                                      index_table))
            return EIE_E_CORRUPT;
        indices_by = index_table;
    }
    return i->index_codec ? decode_relative(l, payload, codes_by, indices_by, codes)
                          : decode_plain(l, payload, codes_by, codes);
}

eie_status eie_payload_decode(const uint8_t *payload, size_t size, uint8_t *codes, size_t codes_size, float *codebook) {
    eie_layout l;
    eie_status status = eie_layout_read(payload, size, &l);
    if (status) return status;
    if (!codebook || codes_size != l.info.elements || (codes_size && !codes)) return EIE_E_ARGUMENT;
    const uint8_t *crc = payload + l.end;
    if (eie_crc32(payload, l.end) !=
        ((uint32_t)crc[0] | (uint32_t)crc[1] << 8 | (uint32_t)crc[2] << 16 | (uint32_t)crc[3] << 24))
        return EIE_E_CHECKSUM;
    uint32_t count = l.info.codebook_size - 1, negative = 0;
    memset(codebook, 0, 256 * sizeof *codebook);
    const uint8_t *stored = payload + l.codebook_at;
    if (l.codebook_coded) {
        if (!eie_codebook_decode(stored, (size_t)l.info.codebook_bytes, codebook + 1, count)) return EIE_E_CORRUPT;
    } else {
        for (uint32_t k = 0; k < count; k++) {
            uint32_t bits = (uint32_t)stored[4 * k] | (uint32_t)stored[4 * k + 1] << 8 |
                            (uint32_t)stored[4 * k + 2] << 16 | (uint32_t)stored[4 * k + 3] << 24;
            memcpy(codebook + 1 + k, &bits, 4);
        }
        if (!eie_codebook_valid(codebook + 1, count)) return EIE_E_CORRUPT;
    }
    while (negative < count && codebook[1 + negative] < 0) negative++;
    return decode_codes(&l, payload, negative, codes);
}
