"""Payloads from outside: round trips, damage, hostility, frozen files, the size of real models."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eie.runtime import format as eie_format
from eie.runtime.codec import varint
from eie.runtime.errors import FormatError, UserError
from eie.runtime.format import CODECS, decode, encode, inspect
from eie.runtime.weight import PATTERNS, Weight

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v1"


def make(shape: tuple[int, ...], symbols: int, density: float, seed: int = 0) -> Weight:
    random = np.random.default_rng(seed)
    codes = (random.integers(1, symbols + 1, shape) * (random.random(shape) < density)).astype(np.uint8)
    codebook = np.append(np.float32(0), np.sort(random.standard_normal(symbols))).astype(np.float32)
    return Weight(codes, codebook)


def refixed(payload: bytes) -> bytes:
    """The payload with its checksum put right."""
    return payload[:-4] + struct.pack("<I", zlib.crc32(payload[:-4]))


def header(
    dims: tuple[int, ...], codecs: int, widths: int = 0, symbols: int = 0, rest: bytes = b"", flags: int = 0
) -> bytes:
    """A payload by hand; ``rest`` is what follows the dimensions, less the checksum."""
    head = b"EIE" + bytes([1, len(dims), codecs, widths, flags, symbols]) + b"".join(map(varint, dims)) + rest
    return refixed(head + b"....")


EDGES = {
    "empty": make((0,), 3, 0.5),
    "empty matrix": make((4, 0, 3), 3, 0.5),
    "scalar": Weight(np.array(1, np.uint8), np.array([0, 2.5], np.float32)),
    "scalar zero": Weight(np.array(0, np.uint8), np.array([0], np.float32)),
    "all zeros": make((30, 41), 1, 0.0),
    "one value": make((17, 5), 1, 1.0),
    "one value, sparse": make((17, 5), 1, 0.2),
    "ternary": make((33, 65), 2, 0.4),
    "all distinct": Weight(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.float32)),
    "256 entries, zero unused": make((25, 31), 255, 1.0),
    "odd sizes": make((7, 11, 3, 5), 30, 0.3),
    "five dimensions": make((3, 2, 3, 2, 3), 40, 0.6),
    "eight dimensions": make((1, 2, 1, 3, 1, 2, 1, 2), 5, 0.6),
    "large kernel": make((2, 3, 150), 6, 0.3),
    "long row": make((1, 9000), 12, 0.1),
    "negative only": Weight(make((9, 9), 3, 0.6).codes, np.array([0, -3, -2, -1e-40], np.float32)),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", EDGES)
def test_edges_come_back(name: str, codec: eie_format.CodecName) -> None:
    weight = EDGES[name]
    payload = encode(weight, codec=codec)
    found = decode(payload)
    assert found.shape == weight.shape
    assert found.dense().tobytes() == weight.dense().tobytes()
    info = inspect(payload)
    assert info.size == len(payload)
    assert info.shape == weight.shape
    assert info.elements == weight.size
    assert info.codebook_size == found.codebook.size


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=3), st.integers(1, 255), st.floats(0, 1), st.sampled_from(CODECS),
    st.integers(0, 99),
)  # fmt: skip
def test_round_trip(shape: list[int], symbols: int, density: float, codec: eie_format.CodecName, seed: int) -> None:
    weight = make(tuple(shape), symbols, density, seed)
    assert decode(encode(weight, codec=codec)).dense().tobytes() == weight.dense().tobytes()


def test_codebook_is_tidied() -> None:
    """Unsorted, doubled, unused and negative-zero entries: gone, and no value changed."""
    codebook = np.array([0, 3, -1, 3, -0.0, 7, 2], np.float32)
    weight = Weight(np.array([[0, 1, 2], [3, 4, 6]], np.uint8), codebook)
    found = decode(encode(weight))
    assert found.codebook.tolist() == [0, -1, 2, 3]
    assert found.codes.tolist() == [[0, 3, 1], [3, 0, 2]]
    assert not np.signbit(found.dense()[1, 1])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_kept(pattern: eie_format.Pattern) -> None:
    weight = Weight(EDGES["ternary"].codes, EDGES["ternary"].codebook, pattern)
    payload = encode(weight)
    assert decode(payload).pattern == inspect(payload).pattern == pattern


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("codec", ["auto", "raw", "huffman"])
def test_index_bits_are_obeyed(bits: int, codec: eie_format.CodecName) -> None:
    weight = make((64, 50), 15, 0.1)
    info = inspect(payload := encode(weight, codec=codec, index_bits=bits))
    assert info.index_bits == bits
    assert info.index_codec in ("raw", "huffman")
    assert codec == "auto" or info.index_codec == info.code_codec == codec
    assert decode(payload).dense().tobytes() == weight.dense().tobytes()


def test_auto_is_the_smallest() -> None:
    for weight in EDGES.values():
        assert len(encode(weight)) <= min(len(encode(weight, codec=codec)) for codec in CODECS)


def test_numpy_payloads_and_views() -> None:
    weight = EDGES["ternary"]
    payload = np.frombuffer(encode(weight), np.uint8)
    strided = np.repeat(payload, 2)[::2]
    assert np.array_equal(decode(strided).codes, decode(payload).codes)
    assert decode(memoryview(bytes(payload))).shape == weight.shape
    turned = Weight(np.asfortranarray(weight.codes), weight.codebook)
    assert encode(turned) == bytes(payload)


def test_options_that_make_no_sense() -> None:
    weight = EDGES["ternary"]
    with pytest.raises(UserError, match="no codec 'zip'"):
        encode(weight, codec="zip")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="2 to 8 bits, not 1"):
        encode(weight, index_bits=1)
    with pytest.raises(UserError, match="no gaps"):
        encode(weight, codec="context", index_bits=4)


def test_weights_no_payload_holds() -> None:
    with pytest.raises(FormatError, match="8 dimensions"):
        encode(make((1,) * 9, 1, 1.0))
    with pytest.raises(FormatError, match="NaN"):
        encode(Weight(np.zeros(3, np.uint8), np.array([0, np.nan], np.float32)))
    with pytest.raises(FormatError, match="past the codebook"):
        encode(Weight(np.full(3, 2, np.uint8), np.array([0, 1], np.float32)))


@pytest.mark.parametrize("codec", CODECS)
def test_every_flipped_bit_is_noticed(codec: eie_format.CodecName) -> None:
    payload = encode(make((5, 19), 6, 0.5), codec=codec)
    for bit in range(8 * len(payload)):
        broken = bytearray(payload)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError, match=r"layer7\.weight: "):
            decode(bytes(broken), "layer7.weight")


@pytest.mark.parametrize("codec", CODECS)
def test_every_flipped_bit_behind_a_good_checksum(codec: eie_format.CodecName) -> None:
    """Either refused, or some weight of sane codes: never anything else."""
    payload = encode(make((4, 3, 3, 3), 40, 0.5), codec=codec)
    for bit in range(8 * (len(payload) - 4)):
        broken = bytearray(payload)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            found = decode(refixed(bytes(broken)))
        except FormatError:
            continue
        assert found.size == 0 or found.codes.max() < found.codebook.size
        assert np.isfinite(found.codebook).all()


@pytest.mark.parametrize("codec", CODECS)
def test_every_truncation_is_noticed(codec: eie_format.CodecName) -> None:
    payload = encode(make((9, 21), 12, 0.4), codec=codec)
    for size in range(len(payload)):
        with pytest.raises(FormatError):
            decode(payload[:size])
        with pytest.raises(FormatError):
            inspect(payload[:size])
    with pytest.raises(FormatError, match="impossible"):
        decode(refixed(payload + b"\0"))


ONE = struct.pack("<f", 1)
HOSTILE = {
    "not ours": (b"PK\3\4 and so on", "no EIE payload"),
    "nothing": (b"", "ends before"),
    "newer": (b"EIE\x02" + bytes(20), "version"),
    "elements without bytes": (header((1 << 40,), 0x11, 0x08, rest=varint(0)), "impossible"),
    "product of dimensions overflows": (header((1 << 33, 1 << 33), 0x11, 0x08, rest=varint(0)), "impossible"),
    "rank 9": (header((1,) * 9, 0x01, rest=b"\0"), "impossible"),
    "varint without end": (b"EIE" + bytes([1, 1, 1, 0, 0, 0]) + b"\xff" * 12, "impossible"),
    "varint in a long form": (b"EIE" + bytes([1, 1, 1, 0, 0, 0, 0x81, 0]) + bytes(6), "impossible"),
    "no such code codec": (header((2,), 0x04, rest=b"\0"), "impossible"),
    "no such index codec": (header((2,), 0x41, rest=b"\0\0"), "impossible"),
    "gaps of one bit": (header((2,), 0x11, 0x01, rest=b"\1\0\0"), "impossible"),
    "no such pattern": (header((2,), 0x01, flags=4, rest=b"\0"), "impossible"),
    "more entries than elements": (header((2,), 0x11, 0x02, rest=b"\3\0\0"), "impossible"),
    "code past the codebook": (header((2,), 0x01, symbols=2, rest=struct.pack("<2f", 1, 2) + b"\x0f"), "impossible"),
    "infinite codebook": (header((2,), 0x01, symbols=1, rest=struct.pack("<f", np.inf) + b"\1"), "impossible"),
    "NaN in the codebook": (header((2,), 0x01, symbols=1, rest=struct.pack("<f", np.nan) + b"\1"), "impossible"),
    "zero in the codebook": (header((2,), 0x01, symbols=1, rest=struct.pack("<f", 0) + b"\1"), "impossible"),
    "codebook out of order": (header((2,), 0x01, symbols=2, rest=struct.pack("<2f", 2, 1) + b"\1"), "impossible"),
    "position past the end": (header((3,), 0x11, 0x02, symbols=1, rest=b"\2" + ONE + b"\3\x0f"), "impossible"),
    "tail without entries": (header((40,), 0x11, 0x02, symbols=1, rest=b"\1" + ONE + b"\1\0"), "impossible"),
    "padding not zero": (header((2,), 0x01, symbols=1, rest=struct.pack("<f", 1) + b"\x81"), "impossible"),
    "values without symbols": (header((2,), 0x33, rest=b"\1\0\0"), "impossible"),
    "kernel of a matrix": (header((2, 2), 0x33, rest=b"\0\0\0").replace(b"\1\2\x33", b"\1\x12\x33"), "impossible"),
    "Huffman lengths of no code": (header((8,), 0x02, symbols=1, rest=b"\0\1" + struct.pack("<f", 1) + b"\0"), None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_refused(name: str) -> None:
    payload, match = HOSTILE[name]
    with pytest.raises(FormatError, match=match):
        decode(payload)
    with pytest.raises(FormatError, match=match):
        decode(refixed(payload) if payload[:4] == b"EIE\1" else payload)


def test_empty_weight_with_absurd_dimensions() -> None:
    payload = header((0, *(1 << 61,) * 7), 0x01)
    with pytest.raises(FormatError, match="memory"):
        decode(payload)


def test_a_hundred_million_zeros_are_small_and_fast() -> None:
    if eie_format._lib is None:
        pytest.skip("the C core is not built")
    weight = Weight(np.zeros((10_000, 10_000), np.uint8), np.zeros(1, np.float32))
    payload = encode(weight)
    assert weight.size <= 2048 * len(payload)
    assert len(payload) < 100_000
    start = time.perf_counter()
    found = decode(payload)
    assert time.perf_counter() - start < 2
    assert found.shape == weight.shape
    assert found.nonzeros == 0


@pytest.mark.parametrize("codec", CODECS)
def test_without_the_core(codec: eie_format.CodecName, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = make((4, 3, 3, 3), 20, 0.5)
    payload = encode(weight, codec=codec)
    monkeypatch.setattr(eie_format, "_lib", None)
    assert encode(weight, codec=codec) == payload
    assert decode(payload).dense().tobytes() == weight.dense().tobytes()
    with pytest.raises(FormatError, match="checksum"):
        decode(payload[:-1] + bytes([payload[-1] ^ 1]))


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.eie")), ids=lambda path: path.stem)
def test_frozen_payloads_decode_for_ever(path: Path) -> None:
    expected = np.load(path.with_suffix(".npy"))
    found = decode(path.read_bytes())
    assert found.dense().tobytes() == expected.tobytes()
    assert found.shape == expected.shape
    assert path.stem.startswith(inspect(path.read_bytes()).code_codec)


def test_there_are_frozen_payloads() -> None:
    assert {path.stem.split("-")[0] for path in FIXTURES.glob("*.eie")} == {"raw", "huffman", "context"}


@pytest.fixture
def squeezenet() -> list[Weight]:
    """The published SqueezeNet of Deep Compression, 26 layers."""
    shared = Path(os.environ.get("EIE_SHARED", Path(__file__).parents[3] / "shared"))
    folder = shared / "data" / "squeezenet-deep-compression"
    if not (folder / "compressed_SqueezeNet.net").exists():
        pytest.skip("no compressed_SqueezeNet.net below EIE_SHARED/data/squeezenet-deep-compression")
    squeezes = [(16, 96), (16, 128), (32, 128), (32, 256), (48, 256), (48, 384), (64, 384), (64, 512)]
    shapes = [(96, 3, 7, 7)]
    for squeeze, channels in squeezes:
        shapes += [(squeeze, channels, 1, 1), (4 * squeeze, squeeze, 1, 1), (4 * squeeze, squeeze, 3, 3)]
    shapes.append((1000, 512, 1, 1))
    data = (folder / "compressed_SqueezeNet.net").read_bytes()
    entries, at, found = np.frombuffer(data, "<u4", 26), 104, []
    for shape, count in zip(shapes, entries.tolist(), strict=True):
        codebook = np.frombuffer(data, "<f4", 256, at)
        at += 1024 + 4 * shape[0]
        stored = np.frombuffer(data, np.uint8, count, at)
        packed = np.frombuffer(data, np.uint8, (count + 1) // 2, at + count)
        at += count + (count + 1) // 2
        gaps = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count].astype(np.int64)
        codes = np.zeros(int(np.prod(shape)), np.uint8)
        codes[np.cumsum(gaps + 1) - 1] = stored
        found.append(Weight(codes.reshape(shape), codebook.astype(np.float32)))
    assert at == len(data)
    return found


def test_squeezenet_beats_first_order_entropy(squeezenet: list[Weight]) -> None:
    """Codes and gaps at their first-order entropy and raw codebooks would take 525,568 bytes."""
    if eie_format._lib is None:
        pytest.skip("the C core is not built")
    sizes = {}
    for codec in ("auto", "huffman"):
        payloads = [encode(weight, codec=codec) for weight in squeezenet]  # type: ignore[arg-type]
        sizes[codec] = sum(map(len, payloads))
        for weight, payload in zip(squeezenet, payloads, strict=True):
            assert decode(payload).dense().tobytes() == weight.dense().tobytes()
    assert sizes["auto"] <= 508_000
    assert sizes["huffman"] <= 518_000
