/* A binary adaptive range coder. 64-bit range, renormalised by 32 bits, so that renormalising is rare and the 16-bit
 * probabilities lose nothing; carries run back into what was written. Trailing zero bytes are not stored: past the end
 * a decoder reads zeros. A one is the lower part of the range, so nothing but ones costs no byte at all.
 *
 * Each function takes `encoding` as a constant, so that one description of a model is both its encoder and its decoder.
 */
#ifndef EIE_RANGE_H
#define EIE_RANGE_H
#include "codec/codec.h"

#if defined(__GNUC__)
#define EIE_INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define EIE_INLINE static __forceinline
#else
#define EIE_INLINE static inline
#endif

typedef struct {
    uint64_t range;
    uint64_t value; /* encoder: low end of the range. decoder: how far the stream's value is above it */
    const uint8_t *at, *end;
    eie_buffer *out;
    size_t start; /* of the stream in out */
} eie_range;

/* A bit that learns: the probability of a one in the upper 22 bits, how often it was seen in the lower 10. Steps go as
 * 1 / (n + 1.6), down to 1/256. */
typedef uint32_t eie_bit;
#define EIE_BIT_EVEN ((eie_bit)1 << 31)
#define EIE_BIT_SEEN 254

typedef struct {
    uint16_t step, next; /* in 1/4096; the count afterwards */
} eie_step;

typedef struct {
    eie_step of[EIE_BIT_SEEN + 1];
} eie_steps;

static inline void eie_steps_fill(eie_steps *steps) {
    for (uint32_t n = 0; n <= EIE_BIT_SEEN; n++) {
        steps->of[n].step = (uint16_t)(40960 / (10 * n + 16));
        steps->of[n].next = (uint16_t)(n + (n < EIE_BIT_SEEN));
    }
}

static inline void eie_bits_even(eie_bit *bits, size_t count) {
    for (size_t i = 0; i < count; i++) bits[i] = EIE_BIT_EVEN;
}

static inline uint32_t eie_range_next(eie_range *r) {
    uint32_t next = 0;
    if (r->end - r->at >= 4) {
        next = (uint32_t)r->at[0] << 24 | (uint32_t)r->at[1] << 16 | (uint32_t)r->at[2] << 8 | (uint32_t)r->at[3];
        r->at += 4;
        return next;
    }
    for (int shift = 24; shift >= 0 && r->at < r->end; shift -= 8) next |= (uint32_t)*r->at++ << shift;
    return next;
}

static inline eie_range eie_range_reader(const uint8_t *bytes, size_t size) {
    eie_range r = {UINT64_MAX, 0, bytes, bytes + size, NULL, 0};
    r.value = (uint64_t)eie_range_next(&r) << 32;
    r.value |= eie_range_next(&r);
    return r;
}

static inline eie_range eie_range_writer(eie_buffer *out) {
    eie_range r = {UINT64_MAX, 0, NULL, NULL, out, out->size};
    return r;
}

static inline void eie_range_carry(eie_buffer *out) {
    /* a carry never leaves the stream: the value it belongs to is below 1 */
    for (size_t i = out->size; i > 0 && ++out->data[i - 1] == 0; i--) {
    }
}

static inline void eie_range_emit(eie_range *r) {
    uint8_t bytes[4] = {(uint8_t)(r->value >> 56), (uint8_t)(r->value >> 48), (uint8_t)(r->value >> 40),
                        (uint8_t)(r->value >> 32)};
    eie_buffer_append(r->out, bytes, 4);
    r->value <<= 32;
}

