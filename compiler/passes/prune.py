"""Prune step by step while training, so that what is left takes over from what goes.

The density falls from 1 along (1 - done)^3, as in Zhu and Gupta 2017, and between its steps the weights that are left are
trained (Deep Compression, section 2, prunes and retrains in turns). With ``splice`` pruned weights go on being trained as if
they were there, and come back where they have grown worth more than one that is kept (dynamic network surgery, Guo, Yao, Chen
2016). What a weight is worth is its magnitude, within its layer, or its saliency: what the loss would rise by without it (optimal
brain damage, LeCun, Denker, Solla 1989), which compares across layers.

With ``ratio`` there is one budget for all layers, in bytes as the entropy coder will charge them, and one ranking: the layers'
densities follow from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ..analysis.layers import Layer
from ..coding.footprint import most_salient, stored_bytes
from ..errors import UserError
from ..ir.graph import Model
from .base import Layers, LedgerEntry, PassResult, Select, TrainingPass, all_layers, every, option
from .retrain import trained
from .sparsify import Sparsify

if TYPE_CHECKING:
    from ..training.parametrization import Weighed
    from ..training.trainer import Training

Array = npt.NDArray[Any]

_HELD = (
    1.2  # a pruned weight takes the place of a kept one when it is worth this much more: ties don't go back and forth
)


@dataclass(frozen=True)
class Prune(TrainingPass):
    """Prune gradually while training. Without training data, prune at once, by magnitude, as ``sparsify`` does."""

    name: ClassVar[str] = "prune"

    density: float = option(1.0, "share of weights kept in the end", low=0.0, high=1.0)
    ratio: float = option(
        0.0, "instead of a density: how many times fewer bytes all these layers take, stored; 0: by density", low=0.0
    )
    value_bits: float = option(3.0, "of ratio: bits that a kept weight's value is expected to take", low=0.0, high=8.0, whole=True)
    saliency: str = option(
        "magnitude",
        "what a weight is worth: its magnitude, or w^2 E[g^2] (fisher); a ratio always ranks by the latter",
        choices=("magnitude", "fisher"),
    )
    pattern: str = option("unstructured", "unstructured, balanced, block, or N:M such as 2:4; as of sparsify")
    lanes: int = option(16, "of balanced, as of sparsify", low=1, high=4096)
    window: int = option(0, "of balanced, as of sparsify", low=0, high=65536)
    splice: str = option("yes", "pruned weights may come back while masks change", choices=("yes", "no"))
    ramp: float = option(0.6, "share of the epochs over which the density falls", low=0.0, high=1.0, whole=True)
    steps: int = option(30, "in which it falls", low=1, high=100_000, whole=True)
    exchange: float = option(
        0.0, "share of the epochs after that in which weights are still exchanged, as many as before", low=0.0, high=1.0, whole=True
    )
    epochs: int = option(0, "over the training data; 0: as many as [train] says", low=0, whole=True)
    rate: float = option(1.0, "times the learning rate", low=0.0, whole=True)

    @property
    def undoes(self) -> frozenset[str]:
        return frozenset({"shared"})

    def __post_init__(self) -> None:
        self._sparsify()  # refuses a pattern that is none
        if self.ratio and self.pattern != "unstructured":
            raise UserError("a ratio goes with unstructured pruning only", where="prune",
                            hint="Give a density for each layer instead.")  # fmt: skip
        if self.ratio and self.density < 1:
            raise UserError(f"there is a ratio and a density ({self.density:g})", where="prune",
                            hint="A ratio says what all layers take together; ratio = 0 in a rule takes a layer out of it.")  # fmt: skip
        if 0 < self.ratio < 1:
            raise UserError(f"ratio = {self.ratio:g} would make weights larger", where="prune",
                            hint="40 stands for 40 times fewer bytes.")  # fmt: skip

    def _sparsify(self, density: float | None = None) -> Sparsify:
        same = {f.name: getattr(self, f.name) for f in fields(Sparsify) if hasattr(self, f.name)}
        return replace(Sparsify(**same), density=self.density if density is None else density)

    def _at(self, begin: float, fallen: float) -> Sparsify:
        """The pruning where that share of the way from density ``begin`` to what is wanted is left."""
        counted = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        if counted is None:
            return self._sparsify(self.density + max(0.0, begin - self.density) * fallen)
        keep, of = int(counted[1]), int(counted[2])
        now = math.ceil(keep + (of - keep) * fallen - 1e-9)
        return replace(self._sparsify(), pattern=f"{now}:{of}")

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        if not self.ratio:
            return self._sparsify().run(model, select, layers)
        chosen = [*filter(select, all_layers(model, layers))]
        return self._sparsify(self._even_density(chosen)).run(model, select, layers)

    def _even_density(self, layers: list[Layer]) -> float:
        """The density that keeps the ratio where every layer has the same: without gradients nothing tells them apart."""
        wanted = sum(la.constant.stored for la in layers) / self.ratio
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            by = self._sparsify(middle)
            taken = sum(stored_bytes(by.mask(la.array(), la.op), self.value_bits) for la in layers)
            low, high = (middle, high) if taken <= wanted else (low, middle)
        return low

    def train(
        self, model: Model, layers: Sequence[Layer], chosen: Mapping[str, Self], training: Training
    ) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import Weighed

        mine = [la for la in layers if la.name in chosen]
        lost = training.unreached(model, [la.constant for la in mine])
        left = [la for la in mine if la.constant.name in lost]  # nothing tells what their weights are worth
        if left and len(left) == len(mine):
            name = left[0].constant.name
            raise UserError(f"nothing can be pruned while training: {lost[name]}", where=name,
                            hint="Prune with sparsify, which needs no gradients.")  # fmt: skip
        mine = [la for la in mine if la not in left]
        before = {la.name: la.array() for la in mine}
        made = {}
        for la in mine:
            own = chosen[la.name]
            watch = own.ratio > 0 or own.saliency == "fisher"
            made[la] = Weighed(la.array(), through=own.splice == "yes", watch=watch, pattern=own._sparsify().kind)
        network = assemble(model, layers, made)
        ramp = _Ramp(self, {la: (chosen[la.name], made[la]) for la in mine})
        training.fit(
            network, self.name, epochs=self.epochs or None, rate=self.rate, before=ramp, settled=ramp.settled, options=chosen
        )
        network.store()
        done = trained(mine, before, "pruned while training")
        kept = tuple(LedgerEntry(la.name, reason=f"not pruned: {lost[la.constant.name]}") for la in left)
        return replace(done, ledger=(*done.ledger, *kept))


class _Ramp:
    """Sets the masks as training goes on: in stages of equal length, the last of them final."""

    def __init__(self, step: Prune, layers: Mapping[Layer, tuple[Prune, Weighed]]) -> None:
        self.step, self.layers = step, layers
        self.settled = min(1.0, step.ramp + step.exchange)
        self.length = (step.ramp or step.exchange or 1.0) / step.steps
        self.final = round(self.settled / self.length)
        begin = {la: (la.array() != 0) for la in layers}
        self.begin = {la: float(mask.mean()) if mask.size else 1.0 for la, mask in begin.items()}
        self.budgets: dict[float, list[Layer]] = {}  # layers of one ratio share a budget
        for layer, (own, _) in layers.items():
            if own.ratio:
                self.budgets.setdefault(own.ratio, []).append(layer)
        bits = step.value_bits
        self.bytes = {r: sum(stored_bytes(begin[la], bits) for la in found) for r, found in self.budgets.items()}

    def __call__(self, done: float) -> None:
        stage = self.final
        if done < self.settled:
            stage = min(self.final - 1, int(done / self.length))
        if any(int(p.stage) != stage for _, p in self.layers.values()):
            self._set(stage)
        if stage == self.final:
            for _, parametrization in self.layers.values():
                parametrization.settle()

    def _set(self, stage: int) -> None:
        fallen = (1 - min(1.0, stage * self.length / self.step.ramp)) ** 3 if self.step.ramp else 0.0
        for ratio, layers in self.budgets.items():
            self._share_budget(ratio, layers, fallen)
        for layer, (own, parametrization) in self.layers.items():
            if not own.ratio:
                pruning = own._at(self.begin[layer], fallen)
                parametrization.set_mask(pruning.mask(_worth(parametrization, own.saliency), layer.op))
            parametrization.stage.fill_(stage)

    def _share_budget(self, ratio: float, layers: Sequence[Layer], fallen: float) -> None:
        """Masks of all these layers for what the budget is by now: it falls from what they took to the ratio's share."""
        if fallen >= 1:
            return
        last = sum(la.constant.stored for la in layers) / ratio
        wanted = last + max(0.0, self.bytes[ratio] - last) * fallen
        made = [self.layers[la][1] for la in layers]
        worth = [_held(p, p.saliency("fisher")) for p in made]
        for mask, parametrization in zip(most_salient(worth, wanted, self.step.value_bits), made, strict=True):
            parametrization.set_mask(mask)


def _worth(parametrization: Weighed, saliency: str) -> Array:
    """What weights are worth, as magnitudes: patterns weigh blocks by the sum of squares."""
    worth = parametrization.saliency(saliency)
    return worth if saliency == "magnitude" else np.sqrt(_held(parametrization, worth))


def _held(parametrization: Weighed, worth: Array) -> Array:
    """A saliency, that of weights that are kept raised a little."""
    if parametrization.mask is None:
        return worth
    return np.where(parametrization.mask.cpu().numpy(), np.float32(_HELD) * worth, worth)
