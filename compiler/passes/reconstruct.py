"""Prune and share weights so that the layer's output stays, not its weights: second-order, from the moments of its inputs.

compiler/coding/secondorder.py has the method. A layer's bias takes up what is left of the mean. Layers are taken in the order in
which they run, and the inputs of later ones can be measured behind those that are compressed already (``stages``): their weights then
also make up for what went wrong before them, as far as a linear map can: V = W E[z x^T] E[x x^T]^-1 for inputs x where the original
had z.

What is said of a layer in the ledger: how it was done, and where too little was known of its inputs to do it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eie.runtime.weight import Pattern, Weight

from ..analysis.calibration import Calibration
from ..analysis.capture import unseen
from ..analysis.form import Form
from ..analysis.layers import Layer
from ..analysis.moments import Moments
from ..coding.codebook import fit_codebook
from ..coding.secondorder import PRICE, Geometry, Settings, assign, geometry, grid, pruned
from ..errors import UserError
from ..ir.graph import Constant, Held, Model
from .base import Layers, LedgerEntry, Pass, PassResult, Select, all_layers, every, option
from .sparsify import Sparsify

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_FEW = 8  # inputs seen, below which nothing is taken from them
_ROUNDS = 2  # of fitting a codebook to what the weights have become


@dataclass(frozen=True)
class Fit:
    """What a layer becomes.

    Attributes:
        weight: codes of the layer's shape.
        note: how it came about, a few words.
        shift: float64 [groups, out], what its bias has to add; None where it has none that could.
    """

    weight: Weight
    note: str
    shift: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class Reconstruct(Pass):
    """Codes for every layer's weights that keep its output. With ``step`` the values are a grid, and how many weights become zero
    follows from it; with ``bits`` they are fitted to what the pruning left (then ``density`` says how much)."""

    name: ClassVar[str] = "reconstruct"
    ensures: ClassVar[frozenset[str]] = frozenset({"shared"})

    step: float = option(
        0.0,
        "distance of neighbouring values, in standard deviations of the layer's weights; 0: as bits say",
        low=0.0,
        high=100.0,
    )
    bits: int = option(5, "of a code, where step is 0: 2^bits - 1 fitted values, and zero", low=1, high=8)
    density: float = option(1.0, "share of weights that may be kept; with a step fewer can be", low=0.0, high=1.0)
    pattern: str = option("unstructured", "unstructured, balanced, block, or N:M such as 2:4")
    lanes: int = option(16, "of balanced, as in sparsify", low=1, high=4096)
    window: int = option(0, "of balanced, as in sparsify", low=0, high=65536)
    price: float = option(
        PRICE, "what a bit of code is worth, in squared steps of error; 0: nearest values", low=0.0, high=10.0
    )
    damp: float = option(0.02, "share of the mean variance added to each input's", low=1e-6, high=10.0)
    bias: str = option("correct", "correct it for the mean error, or keep it", choices=("correct", "keep"))

    def __post_init__(self) -> None:
        self.prune  # noqa: B018 - refuses an unknown pattern

    @property
    def prune(self) -> Sparsify:
        """The pass whose masks this one's patterns are."""
        try:
            return Sparsify(density=self.density, pattern=self.pattern, lanes=self.lanes, window=self.window)
        except UserError as error:
            raise UserError(error.what, where=self.name, hint=error.hint) from error

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        """Without samples: inputs are taken to be white."""
        chosen = [*filter(select, all_layers(model, layers))]
        return reconstruct(model, chosen, {layer.name: self for layer in chosen}, Calibration.none())

    def fit(self, layer: Layer, moments: Moments) -> Fit:
        """What ``layer`` becomes for inputs of such moments; the layer is not changed."""
        form = Form.of(layer)
        matrix = form.matrix(layer.array())
        corrected = self.corrects(moments, has_bias(layer))
        codes, values, note = self.codes(matrix, moments, form, centred=corrected)
        weight = Weight(form.array(codes), values, self.kind)
        shift = moments.shift(matrix, values[codes]) if corrected else None
        return Fit(weight, note, shift)

    def corrects(self, moments: Moments, has_bias: bool) -> bool:
        """Whether the layer's bias, if it has one, takes up the mean of what changes."""
        return self.bias == "correct" and has_bias and enough(moments)

    def codes(
        self, matrix: Array, moments: Moments, form: Form, *, centred: bool = False
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], str]:
        """Codes [groups, out, values] for a matrix of that shape, their codebook, and how.

        Args:
            form: of the weight whose matrix it is: patterns lie along its axes.
            centred: a bias takes up the mean.
        """
        exact = Weight.exact(matrix)
        if exact is not None and not self.step and self.density >= 1 and exact.codebook.size <= 1 << self.bits:
            return exact.codes, exact.codebook, "shared already"
        known = moments if enough(moments) else Moments.white(matrix.shape[2])
        factors = geometry(known, centred=centred, damp=self.damp)
        wanted = aimed(matrix, factors)
        mask, kept = self._mask(wanted, factors, form)
        deviation = float(matrix.std(dtype=np.float64))
        levels = grid(kept, self.step * deviation) if self.step else self._fitted(kept)
        chosen = self._assigned(wanted, factors, levels, mask)
        for _ in range(_ROUNDS - 1 if not self.step else 0):
            levels = self._refitted(kept, chosen, levels, factors)
            chosen = self._assigned(wanted, factors, levels, mask)
        codes, values = relabelled(chosen, levels)
        return codes, values, _note(moments, factors)

    def _assigned(self, wanted: Array, factors: list[Geometry], levels: Array, mask: Mask | None) -> Array:
        exact = self.pattern != "unstructured" and mask is not None
        price = self.price if self.step else 0.0
        return assign(wanted, factors, Settings(levels, price, mask, exact and self.pattern != "block"))

    def _mask(self, wanted: Array, factors: list[Geometry], form: Form) -> tuple[Mask | None, Array]:
        """Which weights may stay: those of most w^2 / [H^-1]_jj (Optimal Brain Surgeon), in the pattern; and what they become when
        the others go. Half the way first, so that what weights have to make up for counts."""
        last = self.prune
        if last.density >= 1 and ":" not in self.pattern:
            return None, wanted
        inverse = np.empty((factors[0].upper.shape[0], wanted.shape[2]), np.float32)
        for f in factors:
            inverse[:, f.begin + f.order] = np.sqrt(np.einsum("gij,gij->gj", f.upper, f.upper))  # of H^-1's diagonal
        ways = [last] if ":" in self.pattern else [replace(last, density=float(np.sqrt(last.density))), last]
        kept, mask = wanted, np.ones(wanted.shape, np.bool_)
        for prune in ways:
            saliency = np.abs(kept) / inverse[:, None]
            mask = np.asarray(form.matrix(prune.mask(form.array(saliency), form.op)))
            kept = pruned(wanted, factors, mask)
        return mask, kept

    def _fitted(self, kept: Array) -> Array:
        values = kept[kept != 0]
        centroids = fit_codebook(values, self.bits, bins=4096) if values.size else np.zeros(0, np.float32)
        return np.sort(np.append(centroids, 0.0)).astype(np.float64)

    def _refitted(self, wanted: Array, codes: Array, levels: Array, factors: list[Geometry]) -> Array:
        """Each value moved to the mean of the weights that took it, weighted by what their columns matter."""
        importance = np.empty((wanted.shape[0], wanted.shape[2]))
        for f in factors:
            pivots = np.empty((f.upper.shape[0], f.end - f.begin))
            pivots[:, f.order] = np.einsum("gii->gi", f.upper)
            importance[:, f.begin : f.end] = 1 / np.square(pivots)
        weights = np.broadcast_to(importance[:, None], wanted.shape).reshape(-1)
        flat = codes.reshape(-1)
        total = np.bincount(flat, weights, levels.size)
        moved = np.bincount(flat, weights * wanted.reshape(-1), levels.size) / np.maximum(total, 1e-300)
        zero = int(np.searchsorted(levels, 0.0))
        found = np.where((total > 0) & (np.arange(levels.size) != zero), moved, levels)
        found[np.arange(levels.size) < zero] = np.minimum(found[np.arange(levels.size) < zero], -1e-30)
        found[np.arange(levels.size) > zero] = np.maximum(found[np.arange(levels.size) > zero], 1e-30)
        return np.sort(found)

    @property
    def kind(self) -> Pattern:
        """The pattern's name, as a Weight has it."""
        return self.prune.kind


