"""The C codec against the reference, and the reference's parts against what they must be."""

from __future__ import annotations

import zlib
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eie.runtime import codec as reference
from eie.runtime import format as eie_format
from eie.runtime.codec import Codec, PayloadError, huffman_lengths, huffman_words
from eie.runtime.codec_range import RangeReader, RangeWriter, Tree
from eie.runtime.weight import Weight

needs_core = pytest.mark.skipif(eie_format._lib is None, reason="the C core is not built")


@st.composite
def weights(draw: st.DrawFn) -> Weight:
    """Weights of all ranks, densities, codebook sizes; codebooks unsorted, with doubles, zeros and unused entries."""
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=5)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([1, 2, 3, 5, 16, 17, 100, 255, 256]))
    codebook = (random.standard_normal(size) * 10.0 ** draw(st.integers(-38, 37))).astype(np.float32)
    if draw(st.booleans()):
        codebook = np.round(codebook)
    codebook[0] = 0
    codes = random.integers(0, size, shape).astype(np.uint8)
    codes[random.random(shape) < draw(st.sampled_from([0.0, 0.5, 0.95, 1.0]))] = 0
    return Weight(codes, codebook, draw(st.sampled_from(["unstructured", "balanced", "block", "n:m"])))


@needs_core
@settings(max_examples=120, deadline=None)
@given(weights(), st.sampled_from(list(Codec)), st.sampled_from([0, 0, 2, 3, 4, 5, 8]))
def test_c_and_reference_agree_bit_for_bit(weight: Weight, codec: Codec, index_bits: int) -> None:
    if codec == Codec.CONTEXT:
        index_bits = 0
    name = codec.name.lower()
    fast = eie_format.encode(weight, codec=name, index_bits=index_bits or None)
    number = eie_format.PATTERNS.index(weight.pattern)
    assert fast == reference.encode_payload(weight.codes, weight.codebook, number, codec, index_bits)
    codes, codebook, header = reference.decode_payload(fast)
    again = eie_format.decode(fast)
    assert np.array_equal(again.codes, codes)
    assert again.codebook.tobytes() == codebook.tobytes()
    assert again.pattern == weight.pattern == eie_format.PATTERNS[header.pattern]


@needs_core
def test_c_and_reference_refuse_the_same() -> None:
    """Every byte of small payloads broken in several ways, checksums put right: same verdict, or same weight."""
    rng = np.random.default_rng(0)
    for name, shape in product(("raw", "huffman", "context"), ((6, 20), (3, 2, 3, 3))):
        codes = (rng.integers(1, 20, shape) * (rng.random(shape) < 0.5)).astype(np.uint8)
        codebook = np.linspace(-1, 1, 20, dtype=np.float32)
        codebook[0] = 0
        payload = eie_format.encode(Weight(codes, codebook), codec=name)
        for at, change in product(range(3, len(payload) - 4), (1, 8, 128)):
            broken = bytearray(payload[:-4])
            broken[at] ^= change
            broken += zlib.crc32(bytes(broken)).to_bytes(4, "little")
            try:
                expected = reference.decode_payload(bytes(broken))
            except PayloadError as error:
                with pytest.raises(eie_format.FormatError, match=eie_format._REASONS[error.status][0]):
                    eie_format.decode(bytes(broken))
            else:
                found = eie_format.decode(bytes(broken))
                assert np.array_equal(found.codes, expected[0])
                assert found.codebook.tobytes() == expected[1].tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 1)), max_size=400))
def test_range_coder_round_trip_and_size(decisions: list[tuple[int, int]]) -> None:
    writer = RangeWriter()
    for p, bit in decisions:
        writer.bit(p, bit)
    stream = writer.finish()
    reader = RangeReader(stream)
    assert [reader.bit(p) for p, _ in decisions] == [bit for _, bit in decisions]
    assert reader.closed
    ideal = sum(-np.log2((p if bit else 65536 - p) / 65536) for p, bit in decisions)
    assert len(stream) <= ideal / 8 + 5


