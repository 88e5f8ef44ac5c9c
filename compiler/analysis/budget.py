"""Density and bits for each layer, the smallest that keep an error budget on sample input.

For a layer, pruning keeps the weights of largest magnitude and sharing replaces the rest by 2^b - 1 centroids. For each
number of bits b, the lowest density that keeps the layer's output within the budget is found by bisection; of these pairs
the one with the fewest bytes wins, by the entropy of the places of the non-zeros plus that of their codes (what the coder
comes close to). The error is what the layer's probe measures (compiler/analysis/probe.py). The whole model is measured then;
where it misses its own budget, every layer's is raised by what is missing and the search repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..passes.cluster import MOST, fit_codebook
from ..passes.sparsify import Sparsify, largest
from ..recipe import Recipe, Rule
from .fidelity import decibels
from .layers import Layer
from .probe import Probe

Array = npt.NDArray[np.float32]

BITS = range(2, 9)
DENSITIES = (
    1.0,
    0.9,
    0.8,
    0.7,
    0.6,
    0.5,
    0.45,
    0.4,
    0.35,
    0.3,
    0.25,
    0.2,
    0.17,
    0.14,
    0.12,
    0.1,
    0.08,
    0.06,
    0.05,
    0.04,
    0.03,
    0.02,
)
_BINS = (
    4096  # distinct values clustered for each density and number of bits; the passes, and what is tried out, take all
)


@dataclass(frozen=True)
class Choice:
    """What the search found for a layer.

    Attributes:
        density: share of weights kept, 0 to 1.
        bits: of a code.
        sqnr_db: of the layer's output on the sample rows.
        bytes: estimated size of the compressed weight.
        exact: the layer came with a codebook fitted to it, and is kept to the bit.
    """

    density: float
    bits: int
    sqnr_db: float
    bytes: int
    exact: bool = False

    def rule(self, layer: Layer) -> Rule:
        return Rule(match=layer.name, options={"sparsify": {"density": self.density}, "cluster": {"bits": self.bits}})


def fitted_codebook(values: npt.NDArray[np.floating]) -> bool:
    """Whether the distinct non-zero values look like a codebook somebody fitted, not like the grid of a number format.

    A grid (int8, say, times a scale) has all values at whole multiples of one step; centroids have no such step.
    """
    distinct = np.unique(values)
    distinct = distinct[distinct != 0].astype(np.float64)
    if not 1 < distinct.size <= 255:
        return False
    steps = np.diff(distinct)
    multiples = steps / steps.min()
    off = np.abs(multiples - np.rint(multiples)) > 1e-3 * np.maximum(1, multiples)
    return bool(off.mean() > 0.25)


class Planner:
    """Chooses for all layers; keeps what it measured, so that a second search under another budget is quick.

    Args:
        layers: what to choose for.
        probes: a probe a layer, by name.
        recipe: what it fixes is not searched.
    """

    def __init__(self, layers: Sequence[Layer], probes: Mapping[str, Probe], recipe: Recipe) -> None:
        self.layers, self.recipe = list(layers), recipe
        self._exact = {layer.name for layer in self.layers if self._kept(layer)}
        self._scales = {
            layer.name: _Scale(probes[layer.name]) for layer in self.layers if layer.name not in self._exact
        }

    def _kept(self, layer: Layer) -> bool:
        free = not self.recipe.given(layer, "cluster", "bits") and not self.recipe.given(layer, "sparsify", "density")
        return free and fitted_codebook(layer.array())

    def plan(self, target_db: float, progress: Callable[[str], None] = lambda name: None) -> dict[str, Choice]:
        """The choice for each layer, by name, that keeps ``target_db`` at the least size."""
        found = {}
        for layer in self.layers:
            progress(layer.name)
            found[layer.name] = self._choose(layer, target_db)
        return found

    def _choose(self, layer: Layer, target_db: float) -> Choice:
        if layer.name in self._exact:
            return Choice(1.0, 8, float("inf"), layer.size, exact=True)
        densities = _fixed(self.recipe, layer, "sparsify", "density", DENSITIES)
        bits = _fixed(self.recipe, layer, "cluster", "bits", tuple(BITS))
        tried = [_sparsest(self._scales[layer.name], densities, b, target_db) for b in bits]
        good = [c for c in tried if c.sqnr_db >= target_db]
        # a budget that nothing keeps is still met as nearly as it can be
        return min(good, key=lambda c: c.bytes) if good else max(tried, key=lambda c: c.sqnr_db)


def _fixed(
    recipe: Recipe, layer: Layer, step: str, option: str, free: tuple[float, ...] | tuple[int, ...]
) -> tuple[float, ...]:
    if not recipe.given(layer, step, option):
        return free
    for wanted in recipe.passes:
        if wanted.name == step and (own := recipe.options(layer, wanted)) is not None:
            return (getattr(own, option),)
    return free


def _sparsest(scale: _Scale, densities: tuple[float, ...], bits: float, target_db: float) -> Choice:
    """Bisection over ``densities`` (falling) for the last that keeps the target; the first where none does."""
    low, high = 0, len(densities)  # the answer lies in [low, high)
    best = scale(densities[0], int(bits))
    if best.sqnr_db < target_db:
        return best
    while high - low > 1:
        middle = (low + high) // 2
        tried = scale(densities[middle], int(bits))
        if tried.sqnr_db >= target_db:
            low, best = middle, tried
        else:
            high = middle
    return best


class _Scale:
    """Error and size of one layer for a density and a number of bits."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.magnitude = np.abs(probe.matrix).reshape(-1)
        self._known: dict[tuple[float, int], Choice] = {}

    def __call__(self, density: float, bits: int) -> Choice:
        key = (density, bits)
        if key not in self._known:
            self._known[key] = self._measure(density, bits)
        return self._known[key]

    def _measure(self, density: float, bits: int) -> Choice:
        matrix = self.probe.matrix
        kept = largest(self.magnitude, max(1, round(density * self.magnitude.size))).reshape(matrix.shape)
        shared, codes = _shared(matrix, kept, bits, _BINS)
        share = codes.size / matrix.size
        places = _entropy(np.array([codes.size, matrix.size - codes.size]))
        size = self.probe.size * (places + share * _entropy(np.bincount(codes))) / 8 + 3 * 2**bits + 40
        return Choice(density, bits, decibels(self.probe.noise_ratio(shared)), int(size))


def approximate(weight: Array, choice: Choice, prune: Sparsify, op: str) -> Array:
    """The weight of an ``op`` a choice leads to; shape as ``weight``.

    Args:
        prune: the pass as the recipe has it for the layer; its density is the choice's.
    """
    if choice.exact or weight.size == 0:
        return weight
    return _shared(weight, replace(prune, density=choice.density).mask(weight, op), choice.bits, MOST)[0]


def _shared(weight: Array, mask: npt.NDArray[np.bool_], bits: int, bins: int) -> tuple[Array, npt.NDArray[np.integer]]:
    """The weights in ``mask`` shared among 2^bits - 1 centroids, the rest zero; and the codes of those kept."""
    kept = mask & (weight != 0)
    values, shared = weight[kept], np.zeros_like(weight)
    if not values.size:
        return shared, np.zeros(0, np.int64)
    centroids = fit_codebook(values, bits, bins=bins)
    codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
    shared[kept] = centroids[codes]
    return shared, codes


def _entropy(counts: npt.NDArray[np.integer]) -> float:
    """First-order entropy in bits a symbol."""
    p = counts[counts > 0] / max(1, counts.sum())
    return float(-(p * np.log2(p)).sum())