/* One bit, a one having probability p / 65536, 0 < p < 65536. */
EIE_INLINE uint32_t eie_range_bit(eie_range *r, uint32_t p, uint32_t bit, const int encoding) {
    uint64_t bound = (r->range >> 16) * p;
    if (encoding) {
        if (bit) {
            r->range = bound;
        } else {
            r->value += bound;
            r->range -= bound;
            if (r->value < bound) eie_range_carry(r->out);
        }
    } else {
        /* masks, not branches: these bits are what no predictor predicts */
        uint64_t lower = 0u - (uint64_t)(r->value < bound), other = r->range - bound;
        r->value = r->value - bound + (bound & lower);
        r->range = other ^ ((other ^ bound) & lower);
        bit = (uint32_t)lower & 1;
    }
    if (r->range >> 32 == 0) {
        r->range <<= 32;
        if (encoding) eie_range_emit(r);
        else r->value = r->value << 32 | eie_range_next(r);
    }
    return bit;
}

/* As below, for a caller that has loaded *state already. */
EIE_INLINE uint32_t eie_range_learn(eie_range *r, eie_bit *state, eie_bit s, const eie_steps *steps, uint32_t bit,
                                    const int encoding) {
    eie_step step = steps->of[s & 1023];
    bit = eie_range_bit(r, s >> 16 | 1, bit, encoding);
    /* towards all ones or all zeros; the count in the lower bits is too small to matter */
    int64_t target = (int64_t)(uint32_t)(0u - bit);
    s += (uint32_t)((target - (int64_t)s) * step.step >> 12);
    *state = (s & ~(uint32_t)1023) | step.next;
    return bit;
}

EIE_INLINE uint32_t eie_range_adaptive(eie_range *r, eie_bit *state, const eie_steps *steps, uint32_t bit,
                                       const int encoding) {
    return eie_range_learn(r, state, *state, steps, bit, encoding);
}

/* One of two that are loaded: a decoder has both ready before it knows the bit. */
EIE_INLINE eie_bit eie_range_select(eie_bit zero, eie_bit one, uint32_t bit) {
    return zero ^ ((zero ^ one) & (0u - bit));
}

/* `depth` bits of a number, highest first, each learning in the light of those above it, from `node` (1: the root) on.
 * Returns the node reached. nodes: two for each that is not the last. */
EIE_INLINE uint32_t eie_range_descend(eie_range *r, eie_bit *nodes, uint32_t node, uint32_t depth,
                                      const eie_steps *steps, uint32_t value, const int encoding) {
    if (!depth) return node;
    eie_bit s = nodes[node];
    while (--depth) {
        eie_bit zero = nodes[2 * node], one = nodes[2 * node + 1];
        uint32_t bit = eie_range_learn(r, nodes + node, s, steps, value >> depth & 1, encoding);
        s = eie_range_select(zero, one, bit);
        node = 2 * node + bit;
    }
    return 2 * node + eie_range_learn(r, nodes + node, s, steps, value & 1, encoding);
}

/* A number of `depth` bits. nodes: 1 << depth. */
EIE_INLINE uint32_t eie_range_tree(eie_range *r, eie_bit *nodes, uint32_t depth, const eie_steps *steps, uint32_t value,
                                   const int encoding) {
    return eie_range_descend(r, nodes, 1, depth, steps, value, encoding) - (1u << depth);
}

/* `count` bits that are worth a bit each. */
EIE_INLINE uint64_t eie_range_plain(eie_range *r, uint32_t count, uint64_t value, const int encoding) {
    uint64_t read = 0;
    for (uint32_t i = count; i-- > 0;) read = read << 1 | eie_range_bit(r, 32768, (uint32_t)(value >> i & 1), encoding);
    return read;
}

/* The fewest bytes that name a value inside the range. */
static inline void eie_range_finish(eie_range *r) {
    for (uint32_t bytes = 0; bytes <= 8; bytes++) {
        uint64_t mask = bytes == 8 ? 0 : UINT64_MAX >> (8 * bytes);
        uint64_t value = (r->value + mask) & ~mask;
        if (value - r->value >= r->range) continue;
        if (value < r->value) eie_range_carry(r->out);
        for (uint32_t i = 0; i < bytes; i++) eie_buffer_byte(r->out, (uint32_t)(value >> (56 - 8 * i)) & 255);
        break;
    }
    while (r->out->size > r->start && r->out->data[r->out->size - 1] == 0) r->out->size--;
}
#endif
