"""Places and values by context modelling, written to be read; ``csrc/codec/context.c`` says why it is as it is.

Places: inside a kernel the circumstance of a decision is which positions before this one are taken; without a kernel,
how full the column has been so far and how full the row has been lately. Values: the four highest bits of a rank are
coded knowing how large the values of this column and row are, and what stands left and above in the kernel; lower bits
look at the higher ones only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import e as euler
from math import log2, pi, prod

import numpy as np
import numpy.typing as npt

from .codec_range import Bits, Coder, RangeReader, RangeWriter, descend

MAX_KERNEL = 128
_CHUNK, _SLOTS, _PAST = 4096, 256, 9


def depth_of(symbols: int) -> int:
    """Bits that tell ``symbols`` things apart."""
    return max(0, symbols - 1).bit_length()


def kernel_rank_of(dims: Sequence[int]) -> int:
    """How many trailing dimensions are a convolution's kernel: all past the second, if they are few positions."""
    return max(0, len(dims) - 2) if 0 < prod(dims[2:]) <= MAX_KERNEL else 0


@dataclass(frozen=True)
class ContextShape:
    """What the model has to know beforehand: ``elements = rows * columns * kernel``."""

    rows: int
    columns: int
    kernel: int
    kernel_width: int
    nonzeros: int
    symbols: int
    negative: int
    raw_bits: int

    @classmethod
    def of(
        cls, dims: Sequence[int], kernel_rank: int, nonzeros: int, symbols: int, negative: int, raw_bits: int
    ) -> ContextShape:
        split = len(dims) - kernel_rank
        matrix, kernel = dims[:split], dims[split:]
        return cls(prod(matrix[:-1]), matrix[-1] if matrix else 1, prod(kernel), kernel[-1] if kernel else 1,
                   nonzeros, symbols, negative, raw_bits)  # fmt: skip


def _log2_factorial(n: float) -> float:
    return 0.0 if n < 1 else n * log2(n / euler) + 0.5 * log2(2 * pi * n) + 0.12 / n


def raw_bits_for(counts: Sequence[int]) -> int:
    """How many low bits of a rank are not worth learning."""
    depth, raw, total = depth_of(len(counts)), 0, sum(counts)
    while raw + 4 < depth:
        width, cost = 1 << raw, 0.0
        for node in range(0, 1 << depth, 2 * width):
            zeros, ones = sum(counts[node : node + width]), sum(counts[node + width : node + 2 * width])
            cost += _log2_factorial(zeros + ones + 1) - _log2_factorial(zeros) - _log2_factorial(ones)
        if cost < 0.995 * total:
            break
        raw += 1
    return raw


def _log_eighths(x: int) -> int:
    """8 log2 x, linear between powers of two."""
    octave = x.bit_length() - 1
    return 8 * octave + ((8 * (x - (1 << octave))) >> octave)


