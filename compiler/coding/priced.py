"""Shared values whose codes have a price: codebooks fitted to what the entropy coder will charge (compiler/coding/rate.py).

K-means spends as much on a rare value as on a frequent one; an entropy coder does not. Here a weight goes to the value of least

    (w - c)^2 / mean w^2 + price * bits(c),

which Lloyd's iterations minimise in turns over values, shares and members; values that nobody wants at their price go. Distortion
counts relative to the mean square of a layer's weights that are not zero, so one price serves all layers and gives them about the
same noise to signal. (Against a layer's whole energy, small layers take finer values at the expense of large ones: measured worse,
by 0.2 points on LeNet-300-100 at a hundredth.) The price is found by encoding: the lowest at which all payloads together fit the
budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eie.runtime.format import encode, inspect
from eie.runtime.weight import Pattern, Weight

from .codebook import fit_codebook
from .rate import bits_of, cheapest

Array = npt.NDArray[Any]

_BINS = 4096  # groups of neighbouring values that the iterations move as one
_ROUNDS = 40
_SEARCH = 14  # halvings of the price, on a scale of powers of ten
_PRICES = (-6.0, 1.0)  # powers of ten; at 1 a bit is worth as much as losing a weight of the usual size


@dataclass(frozen=True)
class Coding:
    """A shared weight, and where the cells of its values end.

    Attributes:
        weight: codes in the order of their values.
        ends: float64, ascending, one fewer than the values: those between ends[i - 1] and ends[i] have code i + 1.
    """

    weight: Weight
    ends: Array

    @property
    def bytes(self) -> int:
        """Of the payload, the codebook counted raw: tuning the values afterwards may cost what coding them saves."""
        payload = encode(self.weight)
        return len(payload) - inspect(payload).codebook_bytes + 4 * (self.weight.codebook.size - 1)


def share_within(
    arrays: Mapping[str, Array], size: int, wanted: float, patterns: Mapping[str, Pattern] | None = None
) -> tuple[dict[str, Coding], int]:
    """Shared forms of several weights whose payloads take at most ``wanted`` bytes together.

    Args:
        arrays: float32, any shapes, by name; zeros stay zero.
        size: of a codebook at most, the zero counted, 2 to 256.
        wanted: bytes.
        patterns: of the weights; unstructured when left out.

    Returns:
        The forms, and the bytes they take: more than ``wanted`` only where one value a layer still takes more.
    """
    layers = {name: _Layer(array, size, (patterns or {}).get(name, "unstructured")) for name, array in arrays.items()}

    def attempt(price: float) -> tuple[dict[str, Coding], int]:
        found = {name: layer.at(price) for name, layer in layers.items()}
        return found, sum(coding.bytes for coding in found.values())

    best = attempt(0.0)
    if best[1] <= wanted:
        return best
    low, high = _PRICES
    best = attempt(10.0**high)
    for _ in range(_SEARCH):
        middle = (low + high) / 2
        found = attempt(10.0**middle)
        if found[1] <= wanted:
            best, high = found, middle
        else:
            low = middle
    return best


class _Layer:
    """One weight, sorted once."""

    def __init__(self, array: Array, size: int, pattern: Pattern) -> None:
        self.array, self.pattern, self.size = array, pattern, size
        self.values = array[array != 0].astype(np.float64)
        ordered = np.sort(self.values)
        groups = np.array_split(ordered, min(_BINS, ordered.size)) if ordered.size else []
        self.means = np.array([g.mean() for g in groups])
        self.counts = np.array([g.size for g in groups], np.float64)
        self.power = float(np.square(ordered).mean()) if ordered.size else 0.0
        bits = (size - 1).bit_length()
        self.start = fit_codebook(self.values.astype(np.float32), bits)[: size - 1] if ordered.size else np.zeros(0)

    def at(self, price: float) -> Coding:
        """The shared form at a price of a bit."""
        if not self.values.size:
            nothing = Weight(np.zeros(self.array.shape, np.uint8), np.zeros(1, np.float32), self.pattern)
            return Coding(nothing, np.zeros(0))
        values, bits = self.start.astype(np.float64), np.full(self.start.size, np.log2(max(2, self.start.size)))
        toll = price * self.power
        for _ in range(_ROUNDS if price else 0):
            owner = cheapest(self.means, values, bits, toll)
            weight = np.bincount(owner, self.counts, values.size)
            kept = weight > 0
            moved = np.bincount(owner, self.counts * self.means, values.size)[kept] / weight[kept]
            still = kept.all() and np.allclose(moved, values, rtol=1e-7, atol=0)
            values, bits = moved, bits_of(weight[kept])
            if still:
                break
        return self._coding(values, bits, toll)

    def _coding(self, values: Array, bits: Array, toll: float) -> Coding:
        owner = cheapest(self.values, values, bits, toll)
        used = np.unique(owner)
        codebook = values[used].astype(np.float32)
        codebook[codebook == 0] = np.finfo(np.float32).tiny  # zero itself is code 0's
        codes = np.zeros(self.array.shape, np.uint8)
        codes[self.array != 0] = np.searchsorted(used, owner) + 1
        values, tolls = values[used], toll * bits[used]
        ends = (values[1:] + values[:-1]) / 2 + np.diff(tolls) / (2 * np.diff(values))
        return Coding(Weight(codes, np.concatenate([np.zeros(1, np.float32), codebook]), self.pattern), ends)