def test_range_coder_gives_nothing_for_nothing_but_ones() -> None:
    writer = RangeWriter()
    for _ in range(10_000):
        writer.bit(40_000, 1)
    assert writer.finish() == b""


def test_a_tree_learns() -> None:
    writer, tree = RangeWriter(), Tree(5)
    for _ in range(4000):
        tree.code(writer, 19)
    assert len(writer.finish()) < 60


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=40).filter(lambda counts: sum(c > 0 for c in counts) > 1))
def test_huffman_lengths_make_a_complete_prefix_code(counts: list[int]) -> None:
    lengths = huffman_lengths(counts)
    assert [length > 0 for length in lengths] == [count > 0 for count in counts]
    assert max(lengths) <= 12
    assert sum(Fraction(1, 2**length) for length in lengths if length) == 1
    words = [f"{word:0{length}b}"[::-1] for word, length in zip(huffman_words(lengths), lengths, strict=True) if length]
    assert not any(a != b and b.startswith(a) for a in words for b in words)
    total = sum(counts)
    entropy = -sum(c * np.log2(c / total) for c in counts if c)
    assert sum(c * n for c, n in zip(counts, lengths, strict=True)) < entropy + total * 1.1


def test_huffman_lengths_are_optimal_under_the_limit() -> None:
    """Fibonacci counts want one code a length: the limit binds; dynamic programming knows the best."""
    counts = [1, 1]
    while len(counts) < 16:
        counts.append(counts[-1] + counts[-2])
    lengths = huffman_lengths(counts)
    assert max(lengths) == 12
    # over symbols from frequent to rare, lengths never falling: state is (length, space used)
    states = {(1, 0): 0}
    for count in reversed(counts):
        following: dict[tuple[int, int], int] = {}
        for (length, space), cost in states.items():
            for own in range(length, 13):
                used = space + (1 << (12 - own))
                if used <= 1 << 12:
                    key = (own, used)
                    following[key] = min(following.get(key, 1 << 60), cost + own * count)
        states = following
    assert sum(c * n for c, n in zip(counts, lengths, strict=True)) == min(states.values())


def test_huffman_of_one_symbol_takes_a_bit() -> None:
    assert huffman_lengths([0, 7, 0]) == [0, 1, 0]


@given(st.sets(st.floats(width=32, allow_nan=False, allow_infinity=False).filter(bool), max_size=60))
def test_codebooks_come_back_to_the_bit(values: set[float]) -> None:
    ascending = np.array(sorted(values), np.float32)
    stream = reference.codebook_encode(ascending)
    assert reference.codebook_decode(stream, ascending.size).tobytes() == ascending.tobytes()


def test_even_codebooks_are_small() -> None:
    """Centroids of linear initialization: far below four bytes each."""
    values = np.linspace(-0.4, 0.4, 256, dtype=np.float32)
    assert len(reference.codebook_encode(values)) < 256 * 1.5


def test_relative_index_is_deep_compressions() -> None:
    """The example of the paper's figure 2 (3-bit gaps): entries at 1, 4, 15 of 16; the gap to 15 takes a filler."""
    flat = np.zeros(16, np.uint8)
    flat[[1, 4, 15]] = [34, 12, 17]
    entries, gaps = reference.relative(flat, 3)
    assert entries.tolist() == [34, 12, 0, 17]
    assert gaps.tolist() == [1, 2, 7, 2]


@given(st.integers(2, 8), st.integers(0, 700), st.integers(0, 700))
def test_fillers_cover_long_runs_and_tails(bits: int, run: int, tail: int) -> None:
    flat = np.zeros(run + 1 + tail, np.uint8)
    flat[run] = 9
    entries, gaps = reference.relative(flat, bits)
    places = np.cumsum(gaps.astype(int) + 1) - 1
    assert entries.size == 1 + (run >> bits) + (tail >> bits)
    assert places[entries == 9].tolist() == [run]
    assert flat.size - 1 - places[-1] < 1 << bits
