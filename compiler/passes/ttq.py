"""Trained Ternary Quantization (Zhu, Han, Mao, Dally, ICLR 2017), section 3: latent weights and two scales a layer, all trained.

    w -> p where w > t max|w|, -n where w < -t max|w|, else 0

The latent weights begin as the model's, the scales as the means of what they replace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from ..analysis.layers import Layer, find_layers
from ..ir.graph import Model
from .base import LedgerEntry, PassResult, Select, TrainingPass, every, option
from .retrain import trained
from .ternarize import Ternarize

if TYPE_CHECKING:
    from ..training.parametrization import Parametrization
    from ..training.trainer import Training

_WHY = "the first and the last layer keep their precision (TTQ, section 3)"


@dataclass(frozen=True)
class Ttq(TrainingPass):
    """Train ternary weights. Without training data, ``ternarize``: the scales are the means of what they replace."""

    name: ClassVar[str] = "ttq"
    ensures: ClassVar[frozenset[str]] = frozenset({"shared"})

    t: float = option(0.05, "threshold as a share of the layer's largest magnitude", low=0.0, high=1.0)
    ends: str = option(
        "keep",
        "the first and the last layer: keep them in full precision, or ternarize them too",
        choices=("keep", "too"),
    )
    epochs: int = option(0, "over the training data; 0: as many as [train] says", low=0)
    rate: float = option(1.0, "times the learning rate", low=0.0)

    def run(self, model: Model, select: Select = every) -> PassResult:
        return Ternarize(t=self.t, ends=self.ends).run(model, select)

    def train(self, model: Model, chosen: Mapping[str, Self], training: Training) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import Ternary, of_layer

        every_layer = find_layers(model)[0]
        layers = [la for la in every_layer if la.name in chosen]
        outer = [la for la in every_layer[:1] + every_layer[-1:] if la.name in chosen]
        ends = {id(la) for la in outer if chosen[la.name].ends == "keep"}
        before = {la.name: la.array() for la in layers}

        def make(layer: Layer) -> Parametrization:
            return of_layer(layer) if id(layer) in ends else Ternary(layer.array(), chosen[layer.name].t)

        network = assemble(model, {la: make(la) for la in layers})
        training.fit(network, self.name, epochs=self.epochs or None, rate=self.rate)
        network.store()
        done = trained(layers, before, "ternary, trained")
        kept = {la.name for la in layers if id(la) in ends}
        entries = [LedgerEntry(e.layer, reason=_WHY) if e.layer in kept else e for e in done.ledger]
        return replace(done, ledger=tuple(entries))
