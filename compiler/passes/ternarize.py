"""Ternary weights: w -> p where w > t max|w|, -n where w < -t max|w|, else 0.

Trained Ternary Quantization (ICLR 2017), section 3.1: the threshold is t times the largest magnitude of the layer, the two
scales p and n are trained. Without training they are the means of what they replace, the least-squares choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eie.runtime.weight import Weight

from ..ir.graph import Model
from .base import Layers, LedgerEntry, Pass, PassResult, Select, all_layers, every, option
from .sparsify import relative_error

Array = npt.NDArray[Any]

ENDS = "the first and the last layer keep their precision (TTQ, section 3)"


@dataclass(frozen=True)
class Ternarize(Pass):
    """Replace weights by two values and zero. The paper leaves the first and the last layer as they are, and so does ``ends=keep``."""

    name: ClassVar[str] = "ternarize"
    ensures: ClassVar[frozenset[str]] = frozenset({"shared"})

    t: float = option(0.05, "threshold as a share of the layer's largest magnitude", low=0.0, high=1.0)
    ends: str = option(
        "keep", "the first and the last layer: keep them, or ternarize them too", choices=("keep", "too")
    )

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        entries, changed = [], False
        everything = all_layers(model, layers)
        ends = {id(layer) for layer in ([*everything[:1], *everything[-1:]] if self.ends == "keep" else [])}
        for layer in filter(select, everything):
            if id(layer) in ends:
                entries.append(LedgerEntry(layer.name, reason=ENDS))
                continue
            before = layer.array()
            weight = self.ternary(before)
            same = layer.weight is not None and np.array_equal(layer.weight.dense(), weight.dense())
            if not same:
                layer.set_weight(weight)
                changed = True
            entries.append(
                LedgerEntry(layer.name, "ternary", kept=weight.density, error=relative_error(before, weight.dense()))
            )
        return PassResult(changed, tuple(entries))

    def ternary(self, array: Array) -> Weight:
        """Codes 1 (-n) and 2 (p) beyond the threshold, 0 within."""
        limit = self.t * float(np.abs(array).max(initial=0))
        up, down = array > limit, array < -limit
        scale = [
            float(array[side].mean(dtype=np.float64)) if side.any() else 0.0  # exact where all are equal already
            for side in (down, up)
        ]
        codes = (down + 2 * up).astype(np.uint8)
        return Weight(codes, np.array([0.0, *scale], np.float32))