class _Model:
    """One walk over the weight; the coders decide whether it reads or writes."""

    def __init__(self, shape: ContextShape, places: Coder, high: Coder, low: Coder) -> None:
        self.shape, self.places, self.high, self.low = shape, places, high, low
        self.depth = depth_of(shape.symbols)
        self.high_bits = min(4, self.depth)
        coarse = self.depth - self.high_bits
        middles = [min((g << coarse) + (1 << coarse >> 1), max(0, shape.symbols - 1)) for g in range(16)]
        self.signed_rank = [2 * (middle - shape.negative) + 1 for middle in middles]
        self.size = [_log_eighths(abs(rank)) << 8 for rank in self.signed_rank]
        self.typical, self.seen = _log_eighths(max(1, shape.symbols)) << 8, 0
        self.flat, self.kernel = Bits(64), Bits(_PAST << _PAST)
        self.high_states, self.low_states = Bits(6 * 9 * 16), Bits(256)
        self.chunk = _CHUNK // shape.kernel * shape.kernel
        length = shape.columns * shape.kernel
        slots = min(_SLOTS, length // self.chunk + 1)
        elements = shape.rows * length
        self.start = int(shape.nonzeros / elements * 65535) if elements else 0
        self.fullness = [self.start] * (slots * _CHUNK)
        self.column_size = [-1] * (slots * _CHUNK)

    def walk(self, codes: npt.NDArray[np.uint8], raw: npt.NDArray[np.uint8]) -> int | None:
        """Reads or fills the flat ``codes``; ``raw`` has each value's low bits. How many values there were, or None
        where one is past the last symbol."""
        shape, total = self.shape, 0
        length = shape.columns * shape.kernel
        for row in range(shape.rows):
            self.row = self.before = self.start
            self.row_size, self.size_before = self.typical, -self.typical
            for number, start in enumerate(range(0, length, self.chunk)):
                slot = number % _SLOTS * _CHUNK
                at = row * length + start
                here = codes[at : at + min(self.chunk, length - start)]
                places = self.places_kernel(here) if shape.kernel > 1 else self.places_flat(here, slot)
                if total + len(places) > shape.nonzeros:
                    return None
                if not self.values(here, places, slot, raw[total:]):
                    return None
                total += len(places)
        return total

    def places_flat(self, here: npt.NDArray[np.uint8], slot: int) -> list[int]:
        found = []
        for i in range(here.size):
            column = self.fullness[slot + i]
            taken = self.flat.code(self.places, (column >> 13) * 8 + (self.before >> 13), int(here[i] != 0))
            self.before = self.row
            flip = 0xFFFF if taken else 0
            column, row = column ^ flip, self.row ^ flip
            self.fullness[slot + i] = (column - (column >> 4)) ^ flip
            self.row = (row - (row >> 4)) ^ flip
            if taken:
                found.append(i)
        return found

    def places_kernel(self, here: npt.NDArray[np.uint8]) -> list[int]:
        found, kernel = [], self.shape.kernel
        for start in range(0, here.size, kernel):
            past = 0
            for q in range(kernel):
                taken = self.kernel.code(self.places, min(q, _PAST - 1) << _PAST | past, int(here[start + q] != 0))
                past = (past << 1 | taken) & ((1 << _PAST) - 1)
                if taken:
                    found.append(start + q)
        return found

    def neighbourhood(self, ranks: dict[int, int], i: int) -> int:
        """0: nothing before in the kernel. Else the sign and four sizes, against the typical one, of what is."""
        width = self.shape.kernel_width
        q = i % self.shape.kernel
        x, below = q % width, q >= width
        total = 2 * (ranks.get(i - 1, 0) if x else 0) + 2 * (ranks.get(i - width, 0) if below else 0)
        total += ranks.get(i - width + 1, 0) if below and not x and width > 1 else 0
        if not total:
            return 0
        size = (_log_eighths(abs(total)) << 8) - 2048 - self.typical
        return 1 + (size >= -2304) + (size >= -768) + (size >= 768) + (4 if total < 0 else 0)

    def values(self, here: npt.NDArray[np.uint8], places: list[int], slot: int, raw: npt.NDArray[np.uint8]) -> bool:
        raw_bits, high_bits = self.shape.raw_bits, self.high_bits
        low_bits = self.depth - high_bits - raw_bits
        ranks: dict[int, int] = {}
        good = True
        for i, kept in zip(places, raw.tolist(), strict=False):
            symbol = int(here[i]) - 1
            column = self.typical if self.column_size[slot + i] < 0 else self.column_size[slot + i]
            scale = min(5, max(0, ((column + self.size_before) >> 10) + 3))
            near = self.neighbourhood(ranks, i) if self.shape.kernel > 1 else 0
            base = (scale * 9 + near) * 16
            node = descend(self.high, self.high_states, base, 1, high_bits, symbol >> (low_bits + raw_bits))
            group = node - (1 << high_bits)
            node = descend(self.low, self.low_states, 0, node, low_bits, symbol >> raw_bits)
            symbol = (node - (1 << (high_bits + low_bits))) << raw_bits | kept
            good = good and symbol < self.shape.symbols
            here[i] = (symbol + 1) & 255
            size = self.size[group]
            ranks[i] = self.signed_rank[group]
            self.size_before = self.row_size - 2 * self.typical
            self.typical += (size - self.typical) >> (3 if self.seen < 32 else 9)
            self.seen = min(32, self.seen + 1)
            self.column_size[slot + i] = column + ((size - column) >> 2)
            self.row_size += (size - self.row_size) >> 3
        return good


def context_encode(shape: ContextShape, codes: npt.NDArray[np.uint8]) -> tuple[bytes, bytes, bytes]:
    """The streams of places, of values' high bits and of their middle bits; raw bits are the caller's."""
    places, high, low = RangeWriter(), RangeWriter(), RangeWriter()
    raw = (codes[codes > 0] - 1) & np.uint8((1 << shape.raw_bits) - 1)
    _Model(shape, places, high, low).walk(codes.copy(), raw)
    return places.finish(), high.finish(), low.finish()


def context_decode(
    shape: ContextShape, places: bytes, high: bytes, low: bytes, raw: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8] | None:
    """The flat codes, or None where the streams can't be of such a weight."""
    coders = RangeReader(places), RangeReader(high), RangeReader(low)
    # places are written into the codes by values(); until then zeros
    codes = np.zeros(shape.rows * shape.columns * shape.kernel, np.uint8)
    total = _Model(shape, *coders).walk(codes, raw)
    return codes if total == shape.nonzeros and all(coder.closed for coder in coders) else None
