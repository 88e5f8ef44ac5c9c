"""Dense-sparse-dense training (Han et al., ICLR 2017): prune, retrain under the mask, release the mask and train all again.

The first training is the model's own. Section 3: the same sparsity in every layer, the first convolution left dense; pruned
weights start the last phase at zero, and it takes a tenth of the learning rate. The three can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ..analysis.layers import Layer
from ..ir.graph import Model
from .base import PassResult, TrainingPass, option
from .retrain import trained
from .sparsify import Sparsify

if TYPE_CHECKING:
    from ..training.trainer import Training


@dataclass(frozen=True)
class Dsd(TrainingPass):
    """Train sparse, then dense again. The model stays dense: this is for accuracy, and compression comes after it."""

    name: ClassVar[str] = "dsd"

    density: float = option(0.7, "share of weights kept while sparse", low=0.0, high=1.0)
    repeats: int = option(1, "how often", low=1, high=100, whole=True)
    epochs: int = option(0, "of each sparse phase; 0: as many as [train] says", low=0, whole=True)
    dense_epochs: int = option(0, "of each dense phase; 0: as many as the sparse one", low=0, whole=True)
    rate: float = option(1.0, "times the learning rate, while sparse", low=0.0, whole=True)
    dense_rate: float = option(0.1, "times the learning rate, while dense again", low=0.0, whole=True)
    first: str = option("keep", "the first convolution: keep it dense, or prune it too", choices=("keep", "too"))

    @property
    def undoes(self) -> frozenset[str]:
        return frozenset({"shared"})

    def train(
        self, model: Model, layers: Sequence[Layer], chosen: Mapping[str, Self], training: Training
    ) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import Plain

        mine = [la for la in layers if la.name in chosen]
        before = {la.name: la.array() for la in mine}
        first = next((la for la in layers if la.op == "Conv"), None)
        spared = {id(la) for la in mine if la is first and chosen[la.name].first == "keep"}
        for repeat in range(1, self.repeats + 1):
            of = f" {repeat} of {self.repeats}" if self.repeats > 1 else ""
            made = {}
            for la in mine:
                array = la.array()
                dense = id(la) in spared
                mask = None if dense else Sparsify(density=chosen[la.name].density).mask(array, la.op)
                made[la] = Plain(array, mask)
            network = assemble(model, layers, made)
            training.fit(network, f"dsd: sparse{of}", epochs=self.epochs or None, rate=self.rate, options=chosen)
            network.store()
            network = assemble(model, layers, {la: Plain(la.array()) for la in mine})
            epochs = self.dense_epochs or self.epochs or None
            training.fit(network, f"dsd: dense{of}", epochs=epochs, rate=self.dense_rate, options=chosen)
            network.store()
        return trained(mine, before, "trained dense, sparse, dense")
