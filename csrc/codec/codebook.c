/* The codebook's floats, exactly. In ascending order each is predicted by going on as far as the last step went; what
 * is stored is how many floats lie between prediction and value: its number of bits by a learning coder, then those
 * bits. Centroids from k-means lie about evenly, which is what makes this shorter than 32 bits each. */
#include "codec/codec.h"
#include "codec/range.h"

#include <math.h>
#include <string.h>

/* Floats in their order as integers in theirs. */
static uint32_t ordered(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static float unordered(uint32_t rank) {
    uint32_t bits = rank >> 31 ? rank & 0x7fffffffu : ~rank;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

int eie_codebook_valid(const float *values, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!isfinite(values[i]) || values[i] == 0 || (i && !(values[i] > values[i - 1]))) return 0;
    return 1;
}

static uint64_t predicted(const float *values, uint32_t i) {
    return ordered(i == 1 ? values[0] : 2.0f * values[i - 1] - values[i - 2]);
}

EIE_INLINE uint64_t distance(eie_range *r, eie_bit *nodes, const eie_steps *steps, uint64_t value, const int encoding) {
    uint32_t bits = 0;
    if (encoding)
        while (value >> bits) bits++;
    bits = eie_range_tree(r, nodes, 6, steps, bits, encoding);
    if (bits <= 1) return bits;
    if (bits > 34) return UINT64_MAX; /* no two floats are so far apart: for the caller to refuse */
    return (uint64_t)1 << (bits - 1) | eie_range_plain(r, bits - 1, value, encoding);
}

void eie_codebook_encode(eie_buffer *out, const float *values, uint32_t count) {
    if (!count) return;
    eie_bit nodes[64];
    eie_steps steps;
    eie_range r = eie_range_writer(out);
    eie_bits_even(nodes, 64);
    eie_steps_fill(&steps);
    eie_range_plain(&r, 32, ordered(values[0]), 1);
    for (uint32_t i = 1; i < count; i++) {
        uint64_t here = ordered(values[i]), there = predicted(values, i);
        distance(&r, nodes, &steps, here >= there ? (here - there) * 2 : (there - here) * 2 - 1, 1);
    }
    eie_range_finish(&r);
}

int eie_codebook_decode(const uint8_t *bytes, size_t size, float *values, uint32_t count) {
    if (!count) return 1;
    eie_bit nodes[64];
    eie_steps steps;
    eie_range r = eie_range_reader(bytes, size);
    eie_bits_even(nodes, 64);
    eie_steps_fill(&steps);
    values[0] = unordered((uint32_t)eie_range_plain(&r, 32, 0, 0));
    if (!isfinite(values[0])) return 0;
    for (uint32_t i = 1; i < count; i++) {
        uint64_t far = distance(&r, nodes, &steps, 0, 0), there = predicted(values, i);
        if (far >> 34) return 0;
        /* below zero it wraps to a number that the next line refuses as well */
        uint64_t here = far & 1 ? there - (far + 1) / 2 : there + far / 2;
        if (here > UINT32_MAX || here <= ordered(values[i - 1])) return 0;
        values[i] = unordered((uint32_t)here);
        if (!isfinite(values[i])) return 0;
    }
    return eie_codebook_valid(values, count);
}
