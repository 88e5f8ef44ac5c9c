/* What the files of the codec share. docs/format.md has the payload byte by byte. */
#ifndef EIE_CODEC_H
#define EIE_CODEC_H
#include "eie.h"

#define EIE_PAYLOAD_VERSION 1
#define EIE_MAX_RANK 8
/* longest code: one 8 KiB table decodes any stream, and 256 symbols lose nothing to it */
#define EIE_HUFFMAN_LIMIT 12
#define EIE_MAX_KERNEL 128 /* positions of a kernel the context codec tells apart from rows */

/* A payload may announce at most this many elements a byte, and a few more: hostile ones can't ask for the moon. */
#define EIE_ELEMENTS_PER_BYTE 2048
#define EIE_ELEMENTS_FREE 4096

/* ---- bytes that grow (buffer.c) --------------------------------------------------------------------------------- */
typedef struct {
    uint8_t *data;
    size_t size, capacity;
    int failed; /* out of memory: later writes are dropped, the caller asks once at the end */
} eie_buffer;

void eie_buffer_reserve(eie_buffer *buffer, size_t more);
void eie_buffer_append(eie_buffer *buffer, const void *bytes, size_t count);
void eie_buffer_byte(eie_buffer *buffer, uint32_t byte);
void eie_buffer_varint(eie_buffer *buffer, uint64_t value);
void eie_buffer_free(eie_buffer *buffer);

typedef struct {
    const uint8_t *at, *end;
    eie_status status; /* truncated or corrupt, once something was */
} eie_cursor;

/* Below 2^62, in its shortest form; seven bits a byte, lowest first, the highest bit says that more follow. */
uint64_t eie_read_varint(eie_cursor *cursor);

uint32_t eie_crc32(const uint8_t *bytes, size_t size);

/* ---- the codebook (codebook.c) ---------------------------------------------------------------------------------- */
/* values: count of them, ascending, finite, none zero. */
void eie_codebook_encode(eie_buffer *out, const float *values, uint32_t count);
/* Reads what eie_codebook_encode wrote. 0 when it is no such thing. */
int eie_codebook_decode(const uint8_t *bytes, size_t size, float *values, uint32_t count);
/* Ascending, finite, none zero? */
int eie_codebook_valid(const float *values, uint32_t count);

/* ---- Huffman (huffman.c) ---------------------------------------------------------------------------------------- */
/* Lengths (0: symbol unused, else 1 to EIE_HUFFMAN_LIMIT) of an optimal length-limited code for symbols below
 * `symbols`. */
void eie_huffman_lengths(const uint64_t *counts, uint32_t symbols, uint8_t *lengths);
/* The canonical code words, first bit lowest. */
void eie_huffman_words(const uint8_t *lengths, uint32_t symbols, uint16_t *words);
void eie_huffman_table_encode(eie_buffer *out, const uint8_t *lengths, uint32_t symbols);
/* table: 1 << EIE_HUFFMAN_LIMIT of symbol | length << 8, indexed by the next bits. 0 when no code has these lengths. */
int eie_huffman_table_decode(const uint8_t *bytes, size_t size, uint32_t symbols, uint16_t *table);

/* ---- context modelling (context.c) ------------------------------------------------------------------------------ */
typedef struct {
    uint64_t rows, columns; /* elements = rows * columns * kernel */
    uint32_t kernel;        /* 1 to EIE_MAX_KERNEL positions: the trailing `kernel_rank` dimensions */
    uint32_t kernel_width;  /* the last of them, 1 without a kernel */
    uint64_t nonzeros;
    uint32_t symbols;  /* non-zero codes: 1 to symbols */
    uint32_t negative; /* of which so many stand for negative values: the first ones */
    uint32_t raw_bits; /* low bits of a code that are stored as they are */
} eie_context_shape;

/* How many trailing dimensions are a convolution's kernel, as far as the coder cares. */
uint32_t eie_kernel_rank(const uint64_t *dims, uint32_t rank);
void eie_context_geometry(eie_context_shape *shape, const uint64_t *dims, uint32_t rank, uint32_t kernel_rank);
/* Bits of a non-zero code: ceil(log2(symbols)). */
uint32_t eie_context_depth(uint32_t symbols);
uint32_t eie_context_raw_bits(const uint64_t *counts, uint32_t symbols);

/* The two streams: which elements are not zero, and the codes of those. */
eie_status eie_context_encode(const uint8_t *codes, const eie_context_shape *shape, eie_buffer *places,
                              eie_buffer *values);
eie_status eie_context_decode(uint8_t *codes, const eie_context_shape *shape, const uint8_t *places, size_t places_size,
                              const uint8_t *values, size_t values_size);

/* ---- the header (payload.c) ------------------------------------------------------------------------------------- */
typedef struct {
    eie_payload_info info;
    uint32_t kernel_rank, raw_bits, codebook_coded;
    size_t codebook_at, code_table_at, code_table_size, index_table_at, index_table_size, codes_at, indices_at, end;
} eie_layout;

eie_status eie_layout_read(const uint8_t *payload, size_t size, eie_layout *layout);
/* Bytes of `count` fields of `bits` bits. */
uint64_t eie_packed_bytes(uint64_t count, uint32_t bits);
#endif