def aimed(matrix: Array, factors: list[Geometry]) -> Array:
    """The weights to approximate on the inputs as they are now: the matrix, but for what earlier layers did wrong."""
    if all(f.target is None for f in factors):
        return np.asarray(matrix, np.float32)
    parts = [
        matrix[:, :, f.begin : f.end]
        if f.target is None
        else np.matmul(matrix[:, :, f.begin : f.end], f.target.astype(np.float32))
        for f in factors
    ]
    return np.ascontiguousarray(np.concatenate(parts, axis=2), np.float32)


def relabelled(chosen: Array, levels: Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes and codebook from indices of levels: zero becomes code 0, values that nothing takes go."""
    zero = int(np.searchsorted(levels, 0.0))
    used = np.unique(chosen)
    used = used[used != zero]
    label = np.zeros(levels.size, np.uint8)
    label[used] = np.arange(1, used.size + 1)
    return label[chosen], np.concatenate([np.zeros(1), levels[used]]).astype(np.float32)


def _note(moments: Moments, factors: list[Geometry]) -> str:
    if not moments.known:
        return "inputs unknown, taken to be white"
    if moments.rows < _FEW:
        return f"only {moments.rows} inputs seen, taken to be white"
    said = [f"{moments.rows:,} inputs"]
    dead = float(np.mean([f.dead for f in factors]))
    if dead > 0:
        said.append(f"{dead:.0%} of them constant")
    damped = max(f.damped for f in factors)
    if not np.isfinite(damped):
        said.append("not usable: taken to be white")
    elif moments.rows < 2 * moments.width:
        said.append(f"few for {moments.width:,} columns: damped by {damped:.2f}")
    if len(factors) > 1:
        said.append(f"in {len(factors)} blocks")
    return ", ".join(said)


# -- the layers of a model, one after another -----------------------------------------------------------------------------


def reconstruct(
    model: Model,
    layers: Sequence[Layer],
    options: Mapping[str, Reconstruct],
    calibration: Calibration,
    progress: Callable[[str], None] = lambda name: None,
) -> PassResult:
    """Run the pass on ``layers``, in their order, each with its options; in place."""
    entries = []
    originals: dict[Constant, Held] = {}
    for part, moments in calibration.stages(model, layers, originals):
        for layer in part:
            step = options[layer.name]
            progress(layer.name)
            if layer.weight is not None and layer.weight.codebook.size <= 1 << step.bits and not step.step:
                entries.append(LedgerEntry(layer.name, "shared already", kept=layer.weight.density))
                continue
            known = moments.get(layer.name) or Moments.white(Form.of(layer).width)
            before = layer.array()
            fit = step.fit(layer, known)
            why = f": {unseen(model, layer) or 'no sample reached it'}" if calibration.feeds and not known.known else ""
            originals[layer.constant] = layer.constant.held
            layer.set_weight(fit.weight)
            if fit.shift is not None:
                bias = correct_bias(layer, fit.shift)
                if bias is not None:
                    originals.setdefault(*bias)
            entries.append(
                LedgerEntry(
                    layer.name,
                    f"{fit.weight.codebook.size - 1} values, {fit.note}{why}",
                    kept=fit.weight.density,
                    error=output_error(layer, before, fit.weight.dense(), known, centred=fit.shift is not None),
                )
            )
    return PassResult(bool(originals), tuple(entries))


def enough(moments: Moments) -> bool:
    """Whether so many inputs were seen that weights and biases may be fitted to them."""
    return moments.known and moments.rows >= _FEW


def output_error(layer: Layer, before: Array, after: Array, moments: Moments, *, centred: bool = False) -> float:
    """Root mean square of a layer's output error by its output, for inputs of such moments."""
    form = Form.of(layer)
    matrix = form.matrix(before)
    signal = moments.noise(matrix)
    noise = moments.noise(matrix - form.matrix(after), centred=centred)
    return float(np.sqrt(noise / signal)) if signal > 0 else float(noise > 0)


def has_bias(layer: Layer) -> bool:
    """Whether the mean of a layer's output can be put right in a bias of its own."""
    return _bias_slot(layer) is not None


def _bias_slot(layer: Layer) -> int | None:
    node = layer.node
    if len(layer.users) != 1 or layer.users[0] is not node or node.domain:
        return None
    if layer.op in {"Conv", "Gemm"} and layer.slot == 1:
        slot = 2
        if layer.op == "Gemm" and (node.get("beta", 1.0) != 1.0 or node.get("alpha", 1.0) != 1.0):
            return None
    elif (
        layer.op == "LSTM"
        or (layer.op == "GRU" and layer.slot == 1)
        or (layer.op == "GRU" and node.get("linear_before_reset", 0))
    ):
        slot = 3
    else:
        return None
    if slot >= len(node.inputs) or not node.inputs[slot]:
        return None
    bias = layer.graph.constant(node.inputs[slot])
    if bias is None or bias.weight is not None:
        return None
    outputs = layer.shape[0] if layer.op in {"Conv", "Gemm"} else layer.shape[0] * layer.shape[1] * 2
    return (
        slot if bias.elements == outputs and bias.dims[-1] * (1 if slot == 2 else layer.shape[0]) == outputs else None
    )


def correct_bias(layer: Layer, shift: npt.NDArray[np.float64]) -> tuple[Constant, Held] | None:
    """Add a shift [groups, out] to a layer's bias; gives the constant and what it held. A bias that others read too is copied."""
    slot = _bias_slot(layer)
    if slot is None:
        return None
    graph, node = layer.graph, layer.node
    bias = graph.constant(node.inputs[slot])
    assert bias is not None
    before = bias.held
    array = bias.array()
    moved = array.astype(np.float64)
    if layer.op in {"Conv", "Gemm"}:
        moved = moved + shift.reshape(moved.shape)
    else:  # [directions, 2 * gates * hidden]: W's, then R's
        half = moved.shape[1] // 2
        part = slice(0, half) if layer.slot == 1 else slice(half, None)
        moved[:, part] += shift.reshape(len(moved), -1)
    kind = array.dtype
    if kind.kind == "f" and not np.isfinite(moved.astype(kind)).all():
        return None
    readers = [n for g in _top(layer).graphs() for n in g.structure for t in n.inputs if t and g.constant(t) is bias]
    if len(readers) > 1:
        name = graph.add_constant(f"{bias.name}.corrected", moved.astype(kind))
        graph.set_input(node, slot, name)
        copied = graph.constants[name]
        return copied, (array, False, "unstructured", copied.dims, None)
    bias.replace(moved.astype(kind))
    return bias, before


def _top(layer: Layer) -> Any:
    graph = layer.graph
    while graph.parent is not None:
        graph = graph.parent
    return graph
