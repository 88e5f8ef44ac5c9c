"""What weights will take when they are stored, known before they have values: the coder is asked, not a formula.

Entropy coding charges a weight by where it stands as much as by what it is, so a count of weights says little about bytes
(LeNet-300-100 at a hundredth of its size: 5.5 to 6.6 bits a weight that is kept, as the zeros lie).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eie.runtime.format import encode
from eie.runtime.weight import Weight

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

CLOSE = 0.005  # relative distance from the wanted bytes that is good enough
_ATTEMPTS = 12


def stored_bytes(mask: Mask, value_bits: float) -> float:
    """Bytes of a weight's payload: its places as the coder stores them, and ``value_bits`` for each value."""
    places = len(encode(Weight(mask.astype(np.uint8), np.array([0, 1], np.float32))))
    return places + int(np.count_nonzero(mask)) * value_bits / 8


def most_salient(saliency: Sequence[Array], wanted: float, value_bits: float) -> list[Mask]:
    """The masks that keep the weights of largest saliency, all layers in one ranking, and take about ``wanted`` bytes.

    Args:
        saliency: of each layer's weights, float32, comparable between layers.
        wanted: bytes of all payloads together; within ``CLOSE`` of it, or as near as counts can come.
        value_bits: as in ``stored_bytes``.
    """
    everything = np.concatenate([s.reshape(-1) for s in saliency])
    order = np.argsort(-everything, kind="stable")
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    ends = np.cumsum([s.size for s in saliency])[:-1]
    ranks = [r.reshape(s.shape) for r, s in zip(np.split(rank, ends), saliency, strict=True)]

    def masks(count: int) -> list[Mask]:
        return [np.asarray(r < count) for r in ranks]

    low, high = 0, everything.size  # counts that take too little and too much
    count = min(high, int(wanted * 8 / (value_bits + 4)))
    for _ in range(_ATTEMPTS):
        taken = sum(stored_bytes(m, value_bits) for m in masks(count))
        if abs(taken - wanted) <= CLOSE * wanted or (count == everything.size and taken <= wanted):
            break
        low, high = (count, high) if taken < wanted else (low, count)
        guess = round(count * wanted / taken)  # a weight takes about the same near by
        inside = low < guess < high or guess == high == everything.size
        count = guess if inside else (low + high + 1) // 2
    return masks(count)
