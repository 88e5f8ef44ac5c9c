"""Share weights: one-dimensional k-means over a layer's non-zero weights, one code a cluster, code 0 for zero.

Deep Compression (ICLR 2016), section 3.1: minimise sum |w - c|^2 over k clusters. Section 3.2's starts (linear, density-based,
Forgy) are refined by Lloyd's iterations, as there. The default needs no start: in one dimension the optimum is found exactly
(csrc/cluster/kmeans1d.c).

With ``ratio`` codes have a price, the bits that the entropy coder will charge for them (compiler/coding/priced.py), and the price is
set so that all layers together take the bytes of the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eie.runtime.weight import Weight

from ..analysis.layers import Layer
from ..coding.codebook import fit_codebook, nearest
from ..coding.priced import share_within
from ..errors import UserError
from ..ir.graph import Model
from .base import Layers, LedgerEntry, Pass, PassResult, Select, all_layers, every, option
from .sparsify import relative_error

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cluster(Pass):
    """Replace each layer's weights by codes into a codebook of 2^bits entries, entry 0 being zero."""

    name: ClassVar[str] = "cluster"
    ensures: ClassVar[frozenset[str]] = frozenset({"shared"})

    bits: int = option(5, "bits of a code: 2^bits - 1 shared values, and zero", low=1, high=8)
    init: str = option(
        "optimal",
        "optimal (exact), or the start of Lloyd's iterations",
        choices=("optimal", "linear", "density", "forgy"),
    )
    seed: int = option(0, "of the Forgy start", low=0)
    ratio: float = option(
        0.0, "how many times fewer bytes all layers with these options take, stored; 0: whatever bits give", low=0.0
    )

    def __post_init__(self) -> None:
        if 0 < self.ratio < 1:
            raise UserError(f"ratio = {self.ratio:g} would make weights larger", where="cluster",
                            hint="40 stands for 40 times fewer bytes.")  # fmt: skip

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        if self.ratio:
            return self._share_all([*filter(select, all_layers(model, layers))])
        entries, changed = [], False
        for layer in filter(select, all_layers(model, layers)):
            held = layer.weight
            if held is not None and held.codebook.size <= 1 << self.bits:
                entries.append(LedgerEntry(layer.name, reason="", action="shared already", kept=held.density))
                continue
            before = layer.array()
            weight = self.share(before, layer)
            layer.set_weight(weight)
            changed = True
            entries.append(
                LedgerEntry(
                    layer.name,
                    f"{weight.codebook.size - 1} shared values",
                    kept=weight.density,
                    error=relative_error(before, weight.dense()),
                )
            )
        return PassResult(changed, tuple(entries))

    def _share_all(self, layers: Sequence[Layer]) -> PassResult:
        """Shared forms of all layers for one budget of bytes."""
        before = {la.name: la.array() for la in layers}
        patterns = {la.name: la.pattern for la in layers}
        wanted = sum(la.constant.stored for la in layers) / self.ratio
        found, taken = share_within(before, 1 << self.bits, wanted, patterns)
        over = "" if taken <= wanted else f"; {taken:,} bytes in all, {self.ratio:g} times fewer would be {wanted:,.0f}"
        entries = []
        for layer in layers:
            weight = found[layer.name].weight
            layer.set_weight(weight)
            action = f"{weight.codebook.size - 1} shared values by their price{over}"
            moved = relative_error(before[layer.name], weight.dense())
            entries.append(LedgerEntry(layer.name, action, kept=weight.density, error=moved))
        return PassResult(bool(layers), tuple(entries))

    def share(self, array: Array, layer: Layer | None = None) -> Weight:
        """The shared form of a float32 array; exact where it has few enough values already."""
        pattern = layer.pattern if layer is not None else "unstructured"
        exact = Weight.exact(array, pattern)
        if exact is not None and exact.codebook.size <= 1 << self.bits:
            return exact
        values = array[array != 0]
        centroids = fit_codebook(values, self.bits, init=self.init, seed=self.seed)
        codes = np.zeros(array.shape, np.uint8)
        codes[array != 0] = (nearest(centroids, values) + 1).astype(np.uint8)
        return Weight(codes, np.concatenate([np.zeros(1, np.float32), centroids.astype(np.float32)]), pattern)
