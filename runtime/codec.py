"""The payload codec, written to be read: the specification the C core (``csrc/codec``) is held against, and the
fallback where that is not built. docs/format.md has the layout byte by byte.

Everything here works on codes that are ranks: code 0 is zero, codes from 1 on are the non-zero values, ascending.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from .codec_context import ContextShape, context_decode, context_encode, depth_of, kernel_rank_of, raw_bits_for
from .codec_range import RangeReader, RangeWriter, Tree

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

VERSION = 1
MAX_RANK = 8
HUFFMAN_LIMIT = 12
"""Longest Huffman code, bits."""
ELEMENTS_PER_BYTE, ELEMENTS_FREE = 2048, 4096
"""A payload of n bytes may announce at most ``2048 n + 4096`` elements."""


class Status(IntEnum):
    """``eie_status`` of csrc/include/eie.h, as far as payloads go."""

    OK = 0
    TRUNCATED = 1
    MAGIC = 2
    VERSION = 3
    CHECKSUM = 4
    CORRUPT = 5
    MEMORY = 8
    ARGUMENT = 9


class Codec(IntEnum):
    """How a stream is stored; as index codec ``AUTO`` (0) stands for no gaps at all."""

    AUTO = 0
    RAW = 1
    HUFFMAN = 2
    CONTEXT = 3


class PayloadError(Exception):
    """A payload can't be read: ``status`` says why."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(status.name)


def _require(condition: bool, status: Status = Status.CORRUPT) -> None:
    if not condition:
        raise PayloadError(status)


