"""Train what survived: weights under their masks, codebooks by the summed gradients of their members, the rest as it is.

Deep Compression (ICLR 2016): section 2 retrains the weights that pruning left, section 3.3 the shared values that clustering
found. What is trained follows from the form that the passes before gave a layer, so this one comes after any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ..analysis.layers import Layer, find_layers
from ..ir.graph import Model
from .base import NO_DATA, LedgerEntry, PassResult, Select, TrainingPass, every, option
from .sparsify import Array, relative_error

if TYPE_CHECKING:
    from ..training.trainer import Training


@dataclass(frozen=True)
class Retrain(TrainingPass):
    """Train weights, biases and codebooks in the form they have. Without training data, nothing."""

    name: ClassVar[str] = "retrain"

    epochs: int = option(0, "over the training data; 0: as many as [train] says", low=0)
    rate: float = option(1.0, "times the learning rate", low=0.0)
    mask: str = option(
        "keep", "pruned weights: keep them zero, or release them, to grow again (DSD)", choices=("keep", "release")
    )

    def run(self, model: Model, select: Select = every) -> PassResult:
        layers = [la for la in find_layers(model)[0] if select(la)]
        return PassResult(False, tuple(LedgerEntry(la.name, reason=NO_DATA) for la in layers))

    def train(self, model: Model, chosen: Mapping[str, Self], training: Training) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import of_layer

        layers = [la for la in find_layers(model)[0] if la.name in chosen]
        before = {la.name: la.array() for la in layers}
        network = assemble(model, {la: of_layer(la, release=chosen[la.name].mask == "release") for la in layers})
        training.fit(network, self.name, epochs=self.epochs or None, rate=self.rate)
        network.store()
        return trained(layers, before, "retrained")


def trained(layers: list[Layer], before: Mapping[str, Array], action: str) -> PassResult:
    """The result of a training pass: every layer, by how far it moved."""
    entries = []
    for layer in layers:
        now = layer.array()
        kept = float((now != 0).mean()) if now.size else 1.0
        entries.append(LedgerEntry(layer.name, action, kept=kept, error=relative_error(before[layer.name], now)))
    return PassResult(bool(layers), tuple(entries))
