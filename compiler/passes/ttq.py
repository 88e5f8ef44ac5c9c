"""Trained Ternary Quantization (Zhu, Han, Mao, Dally, ICLR 2017), section 3: latent weights and two scales a layer, all trained.

    w -> p where w > t max|w|, -n where w < -t max|w|, else 0

The latent weights begin as the model's, the scales as the means of what they replace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from ..analysis.layers import Layer
from ..ir.graph import Model
from .base import Layers, LedgerEntry, PassResult, Select, TrainingPass, every, option
from .retrain import trained
from .ternarize import ENDS, Ternarize

if TYPE_CHECKING:
    from ..training.parametrization import Parametrization
    from ..training.trainer import Training


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
    epochs: int = option(0, "over the training data; 0: as many as [train] says", low=0, whole=True)
    rate: float = option(1.0, "times the learning rate", low=0.0, whole=True)

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        return Ternarize(t=self.t, ends=self.ends).run(model, select, layers)

    def train(
        self, model: Model, layers: Sequence[Layer], chosen: Mapping[str, Self], training: Training
    ) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import Ternary, of_layer

        mine = [la for la in layers if la.name in chosen]
        outer = [la for la in (*layers[:1], *layers[-1:]) if la.name in chosen]
        ends = {id(la) for la in outer if chosen[la.name].ends == "keep"}
        before = {la.name: la.array() for la in mine}

        def make(layer: Layer) -> Parametrization:
            return of_layer(layer) if id(layer) in ends else Ternary(layer.array(), chosen[layer.name].t)

        network = assemble(model, layers, {la: make(la) for la in mine})
        training.fit(network, self.name, epochs=self.epochs or None, rate=self.rate, options=chosen)
        network.store()
        done = trained(mine, before, "ternary, trained")
        kept = {la.name for la in mine if id(la) in ends}
        entries = [LedgerEntry(e.layer, reason=ENDS) if e.layer in kept else e for e in done.ledger]
        return replace(done, ledger=tuple(entries))
