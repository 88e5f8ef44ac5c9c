"""What the entropy coder will charge, and codes chosen by it: entropy-constrained quantization (Chou, Lookabaugh, Gray, 1989).

A value w takes the level of least

    (w - level)^2 + rate * bits(level),    bits(level) = -log2 of the share of values that have it,

with ``rate`` the squared error that a bit is worth. Who asks says what an error counts and which levels come into question:
``priced`` weighs all levels of a layer's codebook alike, ``secondorder`` the nearest ones of a grid, column by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.int64]

_BLOCK = 1 << 16  # values compared with all levels at a time


def bits_of(counts: Array, unseen: float = 0.0) -> npt.NDArray[np.float64]:
    """Bits of each code by how often it occurs.

    Args:
        unseen: times that every code is taken to occur beside that: a code that none has yet can be had, and is dear.
    """
    found = counts + unseen
    return np.asarray(-np.log2(found / found.sum()))


def cheapest(
    values: Array, levels: Array, bits: Array, rate: Array | float, among: Sequence[Codes | int] | None = None
) -> Codes:
    """Index of the level of least error and toll for each value; of equal ones the first.

    Args:
        values: any shape, [n] where ``among`` is left out.
        levels, bits: [k].
        rate: what a bit is worth, a number, or one that fits the shape of ``values``.
        among: candidates: an index for all values, or one for each; all levels when left out.
    """
    if among is None:
        found = np.empty(values.size, np.int64)
        for begin in range(0, values.size, _BLOCK):
            block = values[begin : begin + _BLOCK, None]
            found[begin : begin + _BLOCK] = (np.square(block - levels) + rate * bits).argmin(1)
        return found
    best = np.broadcast_to(among[0], values.shape)
    least = np.square(values - levels[best]) + rate * bits[best]
    for code in among[1:]:
        cost = np.square(values - levels[code]) + rate * bits[code]
        better = cost < least
        best, least = np.where(better, code, best), np.where(better, cost, least)
    return best
