"""Share weights while training: what each weight is rounded to is known to the gradients, and weights may change their code.

Deep Compression (ICLR 2016), section 3, clusters once, when training is over, and then moves the shared values; the assignment stays.
Here latent weights are trained through their codebook, straight through the rounding (BinaryConnect, Courbariaux et al. 2015), and
codebooks are fitted anew from time to time, to the same budget of bytes where there is one (compiler/coding/priced.py). A
``retrain`` after it tunes the values that came out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ..analysis.layers import Layer
from ..coding.priced import share_within
from ..ir.graph import Model
from .base import Layers, LedgerEntry, PassResult, Select, TrainingPass, every, option
from .cluster import Cluster
from .sparsify import relative_error

if TYPE_CHECKING:
    from ..training.parametrization import Coded
    from ..training.trainer import Training


@dataclass(frozen=True)
class Share(TrainingPass):
    """Cluster and train, in turns. Without training data, cluster once, as ``cluster`` does."""

    name: ClassVar[str] = "share"
    ensures: ClassVar[frozenset[str]] = frozenset({"shared"})

    bits: int = option(5, "bits of a code: at most 2^bits - 1 shared values, and zero", low=1, high=8)
    ratio: float = option(
        0.0, "how many times fewer bytes all these layers take, stored; 0: whatever bits give", low=0.0
    )
    refits: int = option(30, "how often codebooks are fitted", low=1, high=100_000, whole=True)
    epochs: int = option(0, "over the training data; 0: as many as [train] says", low=0, whole=True)
    rate: float = option(0.2, "times the learning rate", low=0.0, whole=True)

    def __post_init__(self) -> None:
        self._cluster()  # refuses a ratio that is none

    def _cluster(self) -> Cluster:
        return Cluster(bits=self.bits, ratio=self.ratio)

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        return self._cluster().run(model, select, layers)

    def train(
        self, model: Model, layers: Sequence[Layer], chosen: Mapping[str, Self], training: Training
    ) -> PassResult:
        from ..training.network import assemble
        from ..training.parametrization import Coded

        mine = [la for la in layers if la.name in chosen]
        before = {la.name: la.array() for la in mine}
        made: dict[Layer, Coded] = {}
        for la in mine:
            made[la] = Coded(before[la.name], 1 << chosen[la.name].bits, la.pattern)
        fits = _Fits(self, {la: (chosen[la.name], p) for la, p in made.items()})
        network = assemble(model, layers, dict(made))
        training.fit(network, self.name, epochs=self.epochs or None, rate=self.rate, before=fits, options=chosen)
        network.store()
        entries = []
        for la in mine:
            assert la.weight is not None
            moved = relative_error(before[la.name], la.array())
            action = f"{la.weight.codebook.size - 1} shared values found while training"
            entries.append(LedgerEntry(la.name, action, kept=la.weight.density, error=moved))
        return PassResult(bool(mine), tuple(entries))


class _Fits:
    """Fits codebooks as training goes on: for all layers with the same options together."""

    def __init__(self, step: Share, layers: Mapping[Layer, tuple[Share, Coded]]) -> None:
        self.step, self.layers = step, layers
        self.groups: dict[Share, list[Layer]] = {}
        for layer, (own, _) in layers.items():
            self.groups.setdefault(own, []).append(layer)

    def __call__(self, done: float) -> None:
        now = int(done * self.step.refits)
        if any(int(p.stage) != now for _, p in self.layers.values()):
            self.fit()
            for _, parametrization in self.layers.values():
                parametrization.stage.fill_(now)

    def fit(self) -> None:
        """Codebooks for what the latent weights are by now."""
        for own, layers in self.groups.items():
            wanted = sum(la.constant.stored for la in layers) / own.ratio if own.ratio else math.inf
            made = {la.name: self.layers[la][1] for la in layers}
            found, _ = share_within({name: p.latent() for name, p in made.items()}, 1 << own.bits, wanted)
            for name, parametrization in made.items():
                parametrization.recode(found[name].weight.codebook, found[name].ends)
