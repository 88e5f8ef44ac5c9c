"""Share weights: one-dimensional k-means over a layer's non-zero weights, one code a cluster, code 0 for zero.

Deep Compression (ICLR 2016), section 3.1: minimise sum |w - c|^2 over k clusters. Section 3.2's starts (linear, density-based,
Forgy) are refined by Lloyd's iterations, as there. The default needs no start: in one dimension the optimum is found exactly
(csrc/cluster/kmeans1d.c).

With ``ratio`` codes have a price, the bits that the entropy coder will charge for them (compiler/passes/priced.py), and the price is
set so that all layers together take the bytes of the ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eie.runtime.weight import Weight

from ..analysis.layers import Layer, find_layers
from ..errors import UserError
from ..ir.graph import Model
from .base import LedgerEntry, Pass, PassResult, Select, every, option
from .sparsify import relative_error

Array = npt.NDArray[Any]

MOST = 1 << 20  # distinct values that are clustered one by one; of more, equal shares are merged into their means first
_ITERATIONS = 300


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

    def run(self, model: Model, select: Select = every) -> PassResult:
        if self.ratio:
            return self._share_all(model, select)
        entries, changed = [], False
        for layer in find_layers(model)[0]:
            if not select(layer):
                continue
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

    def _share_all(self, model: Model, select: Select) -> PassResult:
        """Shared forms of all layers for one budget of bytes."""
        from .priced import share_within

        layers = [layer for layer in find_layers(model)[0] if select(layer)]
        before = {la.name: la.array() for la in layers}
        patterns = {la.name: la.weight.pattern for la in layers if la.weight is not None}
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
        pattern = layer.weight.pattern if layer is not None and layer.weight is not None else "unstructured"
        exact = Weight.exact(array, pattern)
        if exact is not None and exact.codebook.size <= 1 << self.bits:
            return exact
        values = array[array != 0]
        centroids = fit_codebook(values, self.bits, init=self.init, seed=self.seed)
        codes = np.zeros(array.shape, np.uint8)
        codes[array != 0] = (nearest(centroids, values) + 1).astype(np.uint8)
        return Weight(codes, np.concatenate([np.zeros(1, np.float32), centroids.astype(np.float32)]), pattern)


def fit_codebook(values: Array, bits: int, *, init: str = "optimal", seed: int = 0, bins: int = MOST) -> Array:
    """At most 2^bits - 1 centroids for non-zero values, ascending, float32, none of them zero.

    Args:
        values: float32 [n], n > 0, finite.
        bits: 1 to 8.
        init: as the option.
        seed: of Forgy's draw.
        bins: distinct values kept apart; of more, neighbours are merged into their means first.
    """
    k = (1 << bits) - 1
    found, counts = np.unique(values, return_counts=True)
    if found.size <= k:
        return found.astype(np.float32)
    distinct = found.astype(np.float64)
    if distinct.size > bins:
        distinct, counts = _merge(distinct, counts, bins)
    weights = counts.astype(np.float64)
    centroids = (
        _optimal(distinct, weights, k)
        if init == "optimal"
        else _lloyd(distinct, weights, _start(distinct, weights, k, init, seed))
    )
    found = centroids.astype(np.float32)
    found[found == 0] = np.finfo(np.float32).tiny  # zero itself is code 0's
    return np.unique(found)


def nearest(centroids: Array, values: Array) -> Array:
    """Index of the nearest centroid (ascending) for each value; of two as near, the lower."""
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2  # in float32 the sum could overflow
    return np.searchsorted(middles, values)


def _merge(values: Array, counts: Array, bins: int) -> tuple[Array, Array]:
    total = np.cumsum(counts)
    # bins half as narrow where values are many, half as evenly spread: rare large values keep bins of their own
    place = (total - counts / 2) / total[-1] + (values - values[0]) / (values[-1] - values[0])
    bin_of = np.minimum(place * (bins / 2), bins - 1).astype(np.int64)
    weight = np.bincount(bin_of, counts, bins)
    mean = np.bincount(bin_of, counts * values, bins)
    kept = weight > 0
    return mean[kept] / weight[kept], weight[kept]


def _optimal(values: Array, weights: Array, k: int) -> Array:
    from eie.runtime._core import ffi, lib

    centroids, first = np.zeros(k), np.zeros(k, np.uint64)
    used, cost = ffi.new("size_t *"), ffi.new("double *")
    values, weights = np.ascontiguousarray(values), np.ascontiguousarray(weights)
    status = lib.eie_kmeans1d(
        ffi.from_buffer("double[]", values),
        ffi.from_buffer("double[]", weights),
        values.size,
        k,
        ffi.from_buffer("double[]", centroids),
        ffi.from_buffer("size_t[]", first),
        used,
        cost,
    )
    if status == lib.EIE_E_MEMORY:
        raise MemoryError("clustering")
    assert status == lib.EIE_OK, status
    return centroids[: used[0]]


def _start(values: Array, weights: Array, k: int, init: str, seed: int) -> Array:
    """Section 3.2: ``linear`` spaces the centroids evenly between the extremes, ``density`` evenly along the cumulative
    distribution, ``forgy`` draws them from the data."""
    if init == "linear":
        return np.linspace(values[0], values[-1], k)
    if init == "density":
        cumulative = np.cumsum(weights) / weights.sum()
        return np.interp((np.arange(k) + 0.5) / k, cumulative, values)
    drawn = np.random.default_rng(seed).choice(values, k, replace=False, p=weights / weights.sum())
    return np.sort(drawn)


def _lloyd(values: Array, weights: Array, centroids: Array) -> Array:
    """Lloyd's iterations until nothing moves; a centroid without members stays where it is, and is dropped at the end."""
    held = np.ones(centroids.size, np.bool_)
    for _ in range(_ITERATIONS):
        owner = nearest(centroids, values)
        weight = np.bincount(owner, weights, centroids.size)
        total = np.bincount(owner, weights * values, centroids.size)
        held = weight > 0
        moved = np.where(held, total / np.where(held, weight, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = np.sort(moved)
    return centroids[held]
