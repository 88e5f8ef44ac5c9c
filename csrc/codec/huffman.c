/* Canonical Huffman codes of at most EIE_HUFFMAN_LIMIT bits. */
#include "codec/codec.h"
#include "codec/range.h"

#include <string.h>

/* Package-merge (Larmore and Hirschberg 1990). At each of the levels the list holds the leaves and the pairs of the
 * list below, by weight, leaves first where weights are equal; of the top list the first 2n - 2 items are taken, and a
 * leaf's code is as long as it was taken often. Leaves are taken in their order, so per level only their number counts.
 */
void eie_huffman_lengths(const uint64_t *counts, uint32_t symbols, uint8_t *lengths) {
    uint32_t leaf[256], n = 0;
    memset(lengths, 0, symbols);
    for (uint32_t s = 0; s < symbols; s++) {
        if (!counts[s]) continue;
        uint32_t at = n++;
        for (; at > 0 && counts[leaf[at - 1]] > counts[s]; at--) leaf[at] = leaf[at - 1];
        leaf[at] = s;
    }
    if (n <= 1) {
        if (n) lengths[leaf[0]] = 1;
        return;
    }
    uint64_t pairs[512], list[512];
    uint8_t is_leaf[EIE_HUFFMAN_LIMIT][512];
    uint32_t pair_count = 0;
    for (uint32_t level = 0; level < EIE_HUFFMAN_LIMIT; level++) {
        uint32_t l = 0, p = 0, size = 0;
        while (l < n || p < pair_count) {
            int take = p == pair_count || (l < n && counts[leaf[l]] <= pairs[p]);
            is_leaf[level][size] = (uint8_t)take;
            list[size++] = take ? counts[leaf[l++]] : pairs[p++];
        }
        pair_count = size / 2;
        for (uint32_t i = 0; i < pair_count; i++) pairs[i] = list[2 * i] + list[2 * i + 1];
    }
    uint32_t take = 2 * n - 2;
    for (uint32_t level = EIE_HUFFMAN_LIMIT; level-- > 0;) {
        uint32_t leaves = 0;
        for (uint32_t i = 0; i < take; i++) leaves += is_leaf[level][i];
        for (uint32_t i = 0; i < leaves; i++) lengths[leaf[i]]++;
        take = 2 * (take - leaves);
    }
}

void eie_huffman_words(const uint8_t *lengths, uint32_t symbols, uint16_t *words) {
    uint32_t next = 0;
    for (uint32_t length = 1; length <= EIE_HUFFMAN_LIMIT; length++, next <<= 1)
        for (uint32_t s = 0; s < symbols; s++) {
            if (lengths[s] != length) continue;
            uint32_t word = 0;
            for (uint32_t i = 0; i < length; i++) word |= (next >> i & 1) << (length - 1 - i);
            words[s] = (uint16_t)word;
            next++;
        }
}

/* Each length by a learning coder that looks at the one before: neighbouring codes are about as frequent. */
void eie_huffman_table_encode(eie_buffer *out, const uint8_t *lengths, uint32_t symbols) {
    eie_bit nodes[16][16];
    eie_steps steps;
    eie_range r = eie_range_writer(out);
    eie_bits_even(nodes[0], 256);
    eie_steps_fill(&steps);
    for (uint32_t s = 0, last = 0; s < symbols; last = lengths[s++])
        eie_range_tree(&r, nodes[last], 4, &steps, lengths[s], 1);
    eie_range_finish(&r);
}

int eie_huffman_table_decode(const uint8_t *bytes, size_t size, uint32_t symbols, uint16_t *table) {
    eie_bit nodes[16][16];
    eie_steps steps;
    eie_range r = eie_range_reader(bytes, size);
    uint8_t lengths[256];
    uint16_t words[256];
    uint32_t used = 0, space = 0;
    eie_bits_even(nodes[0], 256);
    eie_steps_fill(&steps);
    for (uint32_t s = 0, last = 0; s < symbols; last = lengths[s++]) {
        lengths[s] = (uint8_t)eie_range_tree(&r, nodes[last], 4, &steps, 0, 0);
        if (lengths[s] > EIE_HUFFMAN_LIMIT) return 0;
        if (!lengths[s]) continue;
        used++;
        space += (1u << EIE_HUFFMAN_LIMIT) >> lengths[s];
    }
    /* the words fill the space exactly; a lone symbol has the word 0, one bit long */
    int lone = used == 1 && space == (1u << EIE_HUFFMAN_LIMIT) >> 1;
    if (space != 1u << EIE_HUFFMAN_LIMIT && !lone) return 0;
    eie_huffman_words(lengths, symbols, words);
    for (uint32_t s = 0; s < symbols; s++) {
        if (!lengths[s]) continue;
        uint32_t step = lone ? 1 : 1u << lengths[s];
        for (uint32_t i = words[s]; i < 1u << EIE_HUFFMAN_LIMIT; i += step)
            table[i] = (uint16_t)(s | (uint32_t)lengths[s] << 8);
    }
    return 1;
}
