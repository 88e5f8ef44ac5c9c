"""Judges a model that was changed against the original, on the same samples all along."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eie.runtime import Session

from ..data import describe, inputs_of, load_npz, split
from ..errors import UserError
from ..ir.graph import Model
from ..ir.writer import save, to_proto
from ..passes.sparsify import Sparsify
from ..recipe import Recipe
from .budget import Choice, approximate
from .fidelity import INLINE_LIMIT, Fidelity, Runner, compare, judged_tensors, outputs_of
from .layers import Layer
from .samples import made_up, that_runs

Array = npt.NDArray[Any]

_AT_ONCE = 64  # samples a run, where the model's batch is open


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy, 0 to 1, of the original and of the artifact on the same labelled samples."""

    before: float
    after: float
    samples: int


class Judge:
    """Holds the samples and what the original says to them.

    Args:
        original: the model as it was read; it is not changed.
        data: the user's arrays (an ``.npz`` or a dictionary), or None: samples are made up.
        shapes: of made-up input, by input name.
        samples: how many are used for judging; all of the user's with labels count for accuracy.
        seed: of made-up input.

    Raises:
        UserError: the data does not fit the model, or no input can be made up that the model runs on.
    """

    def __init__(
        self,
        original: Model,
        data: str | Path | Mapping[str, Array] | None,
        shapes: Mapping[str, Sequence[int]] | None,
        samples: int,
        seed: int,
    ) -> None:
        self.tensors = judged_tensors(original)
        self.labels: Array | None = None
        self.made_up = data is None
        runner = Runner(original, self.tensors)
        if data is None:
            self.feeds, self.expected = that_runs(made_up(original, samples, seed, shapes), runner.run)
        else:
            where = "data" if isinstance(data, Mapping) else str(data)
            if not isinstance(data, Mapping | str | Path):
                raise UserError(f"is a {type(data).__name__} instead of arrays by name, or the path of an .npz", where="data",
                                hint='For example: data={"input name": array, "label": labels}.')  # fmt: skip
            arrays = data if isinstance(data, Mapping) else load_npz(data)
            inputs = describe(inputs_of(original))
            singles, self.labels = split(arrays, inputs, where=where)
            # spread over the file: data is often sorted by class
            self.feeds = [
                singles[i] for i in np.unique(np.linspace(0, len(singles) - 1, min(samples, len(singles))).astype(int))
            ]
            self.expected = [runner.run(feed) for feed in self.feeds]
            spoilt = sum(not _any_finite(values) for values in self.expected)
            if spoilt:
                raise UserError(
                    f"the model's outputs are not finite on {spoilt} of {len(self.feeds)} samples",
                    where=where,
                    hint="Look for NaN or infinity in the samples.",
                )
            self._batches = split(arrays, inputs, batch=_AT_ONCE, where=where)[0] if self.labels is not None else []

    def measure(self, model: Model) -> Fidelity:
        """How far a Graph's outputs are from the original's; compressed constants are decoded."""
        runner = Runner(model, self.tensors)
        return compare(self.tensors, self.expected, (runner.run(feed) for feed in self.feeds))

    def try_out(self, model: Model, layers: Sequence[Layer], choices: Mapping[str, Choice], recipe: Recipe) -> Fidelity:
        """What ``measure`` would say if ``layers`` were changed as chosen; the model is as before afterwards."""
        plain = next((p for p in recipe.passes if isinstance(p, Sparsify)), Sparsify())
        kept = [(layer.constant, layer.constant.content, layer.constant.transposed) for layer in layers]
        try:
            for layer in layers:
                prune = recipe.options(layer, plain)
                assert isinstance(prune, Sparsify)
                layer.set_array(approximate(layer.array(), choices[layer.name], prune, layer.op))
            return self.measure(model)
        finally:
            for constant, content, transposed in kept:
                constant.replace(content, transposed=transposed)

    def artifact(self, artifact: Model) -> Fidelity:
        """How far the artifact's outputs are from the original's, run as users run it on the ``cpu`` backend."""
        with _session(artifact, self.tensors) as session:
            got = [session.run(self.tensors, feed) for feed in self.feeds]
        return compare(self.tensors, self.expected, got)

    def accuracy(self, original: Model, artifact: Model) -> Accuracy:
        """Top-1 of both on all labelled samples."""
        assert self.labels is not None
        name = original.graph.outputs[0].name
        runner = Runner(original, [name])
        before = top1((runner.run(feed)[0] for feed in self._batches), self.labels)
        with _session(artifact, [name]) as session:
            after = top1((session.run([name], feed)[0] for feed in self._batches), self.labels)
        return Accuracy(before, after, len(self.labels))


def top1(outputs: Iterable[Array], labels: Array) -> float:
    """Share of samples whose largest element of the first output is at the label.

    Args:
        outputs: an array a run, [samples, classes] but for axes of size 1.
        labels: int [samples], in the order of the runs.

    Raises:
        UserError: the outputs are no scores of classes, or there are more or fewer than labels.
    """
    found: list[Array] = []
    for output in outputs:
        scores = np.asarray(output)
        axes = [a for a in range(1, scores.ndim) if scores.shape[a] > 1]
        if scores.ndim == 1 and scores.size > 1:
            scores, axes = scores[None], [1]
        if len(axes) != 1:
            raise UserError(
                f"top-1 needs an output [samples, classes], the first output is {list(scores.shape)}",
                where="label",
                hint="Leave label out of the data to compare outputs instead.",
            )
        classes = scores.shape[axes[0]]
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise UserError(f"the labels go from {labels.min()} to {labels.max()}, and the model tells {classes} classes apart",
                            where="label", hint=f"They are indices, 0 to {classes - 1}.")  # fmt: skip
        found.append(scores.argmax(axes[0]).reshape(-1))
    picked = np.concatenate(found) if found else np.zeros(0, np.int64)
    if picked.size != labels.size:
        raise UserError(f"the model gave {picked.size} answers for {labels.size} labels", where="label")
    return float((picked == labels).mean()) if labels.size else float("nan")


def _any_finite(values: Sequence[Array]) -> bool:
    """Whether there is anything to compare: no output of numbers, or one with a finite number."""
    numbers = [v for v in map(np.asarray, values) if v.dtype.kind == "f" and v.size]
    return not numbers or any(np.isfinite(v).any() for v in numbers)


@contextmanager
def _session(artifact: Model, tensors: Sequence[str]) -> Iterator[Session]:
    """A Session on a Graph that is written nowhere yet, with ``tensors`` as outputs."""
    with outputs_of(artifact, tensors), tempfile.TemporaryDirectory() as folder:
        if sum(c.nbytes for c in artifact.graph.constants.values()) > INLINE_LIMIT:
            path = Path(folder) / "model.onnx"
            save(artifact, path)
            yield Session(path)
        else:
            yield Session(to_proto(artifact).SerializeToString())
