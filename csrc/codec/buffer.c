/* Bytes that grow, and the checksum of bytes. */
#include "codec/codec.h"

#include <stdlib.h>
#include <string.h>

void eie_buffer_reserve(eie_buffer *buffer, size_t more) {
    if (buffer->failed || buffer->capacity - buffer->size >= more) return;
    size_t capacity = buffer->capacity + buffer->capacity / 2 + more + 64;
    uint8_t *data = capacity > buffer->capacity ? realloc(buffer->data, capacity) : NULL;
    if (!data) {
        buffer->failed = 1;
        return;
    }
    buffer->data = data;
    buffer->capacity = capacity;
}

void eie_buffer_append(eie_buffer *buffer, const void *bytes, size_t count) {
    eie_buffer_reserve(buffer, count);
    if (buffer->failed || !count) return;
    memcpy(buffer->data + buffer->size, bytes, count);
    buffer->size += count;
}

void eie_buffer_byte(eie_buffer *buffer, uint32_t byte) {
    uint8_t value = (uint8_t)byte;
    eie_buffer_append(buffer, &value, 1);
}

void eie_buffer_varint(eie_buffer *buffer, uint64_t value) {
    for (; value >= 128; value >>= 7) eie_buffer_byte(buffer, (uint32_t)(value & 127) | 128);
    eie_buffer_byte(buffer, (uint32_t)value);
}

void eie_buffer_free(eie_buffer *buffer) {
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

/* CRC-32 as in zip and PNG (reflected, polynomial 0xedb88320), eight bytes at a time. The tables are made on the stack:
 * two microseconds, and no state to share between threads. */
uint32_t eie_crc32(const uint8_t *bytes, size_t size) {
    uint32_t table[8][256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c >> 1 ^ ((c & 1) * 0xedb88320u);
        table[0][i] = c;
    }
    for (uint32_t t = 1; t < 8; t++)
        for (uint32_t i = 0; i < 256; i++) table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
    uint32_t crc = 0xffffffffu;
    for (; size >= 8; size -= 8, bytes += 8) {
        uint32_t low =
            crc ^ ((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24);
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][bytes[4]] ^ table[2][bytes[5]] ^ table[1][bytes[6]] ^ table[0][bytes[7]];
    }
    for (; size; size--) crc = crc >> 8 ^ table[0][(crc ^ *bytes++) & 255];
    return ~crc;
}
