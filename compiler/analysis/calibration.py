"""Samples at work: the inputs of layers, stage by stage, while the layers before them are being compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import Feeds, describe, inputs_of
from ..errors import UserError
from ..ir.graph import Constant, Held, Model
from .capture import capture, that_fit
from .layers import Layer
from .moments import Moments
from .undo import restored

FEWEST = 32  # feeds that are used in any case, where there are as many
_MANY, _ENOUGH = 32, 96  # inputs that a run gives a layer, from which so many runs are enough
_A_STAGE, _ALL_STAGES = 2e10, 1.2e11  # multiplications that one stage, and all of them, may take
_BATCH, _BATCH_BYTES = 32, 2 << 20  # samples a run, and bytes of input
STAGES = 12  # at most: how often inputs are measured again behind compressed layers


@dataclass(frozen=True)
class Calibration:
    """Attributes:
    feeds: sample input; empty: inputs are taken to be white.
    seed: of the positions drawn.
    stages: how often inputs are measured, at most: 1: once, in the original.
    """

    feeds: Sequence[Feeds]
    seed: int = 0
    stages_most: int = STAGES

    @classmethod
    def planned(cls, model: Model, layers: Sequence[Layer], feeds: Sequence[Feeds], seed: int = 0) -> Calibration:
        """As many of the feeds, and as many stages, as the model's size allows: its multiplications are counted on one of them."""
        if not feeds:
            return cls((), seed)
        seen = capture(model, layers, feeds[:1], seed)
        work = sum(layer.size * m.vectors for layer in layers if (m := seen.get(layer.name)) is not None)
        count = min(len(feeds), max(FEWEST, int(_A_STAGE / max(work, 1.0))))
        if work > _MANY * sum(layer.size for layer in layers):  # each gives many inputs
            count = min(count, _ENOUGH)
        spread = [feeds[i * len(feeds) // count] for i in range(count)]
        return cls(together(model, layers, spread), seed, max(1, min(STAGES, int(_ALL_STAGES / max(work * count, 1.0)))))

    @classmethod
    def none(cls) -> Calibration:
        return cls(())

    def stages(
        self, model: Model, layers: Sequence[Layer], originals: Mapping[Constant, Held]
    ) -> Iterator[tuple[list[Layer], dict[str, Moments]]]:
        """Layers in the order they run, and the moments of their inputs.

        Args:
            originals: what constants that have changed since held before; the caller goes on filling it.
        """
        for number, part in enumerate(self._parts(layers)):
            if not self.feeds:
                yield part, {}
            elif number == 0 or not originals:
                yield part, self._seen(model, part)
            else:
                before = dict(originals)
                yield part, self._seen(model, part, lambda b=before: restored(b))  # type: ignore[misc]

    def whole(self, model: Model, layers: Sequence[Layer]) -> Iterator[tuple[list[Layer], dict[str, Moments]]]:
        """Layers in the model as it is, as many at a time as there is memory for, and the moments of their inputs."""
        for part in that_fit(layers):
            yield part, self._seen(model, part) if self.feeds else {}

    def _seen(
        self, model: Model, part: Sequence[Layer], original: Callable[[], AbstractContextManager[None]] | None = None
    ) -> dict[str, Moments]:
        """Moments of inputs, with the inputs of a run of one sample."""
        found = capture(model, part, self.feeds, self.seed, original=original)
        share = self.feeds.runs_by_samples if isinstance(self.feeds, _Merged) else 1.0
        return {name: replace(m, vectors=m.vectors * share) for name, m in found.items()}

    def _parts(self, layers: Sequence[Layer]) -> Iterator[list[Layer]]:
        """Neighbouring layers, in as many parts as there are stages; W and R of a recurrent operator stay together."""
        count = max(1, min(self.stages_most, len(layers))) if self.feeds else 1
        edges = {len(layers) * (i + 1) // count for i in range(count)}
        part: list[Layer] = []
        due = False
        for number, layer in enumerate(layers):
            due = due or number in edges
            if part and due and part[-1].node is not layer.node:
                yield part
                part, due = [], False
            part.append(layer)
        if part:
            yield part


def together(model: Model, layers: Sequence[Layer], feeds: Sequence[Feeds]) -> Sequence[Feeds]:
    """The same samples, several a run where the model leaves its batch open and runs on it."""
    inputs = {i.name: i.dims for i in describe(inputs_of(model))}
    first = {name: np.asarray(array) for name, array in feeds[0].items()}
    size = sum(a.nbytes for a in first.values())
    batch = min(_BATCH, len(feeds), _BATCH_BYTES // max(1, size))
    alike = all({n: np.asarray(a).shape for n, a in feed.items()} == {n: a.shape for n, a in first.items()} for feed in feeds)
    open_batch = all((d := inputs.get(n)) and d[0] is None and a.ndim and a.shape[0] == 1 for n, a in first.items())
    if batch < 2 or not alike or not open_batch:
        return feeds
    merged = _Merged(feeds, batch)
    try:
        capture(model, layers[:1], [merged[0]])
    except UserError:  # a batch the model says it takes, and does not
        return feeds
    return merged


class _Merged(Sequence[Feeds]):
    """Samples several at a time, put together when they are asked for: all of them at once would be a copy of the data."""

    def __init__(self, feeds: Sequence[Feeds], batch: int) -> None:
        self._feeds, self._batch = feeds, batch

    @property
    def runs_by_samples(self) -> float:
        return len(self) / len(self._feeds)

    def __len__(self) -> int:
        return -(-len(self._feeds) // self._batch)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = self._feeds[index * self._batch : (index + 1) * self._batch]
        return {name: np.concatenate([np.asarray(feed[name]) for feed in part]) for name in part[0]}
