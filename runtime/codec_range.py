"""A binary adaptive range coder, written to be read; ``csrc/codec/range.h`` says why it is as it is.

Writer and reader have the same methods, so that one description of a model is both its encoder and its decoder: a
writer's take the bit and give it back, a reader's ignore what they are given.
"""

from __future__ import annotations

FULL = 1 << 64


class RangeWriter:
    """Narrows the range [low, low + range) bit by bit; a one is the lower part."""

    def __init__(self) -> None:
        self.range, self.low, self.words = FULL - 1, 0, 0  # low grows: carries are Python's

    def bit(self, p: int, bit: int = 0) -> int:
        """``bit``, a one having probability p / 65536."""
        bound = (self.range >> 16) * p
        if bit:
            self.range = bound
        else:
            self.low += bound
            self.range -= bound
        if not self.range >> 32:
            self.range <<= 32
            self.low <<= 32
            self.words += 1
        return bit

    def plain(self, count: int, value: int = 0) -> int:
        """The lowest ``count`` bits of ``value``, highest first, each worth a bit."""
        for i in reversed(range(count)):
            self.bit(32768, value >> i & 1)
        return value

    def finish(self) -> bytes:
        """The stream: the fewest bytes that name a value in the range, less trailing zeros."""
        for unused in range(64, -8, -8):
            mask = (1 << max(0, unused)) - 1
            value = (self.low + mask) & ~mask
            if value - self.low < self.range:
                break
        return value.to_bytes(8 + 4 * self.words, "big").rstrip(b"\0")


class RangeReader:
    """Reads what a RangeWriter wrote; past the end there are zeros."""

    def __init__(self, stream: bytes) -> None:
        self.stream, self.at, self.range = stream, 8, FULL - 1
        self.value = int.from_bytes(stream[:8].ljust(8, b"\0"), "big")

    @property
    def closed(self) -> bool:
        """Nothing is left over."""
        return self.at >= len(self.stream)

    def bit(self, p: int, bit: int = 0) -> int:
        bound = (self.range >> 16) * p
        bit = int(self.value < bound)
        if bit:
            self.range = bound
        else:
            self.value -= bound
            self.range -= bound
        if not self.range >> 32:
            self.range <<= 32
            following = self.stream[self.at : self.at + 4].ljust(4, b"\0")
            # a value at or above the range, which only a damaged stream has, wraps as it does in 64 bits
            self.value = (self.value << 32 | int.from_bytes(following, "big")) % FULL
            self.at += 4
        return bit

    def plain(self, count: int, value: int = 0) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self.bit(32768)
        return value


Coder = RangeWriter | RangeReader

_SEEN = 254
_STEPS = [40960 // (10 * n + 16) for n in range(_SEEN + 1)]


class Bits:
    """Bits that learn: the probability of a one in the upper 22 bits, how often it was seen in the lower 10."""

    def __init__(self, count: int) -> None:
        self.states = [1 << 31] * count

    def code(self, coder: Coder, which: int, bit: int = 0) -> int:
        """Codes a bit with what ``which`` has learned, and teaches it."""
        s = self.states[which]
        bit = coder.bit(s >> 16 | 1, bit)
        n = s & 1023
        s += ((0xFFFFFFFF if bit else 0) - s) * _STEPS[n] >> 12
        self.states[which] = s & ~1023 | (n + (n < _SEEN))
        return bit


class Tree:
    """A number of ``depth`` bits, highest first, each learning in the light of those above it."""

    def __init__(self, depth: int) -> None:
        self.depth, self.bits = depth, Bits(1 << depth)

    def code(self, coder: Coder, value: int = 0) -> int:
        node = descend(coder, self.bits, 0, 1, self.depth, value)
        return node - (1 << self.depth)


def descend(coder: Coder, bits: Bits, base: int, node: int, depth: int, value: int) -> int:
    """``depth`` bits of ``value`` from ``node`` on, the states beginning at ``base``; the node reached."""
    for i in reversed(range(depth)):
        node = node << 1 | bits.code(coder, base + node, value >> i & 1)
    return node
