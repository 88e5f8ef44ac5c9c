"""Train what survived: weights under their masks, codebooks by the summed gradients of their members, the rest as it is.

Deep Compression (ICLR 2016): section 2 retrains the weights that pruning left, section 3.3 the shared values that clustering
found. What is trained follows from the form that the passes before gave a layer, so this one comes after any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ..analysis.layers import Layer
from ..ir.graph import Model
from .base import LedgerEntry, PassResult, TrainingPass, option
from .sparsify import Array, relative_error

if TYPE_CHECKING:
    from ..training.trainer import Training


@dataclass(frozen=True)
class Retrain(TrainingPass):
    """Train weights, biases and codebooks in the form they have. Without training data, nothing."""

    name: ClassVar[str] = "retrain"

    epochs: int = option(0, "over the training data; 0: as many as [train] says", low=0, whole=True)
    rate: float = option(1.0, "times the learning rate", low=0.0, whole=True)
    mask: str = option(
        "keep", "pruned weights: keep them zero, or release them, to grow again (DSD)", choices=("keep", "release")
    )

    @property
    def undoes(self) -> frozenset[str]:
        return frozenset({"shared"}) if self.mask == "release" else frozenset()

    def train(
        self, model: Model, layers: Sequence[Layer], chosen: Mapping[str, Self], training: Training
    ) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import of_layer

        mine = [la for la in layers if la.name in chosen]
        before = {la.name: la.array() for la in mine}
        network = assemble(model, layers, {la: of_layer(la, release=chosen[la.name].mask == "release") for la in mine})
        training.fit(network, self.name, epochs=self.epochs or None, rate=self.rate, options=chosen)
        network.store()
        return trained(mine, before, "retrained")


def trained(layers: list[Layer], before: Mapping[str, Array], action: str) -> PassResult:
    """The result of a training pass: every layer, by how far it moved."""
    entries = []
    for layer in layers:
        now = layer.array()
        kept = float((now != 0).mean()) if now.size else 1.0
        entries.append(LedgerEntry(layer.name, action, kept=kept, error=relative_error(before[layer.name], now)))
    return PassResult(bool(layers), tuple(entries))
