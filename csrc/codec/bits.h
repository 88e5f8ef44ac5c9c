/* Bit streams, lowest bit first. */
#ifndef EIE_BITS_H
#define EIE_BITS_H
#include "codec/codec.h"

/* Past the end a reader gives zeros, and `over` says so: callers check once at the end, not at every bit. */
typedef struct {
    const uint8_t *at, *end;
    uint64_t bits;
    uint32_t held; /* bits that are valid */
    uint64_t over; /* zero bytes made up */
} eie_bit_reader;

static inline eie_bit_reader eie_bits_open(const uint8_t *bytes, size_t size) {
    eie_bit_reader reader = {bytes, bytes + size, 0, 0, 0};
    return reader;
}

/* At least 32 valid bits afterwards. */
static inline void eie_bits_fill(eie_bit_reader *r) {
    if (r->held >= 32) return;
    if (r->end - r->at >= 4) {
        uint32_t next =
            (uint32_t)r->at[0] | (uint32_t)r->at[1] << 8 | (uint32_t)r->at[2] << 16 | (uint32_t)r->at[3] << 24;
        r->bits |= (uint64_t)next << r->held;
        r->at += 4;
        r->held += 32;
        return;
    }
    while (r->held < 32) {
        if (r->at < r->end) r->bits |= (uint64_t)*r->at++ << r->held;
        else r->over++;
        r->held += 8;
    }
}

/* Up to 32 bits; the caller has filled. */
static inline uint32_t eie_bits_take(eie_bit_reader *r, uint32_t count) {
    uint32_t value = (uint32_t)(r->bits & (((uint64_t)1 << count) - 1));
    r->bits >>= count;
    r->held -= count;
    return value;
}

/* Everything was there, nothing but padding zeros is left over. */
static inline int eie_bits_closed(const eie_bit_reader *r) {
    uint64_t left = r->held - 8 * r->over;
    return r->held >= 8 * r->over && r->at == r->end && left < 8 && r->bits == 0;
}

typedef struct {
    eie_buffer *out;
    uint64_t bits;
    uint32_t held;
} eie_bit_writer;

static inline void eie_bits_put(eie_bit_writer *w, uint32_t value, uint32_t count) {
    w->bits |= (uint64_t)value << w->held;
    w->held += count;
    while (w->held >= 8) {
        eie_buffer_byte(w->out, (uint32_t)(w->bits & 255));
        w->bits >>= 8;
        w->held -= 8;
    }
}

static inline void eie_bits_flush(eie_bit_writer *w) {
    if (w->held) eie_buffer_byte(w->out, (uint32_t)(w->bits & 255));
    w->bits = 0;
    w->held = 0;
}
#endif