# ---- bit streams: fields lowest bit first, padded with zeros to a byte -----------------------------------------------
def pack(words: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> bytes:
    """``words[i]``'s lowest ``lengths[i]`` bits (at most 16), one after the other."""
    at = np.arange(16)
    bits = (words.astype(np.int64)[:, None] >> at) & 1
    return np.packbits(bits[at < lengths[:, None]].astype(np.uint8), bitorder="little").tobytes()


def packed_bytes(count: int, bits: int) -> int:
    return (count * bits + 7) // 8


def unpack(stream: bytes, count: int, bits: int) -> npt.NDArray[np.uint8]:
    """``count`` fields of ``bits`` bits, at most 8; the bits left over must be zeros."""
    loose = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")
    _require(not loose[count * bits :].any())
    fields = np.zeros(count, np.uint8)
    for bit in range(bits):
        fields |= loose[bit : count * bits : bits] << np.uint8(bit)
    return fields


# ---- Huffman ---------------------------------------------------------------------------------------------------------
def huffman_lengths(counts: Sequence[int]) -> list[int]:
    """Code lengths (0: symbol unused) of an optimal code no longer than 12 bits.

    Package-merge (Larmore and Hirschberg 1990). Each level's list holds the leaves and the pairs of the level below by
    weight, leaves first where weights are equal; the first 2n - 2 items of the last list are taken, and a leaf's code
    is as long as it was taken often. A lone symbol gets one bit.
    """
    lengths = [0] * len(counts)
    leaves = sorted((s for s, count in enumerate(counts) if count), key=lambda s: (counts[s], s))
    if len(leaves) <= 1:
        for s in leaves:
            lengths[s] = 1
        return lengths
    levels: list[list[bool]] = []
    pairs: list[int] = []
    for _ in range(HUFFMAN_LIMIT):
        # (weight, is a pair): sorting is stable, so order within each kind stays
        items = sorted([(counts[s], 0) for s in leaves] + [(w, 1) for w in pairs])
        levels.append([kind == 0 for _, kind in items])
        pairs = [items[i][0] + items[i + 1][0] for i in range(0, len(items) - 1, 2)]
    take = 2 * len(leaves) - 2
    for level in reversed(levels):
        taken = sum(level[:take])
        for s in leaves[:taken]:
            lengths[s] += 1
        take = 2 * (take - taken)
    return lengths


def huffman_words(lengths: Sequence[int]) -> list[int]:
    """Canonical code words, by length and then symbol; first bit lowest."""
    words, following = [0] * len(lengths), 0
    for length in range(1, HUFFMAN_LIMIT + 1):
        for s, own in enumerate(lengths):
            if own == length:
                words[s] = int(f"{following:0{length}b}"[::-1], 2)
                following += 1
        following <<= 1
    return words


def huffman_table_encode(lengths: Sequence[int]) -> bytes:
    """Each length through a learning coder that looks at the one before."""
    writer, trees, last = RangeWriter(), [Tree(4) for _ in range(16)], 0
    for length in lengths:
        trees[last].code(writer, length)
        last = length
    return writer.finish()


def huffman_table_decode(table: bytes, symbols: int) -> list[int]:
    reader, trees = RangeReader(table), [Tree(4) for _ in range(16)]
    lengths: list[int] = []
    for _ in range(symbols):
        lengths.append(trees[lengths[-1] if lengths else 0].code(reader))
        _require(lengths[-1] <= HUFFMAN_LIMIT)
    space = sum(2.0**-length for length in lengths if length)
    lone = sum(length > 0 for length in lengths) == 1 and space == 0.5
    _require(space == 1 or lone)
    return lengths


def huffman_decode(stream: bytes, lengths: Sequence[int], count: int) -> list[int]:
    """``count`` symbols, or fewer than that never: bits past the end are a damaged payload."""
    lone = sum(length > 0 for length in lengths) == 1
    table: list[tuple[int, int]] = [(0, 0)] * (1 << HUFFMAN_LIMIT)
    for s, (length, word) in enumerate(zip(lengths, huffman_words(lengths), strict=True)):
        for i in range(word, len(table) if length else 0, 1 if lone else 1 << length):
            table[i] = (s, length)
    bits, total, at, symbols = int.from_bytes(stream[:8], "little"), 8 * len(stream), 0, []
    for _ in range(count):
        byte = at >> 3
        bits = int.from_bytes(stream[byte : byte + 3], "little") >> (at & 7)
        symbol, length = table[bits & ((1 << HUFFMAN_LIMIT) - 1)]
        at += length
        _require(at <= total)
        symbols.append(symbol)
    _require(total - at < 8 and int.from_bytes(stream[at >> 3 :], "little") >> (at & 7) == 0)
    return symbols


# ---- the codebook ----------------------------------------------------------------------------------------------------
def _ordered(value: np.float32) -> int:
    """Floats in their order as integers in theirs."""
    bits = int(value.view(np.uint32))
    return bits ^ 0xFFFFFFFF if bits >> 31 else bits | 0x80000000


def _unordered(rank: int) -> np.float32:
    return np.uint32(rank & 0x7FFFFFFF if rank >> 31 else rank ^ 0xFFFFFFFF).view(np.float32)


def _predicted(values: Sequence[np.float32]) -> int:
    """Goes on as far as the last step went."""
    if len(values) == 1:
        return _ordered(values[0])
    with np.errstate(over="ignore"):
        return _ordered(np.float32(2) * values[-1] - values[-2])


def codebook_encode(values: Floats) -> bytes:
    """Ascending values; of each, how many floats it is away from its prediction: number of bits, then the bits."""
    if not values.size:
        return b""
    writer, tree, known = RangeWriter(), Tree(6), [values[0]]
    writer.plain(32, _ordered(values[0]))
    for value in values[1:]:
        far = _ordered(value) - _predicted(known)
        far = 2 * far if far >= 0 else -2 * far - 1
        tree.code(writer, far.bit_length())
        writer.plain(max(0, far.bit_length() - 1), far)
        known.append(value)
    return writer.finish()


def codebook_decode(stream: bytes, count: int) -> Floats:
    if not count:
        return np.zeros(0, np.float32)
    reader, tree = RangeReader(stream), Tree(6)
    known = [_unordered(reader.plain(32))]
    _require(bool(np.isfinite(known[0])))
    for _ in range(count - 1):
        bits = tree.code(reader)
        _require(bits <= 34)
        far = bits if bits <= 1 else 1 << (bits - 1) | reader.plain(bits - 1)
        here = _predicted(known) + (-(far + 1) // 2 if far & 1 else far // 2)
        _require(_ordered(known[-1]) < here <= 0xFFFFFFFF)
        known.append(_unordered(here))
        _require(bool(np.isfinite(known[-1])))
    return np.array(known, np.float32)


# ---- the header ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Header:
    """What stands before the streams. Sizes in bytes; ``at`` is where the codebook begins."""

    dims: tuple[int, ...]
    pattern: int
    codebook_size: int
    code_codec: Codec
    index_codec: Codec
    index_bits: int
    entries: int
    codebook_coded: bool
    kernel_rank: int
    raw_bits: int
    codebook_bytes: int
    code_table_bytes: int
    index_table_bytes: int
    code_bytes: int
    index_bytes: int
    at: int = 0

    @property
    def elements(self) -> int:
        return prod(self.dims)

    @property
    def bits(self) -> int:
        return max(1, depth_of(self.codebook_size))

    def write(self) -> bytes:
        """The header's bytes."""
        head = bytes([VERSION, len(self.dims) | self.kernel_rank << 4, self.code_codec | self.index_codec << 4,
                      self.index_bits | self.raw_bits << 4, self.pattern | self.codebook_coded << 4,
                      self.codebook_size - 1])  # fmt: skip
        numbers = list(self.dims)
        numbers += [self.entries] if self.index_codec else []
        numbers += [self.codebook_bytes] if self.codebook_coded else []
        numbers += [self.code_table_bytes] if self.code_codec == Codec.HUFFMAN else []
        numbers += [self.index_table_bytes] if self.index_codec == Codec.HUFFMAN else []
        numbers += [self.code_bytes] if self.code_codec != Codec.RAW else []
        numbers += [self.index_bytes] if self.index_codec > Codec.RAW else []
        return b"EIE" + head + b"".join(map(varint, numbers))


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the highest bit says that more follow."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class _Cursor:
    def __init__(self, payload: bytes, at: int) -> None:
        self.payload, self.at = payload, at

    def byte(self) -> int:
        _require(self.at < len(self.payload), Status.TRUNCATED)
        self.at += 1
        return self.payload[self.at - 1]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if not byte & 128:
                _require(not (shift and not byte) and not value >> 62)
                return value
        raise PayloadError(Status.CORRUPT)


def _read_dims(cursor: _Cursor, rank: int, size: int) -> tuple[int, ...]:
    _require(rank <= MAX_RANK)
    dims = tuple(cursor.varint() for _ in range(rank))
    _require(prod(dims) <= size * ELEMENTS_PER_BYTE + ELEMENTS_FREE)
    return dims


def read_header(payload: bytes) -> Header:
    """Reads the header and checks every announced size against the payload's."""
    _require(payload[:3] == b"EIE"[: len(payload)], Status.MAGIC)
    _require(len(payload) >= 4, Status.TRUNCATED)
    _require(payload[3] == VERSION, Status.VERSION)
    cursor = _Cursor(payload, 4)
    shape, codecs, widths, flags, symbols = (cursor.byte() for _ in range(5))
    dims = _read_dims(cursor, shape & 15, len(payload))
    index, coded = codecs >> 4, flags >> 4
    code_codec = codecs & 15
    entries = cursor.varint() if index else prod(dims)
    codebook_bytes = cursor.varint() if coded else 4 * symbols
    code_table = cursor.varint() if code_codec == Codec.HUFFMAN else 0
    index_table = cursor.varint() if index == Codec.HUFFMAN else 0
    _require(1 <= code_codec <= 3 and index <= 3 and coded <= 1)
    header = Header(dims, flags & 15, symbols + 1, Codec(code_codec), Codec(index), widths & 15, entries, bool(coded),
                    shape >> 4, widths >> 4, codebook_bytes, code_table, index_table, 0, 0)  # fmt: skip
    _require(_fits(header))
    code_bytes = packed_bytes(entries, header.bits) if code_codec == Codec.RAW else cursor.varint()
    raw_index = packed_bytes(entries, header.index_bits)
    index_bytes = raw_index if index == Codec.RAW else cursor.varint() if index else 0
    streams = codebook_bytes + code_table + index_table + code_bytes + index_bytes
    _require(cursor.at + streams + 4 <= len(payload), Status.TRUNCATED)
    _require(cursor.at + streams + 4 == len(payload))
    return Header(**{**header.__dict__, "code_bytes": code_bytes, "index_bytes": index_bytes, "at": cursor.at})


def _fits(h: Header) -> bool:
    """What the codecs, the counts and the code widths may be, together."""
    relative = h.index_codec in (Codec.RAW, Codec.HUFFMAN)
    rank = len(h.dims)
    if h.pattern > 3 or h.kernel_rank > max(0, rank - 2) or h.entries > h.elements:
        return False
    if (h.code_codec == Codec.CONTEXT) != (h.index_codec == Codec.CONTEXT):
        return False
    if not (2 <= h.index_bits <= 8 if relative else h.index_bits == 0):
        return False
    if h.code_codec != Codec.CONTEXT:
        return h.kernel_rank == 0 and h.raw_bits == 0
    if h.raw_bits > max(0, depth_of(h.codebook_size - 1) - 4) or (h.entries and h.codebook_size == 1):
        return False
    kernel = h.dims[rank - h.kernel_rank :]
    return 0 not in kernel and prod(kernel) <= 128


# ---- payloads --------------------------------------------------------------------------------------------------------
def decode_payload(payload: bytes) -> tuple[Codes, Floats, Header]:
    """Codes (in the weight's shape), codebook (float32, [0] is 0.0) and header.

    Raises:
        PayloadError: the payload is damaged, hostile, or not ours.
    """
    h = read_header(payload)
    _require(zlib.crc32(payload[:-4]) == struct.unpack("<I", payload[-4:])[0], Status.CHECKSUM)
    sizes = (h.codebook_bytes, h.code_table_bytes, h.index_table_bytes, h.code_bytes, h.index_bytes)
    parts, at = [], h.at
    for size in sizes:
        parts.append(payload[at : at + size])
        at += size
    stored, code_table, index_table, code_stream, index_stream = parts
    count = h.codebook_size - 1
    values = codebook_decode(stored, count) if h.codebook_coded else np.frombuffer(stored, "<f4").astype(np.float32)
    _require(bool(np.isfinite(values).all() and (values != 0).all() and (values[1:] > values[:-1]).all()))
    if h.code_codec == Codec.CONTEXT:
        codes = _decode_context(h, int((values < 0).sum()), index_stream, code_stream)
    else:
        fields = _decode_fields(h.code_codec, code_stream, code_table, h.codebook_size, h.entries, h.bits)
        _require(not fields.size or int(fields.max()) < h.codebook_size)
        codes = fields
        if h.index_codec:
            gaps = _decode_fields(h.index_codec, index_stream, index_table, 1 << h.index_bits, h.entries, h.index_bits)
            codes = _spread(fields, gaps, h)
    return codes.reshape(h.dims), np.concatenate([np.zeros(1, np.float32), values]), h


def _decode_fields(codec: Codec, stream: bytes, table: bytes, symbols: int, count: int, bits: int) -> Codes:
    if codec == Codec.RAW:
        return unpack(stream, count, bits)
    return np.array(huffman_decode(stream, huffman_table_decode(table, symbols), count), np.uint8)


def _spread(fields: Codes, gaps: Codes, h: Header) -> Codes:
    """Entries at their places: the gap is the number of zeros before an entry (Deep Compression, section 2)."""
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    last = int(places[-1]) if places.size else -1
    _require(last < h.elements and h.elements - 1 - last < 1 << h.index_bits)
    codes = np.zeros(h.elements, np.uint8)
    codes[places] = fields
    return codes


def _decode_context(h: Header, negative: int, places: bytes, values: bytes) -> Codes:
    if not h.elements:
        _require(not places and not values and not h.entries)
        return np.zeros(0, np.uint8)
    shape = ContextShape.of(h.dims, h.kernel_rank, h.entries, h.codebook_size - 1, negative, h.raw_bits)
    low_size = 0
    if values:
        cursor = _Cursor(values, 0)
        low_size = cursor.varint()
        values = values[cursor.at :]
    raw_size = packed_bytes(h.entries, h.raw_bits)
    high_size = len(values) - low_size - raw_size
    _require(high_size >= 0)
    raw = unpack(values[high_size + low_size :], h.entries, h.raw_bits) if h.raw_bits else np.zeros(h.entries, np.uint8)
    codes = context_decode(shape, places, values[:high_size], values[high_size : high_size + low_size], raw)
    _require(codes is not None)
    assert codes is not None
    return codes


def relabel(codes: Codes, codebook: Floats) -> tuple[Codes, Floats]:
    """Codes as ranks of the values in use, and those values without the zero. What they stand for does not change."""
    used = np.unique(codes)
    values = np.unique(codebook[used])
    values = values[values != 0]
    labels = np.zeros(256, np.uint8)
    labels[used] = np.where(codebook[used] == 0, 0, np.searchsorted(values, codebook[used]) + 1)
    return labels[codes], values


def relative(flat: Codes, bits: int) -> tuple[Codes, Codes]:
    """Entries and gaps: runs of zeros longer than a gap holds get fillers, at the end of the weight too."""
    places = np.flatnonzero(flat)
    runs = np.diff(places, prepend=-1) - 1
    tail = flat.size - (int(places[-1]) + 1 if places.size else 0)
    fillers = np.append(runs, tail) >> bits
    count = places.size + int(fillers.sum())
    entries, gaps = np.zeros(count, np.uint8), np.full(count, (1 << bits) - 1, np.uint8)
    at = np.cumsum(fillers[:-1] + 1) - 1
    entries[at], gaps[at] = flat[places], runs & ((1 << bits) - 1)
    return entries, gaps


def _stored(codec: Codec, fields: Codes, symbols: int, bits: int) -> tuple[bytes, bytes]:
    """Table and stream."""
    if codec == Codec.RAW:
        return b"", pack(fields, np.full(fields.size, bits))
    lengths = huffman_lengths(np.bincount(fields, minlength=symbols).tolist())
    words, own = np.array(huffman_words(lengths)), np.array(lengths)
    return huffman_table_encode(lengths), pack(words[fields], own[fields])


def encode_payload(codes: Codes, codebook: Floats, pattern: int, codec: Codec, index_bits: int) -> bytes:
    """The same bytes as ``eie_payload_encode``: the smallest of what ``codec`` and ``index_bits`` (0: any) allow."""
    ranks, values = relabel(codes, codebook)
    flat, dims = ranks.reshape(-1), codes.shape
    coded = codebook_encode(values)
    is_coded = len(coded) + 2 < 4 * values.size
    stored = coded if is_coded else values.astype("<f4").tobytes()
    base: dict[str, Any] = {"dims": dims, "pattern": pattern, "codebook_size": values.size + 1,
                            "codebook_coded": is_coded, "codebook_bytes": len(stored)}  # fmt: skip
    best = b""
    for body in _simple_ways(flat, base, stored, Codec.AUTO if codec == Codec.CONTEXT else codec, index_bits):
        best = body if not best or len(body) < len(best) else best
    if flat.size and not index_bits and codec in (Codec.AUTO, Codec.CONTEXT):
        body = _context_way(flat, base, stored, int((values < 0).sum()))
        backed = flat.size <= (len(body) + 4) * ELEMENTS_PER_BYTE + ELEMENTS_FREE
        if backed and (codec == Codec.CONTEXT or len(body) < len(best)):
            best = body
    return best + struct.pack("<I", zlib.crc32(best))


def _simple_ways(flat: Codes, base: dict[str, Any], stored: bytes, codec: Codec, index_bits: int) -> list[bytes]:
    ways = []
    symbols = base["codebook_size"]
    bits = max(1, depth_of(symbols))
    for width in (0, *range(2, 9)):
        if index_bits and width != index_bits:
            continue
        entries, gaps = relative(flat, width) if width else (flat, np.zeros(0, np.uint8))
        for code_codec in (Codec.RAW, Codec.HUFFMAN):
            for index_codec in (Codec.RAW, Codec.HUFFMAN):
                if (codec and {code_codec, index_codec} != {codec}) or (not width and code_codec != index_codec):
                    continue
                code = code_codec if entries.size else Codec.RAW
                index = Codec.AUTO if not width else index_codec if entries.size else Codec.RAW
                code_table, code_stream = _stored(code, entries, symbols, bits)
                index_table, index_stream = _stored(index, gaps, 1 << width, width) if width else (b"", b"")
                header = Header(**base, code_codec=code, index_codec=index, index_bits=width, entries=entries.size,
                                kernel_rank=0, raw_bits=0, code_table_bytes=len(code_table),
                                index_table_bytes=len(index_table), code_bytes=len(code_stream),
                                index_bytes=len(index_stream))  # fmt: skip
                ways.append(header.write() + stored + code_table + index_table + code_stream + index_stream)
    return ways


def _context_way(flat: Codes, base: dict[str, Any], stored: bytes, negative: int) -> bytes:
    symbols, dims = base["codebook_size"] - 1, base["dims"]
    raw_bits = raw_bits_for(np.bincount(flat, minlength=symbols + 1)[1:].tolist())
    nonzeros, kernel_rank = int(np.count_nonzero(flat)), kernel_rank_of(dims)
    shape = ContextShape.of(dims, kernel_rank, nonzeros, symbols, negative, raw_bits)
    places, high, low = context_encode(shape, flat)
    kept = (flat[flat > 0] - 1) & ((1 << raw_bits) - 1)
    raw = pack(kept, np.full(kept.size, raw_bits))
    values = varint(len(low)) + high + low + raw if high or low or raw else b""
    header = Header(**base, code_codec=Codec.CONTEXT, index_codec=Codec.CONTEXT, index_bits=0, entries=nonzeros,
                    kernel_rank=kernel_rank, raw_bits=raw_bits, code_table_bytes=0, index_table_bytes=0,
                    code_bytes=len(values), index_bytes=len(places))  # fmt: skip
    return header.write() + stored + values + places
