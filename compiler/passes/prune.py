"""Prune step by step while training, so that what is left takes over from what goes.

The density falls from 1 along (1 - done)^3, as in Zhu and Gupta 2017, and between its steps the weights that are left are
trained (Deep Compression, section 2, prunes and retrains in turns). With ``splice`` pruned weights go on being trained as if
they were there, and come back where they have grown larger than one that is kept (dynamic network surgery, Guo, Yao, Chen 2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..analysis.layers import Layer, find_layers
from ..ir.graph import Model
from .base import PassResult, Select, TrainingPass, every, option
from .retrain import trained
from .sparsify import Sparsify

if TYPE_CHECKING:
    from ..training.parametrization import Plain
    from ..training.trainer import Training


@dataclass(frozen=True)
class Prune(TrainingPass):
    """Prune gradually while training. Without training data, prune at once, as ``sparsify`` does."""

    name: ClassVar[str] = "prune"

    density: float = option(1.0, "share of weights kept in the end", low=0.0, high=1.0)
    pattern: str = option("unstructured", "unstructured, balanced, block, or N:M such as 2:4; as of sparsify")
    lanes: int = option(16, "of balanced, as of sparsify", low=1, high=4096)
    window: int = option(0, "of balanced, as of sparsify", low=0, high=65536)
    splice: str = option("yes", "pruned weights may come back while the density falls", choices=("yes", "no"))
    ramp: float = option(0.6, "share of the epochs over which the density falls", low=0.0, high=1.0)
    steps: int = option(30, "in which it falls", low=1, high=100_000)
    epochs: int = option(0, "over the training data; 0: as many as [train] says", low=0)
    rate: float = option(1.0, "times the learning rate", low=0.0)

    def __post_init__(self) -> None:
        self._sparsify()  # refuses a pattern that is none

    def _sparsify(self, density: float | None = None) -> Sparsify:
        same = {f.name: getattr(self, f.name) for f in fields(Sparsify) if hasattr(self, f.name)}
        return replace(Sparsify(**same), density=self.density if density is None else density)

    def run(self, model: Model, select: Select = every) -> PassResult:
        return self._sparsify().run(model, select)

    def train(self, model: Model, chosen: Mapping[str, Self], training: Training) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import Plain

        layers = [la for la in find_layers(model)[0] if la.name in chosen]
        before = {la.name: la.array() for la in layers}
        made = {la: Plain(la.array(), np.ones(la.shape, np.bool_), through=self.splice == "yes") for la in layers}
        network = assemble(model, made)
        ramp = _Ramp(self, {la: (chosen[la.name], made[la]) for la in layers})
        training.fit(network, self.name, epochs=self.epochs or None, rate=self.rate, before=ramp, settled=self.ramp)
        ramp(1.0)
        network.store()
        return trained(layers, before, "pruned while training")


class _Ramp:
    """Sets the masks as training goes on."""

    def __init__(self, step: Prune, layers: Mapping[Layer, tuple[Prune, Plain]]) -> None:
        self.step, self.layers, self.last = step, layers, -1

    def __call__(self, done: float) -> None:
        reached = 1.0 if done >= self.step.ramp else done / self.step.ramp
        now = int(reached * self.step.steps)
        if now == self.last:
            return
        self.last = now
        for layer, (own, parametrization) in self.layers.items():
            density = own.density + (1 - own.density) * (1 - now / self.step.steps) ** 3
            if reached >= 1:
                parametrization.through = False
            parametrization.set_mask(self.mask(own, density, parametrization.array(), layer))

    def mask(self, own: Prune, density: float, array: Any, layer: Layer) -> Any:
        return own._sparsify(density).mask(array, layer.op)
