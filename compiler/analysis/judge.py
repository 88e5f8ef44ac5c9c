"""Judges a model that was changed against the original, on the same samples all along.

The user's samples are cut in three, by a draw that is always the same: some the passes see (*calibrate*), some that what to do to which
layer is chosen on (*choose*), and some held back, on which a promise has to hold (*check*).
"""

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

from ..data import LABEL, Feeds, describe, inputs_of, load_npz, split
from ..errors import UserError
from ..ir.graph import Model
from ..ir.writer import save, to_proto
from .fidelity import INLINE_LIMIT, Fidelity, Runner, compare, energies, judged_tensors, outputs_of
from .promise import Reading, Score, drop_reading, error_reading, paired_interval, score_reading, wilson
from .samples import made_up, that_runs

Array = npt.NDArray[Any]

_AT_ONCE = 64  # samples a run, where the model's batch is open
_SHOWN = 16  # samples that the outputs after each pass are compared on
_HELD = 48 << 20  # bytes of the original's answers that are kept; others are computed again
_FEWEST = 16  # samples from which three parts are made; of fewer, a quarter is held back and the others do for the rest


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy, 0 to 1, of the original and of the artifact on the same labelled samples.

    Attributes:
        samples: how many it is of: those that nothing was fitted to or chosen on, where there are any.
        given: how many labelled samples there are.
        held_back: nothing was fitted to or chosen on these samples.
        interval_before, interval_after: Wilson's, 95 %.
        interval_change: of after less before, 95 %, by the bootstrap.
    """

    before: float
    after: float
    samples: int
    given: int
    held_back: bool
    interval_before: tuple[float, float] = (0.0, 1.0)
    interval_after: tuple[float, float] = (0.0, 1.0)
    interval_change: tuple[float, float] = (-1.0, 1.0)


class Judge:
    """Holds the samples and what the original says to them.

    Args:
        original: the model as it was read; it is not changed.
        data: the user's arrays (an ``.npz`` or a dictionary), or None: samples are made up.
        shapes: of made-up input, by input name.
        samples: how many are used; all of the user's with labels count for accuracy.
        seed: of made-up input, and of the draw.

    Attributes:
        made_up: the samples are.
        held_back: there are samples that nothing is chosen on.
        labels: of all the user's samples, or None.

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
        self.outputs = [o.name for o in original.graph.outputs]
        self.labels: Array | None = None
        self.made_up = data is None
        self._runner = Runner(original, list(dict.fromkeys([*self.tensors, *self.outputs])))
        self._batches: list[Feeds] = []
        self._runs = 0
        self._where = "made-up samples"
        self._kept: dict[int, list[Array]] = {}
        self._bytes = 0
        if data is None:
            self.samples, answers = that_runs(made_up(original, samples, seed, shapes), self._runner.run)
            for i, values in enumerate(answers):
                self._keep(i, values)
            self.picked = np.arange(len(self.samples))
        else:
            self._take(original, data, samples)
        self.calibrate, self.choose, self.check, self.held_back = _parts(len(self.samples), self.made_up, seed)

    def check_all(self) -> None:
        """Check on all samples: nothing is chosen on any."""
        self.check = list(range(len(self.samples)))

    def _take(self, original: Model, data: str | Path | Mapping[str, Array], samples: int) -> None:
        where = self._where = "data" if isinstance(data, Mapping) else str(data)
        if not isinstance(data, Mapping | str | Path):
            raise UserError(f"is a {type(data).__name__} instead of arrays by name, or the path of an .npz", where="data",
                            hint='For example: data={"input name": array, "label": labels}.')  # fmt: skip
        arrays = data if isinstance(data, Mapping) else load_npz(data)
        inputs = describe(inputs_of(original))
        singles, self.labels = split(arrays, inputs, where=where)
        self._runs = len(singles)
        # spread over the file: data is often sorted by class
        self.picked = np.unique(np.linspace(0, len(singles) - 1, min(samples, len(singles))).astype(int))
        self.samples = [singles[i] for i in self.picked]
        spoilt = 0
        for i in range(len(self.samples)):
            spoilt += not _any_finite(self.expected(i))
        if spoilt:
            raise UserError(
                f"the model's outputs are not finite on {spoilt} of {len(self.samples)} samples",
                where=where,
                hint="Look for NaN or infinity in the samples.",
            )
        if not any(np.asarray(v).size for i in range(len(self.samples)) for v in self.expected(i)):
            raise UserError("the model's outputs are empty on all samples, so that nothing can be compared", where=where,
                            hint="Look for a dimension of 0 in the samples.")  # fmt: skip
        if self.labels is not None:
            first = [*self.tensors, *[o for o in self.outputs if o not in self.tensors]].index(self.outputs[0])
            scores = _scores(self.expected(0)[first])
            if scores is not None:
                _check_labels(self.labels, scores.shape[1], where)  # now, and not after minutes of calibration
            self._batches = split(arrays, inputs, batch=_AT_ONCE, where=where)[0]

    # -- answers -----------------------------------------------------------------------------------------------------

    def expected(self, sample: int) -> list[Array]:
        """What the original says to a sample: the judged tensors, then outputs that are none of them."""
        if sample in self._kept:
            return self._kept[sample]
        values = self._runner.run(self.samples[sample])
        self._keep(sample, values)
        return values

    def _keep(self, sample: int, values: list[Array]) -> None:
        size = sum(v.nbytes for v in map(np.asarray, values))
        if self._bytes + size <= _HELD:
            self._kept[sample] = values
            self._bytes += size

    def feeds(self, part: Sequence[int]) -> list[Feeds]:
        return [self.samples[i] for i in part]

    def measure(self, model: Model) -> Fidelity:
        """How far a Graph's outputs are from the original's; compressed constants are decoded."""
        return self._compare(Runner(model, self.tensors).run, self.check[:: -(-len(self.check) // _SHOWN)])

    def _compare(self, run: Any, part: Sequence[int]) -> Fidelity:
        width = len(self.tensors)
        return compare(self.tensors, (self.expected(i)[:width] for i in part), (run(self.samples[i]) for i in part))

    def noise(self, model: Model, part: Sequence[int]) -> tuple[Array, Array]:
        """Energies of error and of the original, [samples, outputs]."""
        run = Runner(model, self.tensors).run
        return self._energies([(self.expected(i), run(self.samples[i])) for i in part])

    def _energies(self, pairs: Iterable[tuple[list[Array], list[Array]]]) -> tuple[Array, Array]:
        both = [[energies(np.asarray(y), np.asarray(z)) for y, z in zip(ys, zs, strict=False)] for ys, zs in pairs]
        found = np.array(both, np.float64).reshape(len(both), -1, 2)
        return found[:, :, 0], found[:, :, 1]

    # -- promises ----------------------------------------------------------------------------------------------------

    def error(self, model: Model, part: Sequence[int], allowed: float) -> Reading:
        noise, signal = self.noise(model, part)
        return error_reading(noise, signal, self.tensors, allowed, quartile_only=self.made_up)

    def drop(self, model: Model, part: Sequence[int], allowed: float) -> Reading:
        """How many top-1 answers change, or how much accuracy falls where there are labels."""
        self.needs_classes()
        run = Runner(model, self.tensors[:1]).run
        before, after, everywhere = (
            np.concatenate(rows)
            for rows in (
                [_scores(self.expected(i)[0]) for i in part],
                [_scores(run(self.samples[i])[0]) for i in part],
                [_scores(self.expected(i)[0]) for i in range(len(self.samples))],
            )
        )
        labels = None if self.labels is None else self.labels[self.picked].astype(np.int64)
        if labels is not None:
            _check_labels(labels, everywhere.shape[1], self._where)
        if labels is not None and len(labels) != len(everywhere):
            labels = None
        return drop_reading(
            before, after, everywhere, allowed, None if labels is None else labels[np.asarray(part)], labels
        )

    def needs_classes(self) -> None:
        """Raises UserError where the first output holds no scores of classes."""
        found = np.asarray(self.expected(0)[0]) if self.tensors else np.zeros(0)
        if _scores(found) is None:
            raise UserError(f"a drop in top-1 needs an output [samples, classes], the first output is {list(found.shape)}",
                            where="--max-drop", hint="Use --max-error, or --metric module:function.")  # fmt: skip

    def score(self, model: Model, part: Sequence[int], allowed: float, score: Score) -> Reading:
        """How much a function of the user's falls."""
        run = Runner(model, self.outputs).run
        names = [*self.tensors, *[o for o in self.outputs if o not in self.tensors]]
        before = [dict(zip(names, self.expected(i), strict=True)) for i in part]
        after = [dict(zip(self.outputs, run(self.samples[i]), strict=True)) for i in part]
        data = {k: np.stack([np.asarray(self.samples[i][k]) for i in part]) for k in self.samples[0]}
        if self.labels is not None and len(self.labels) >= int(self.picked.max(initial=0)) + 1:
            data[LABEL] = self.labels[self.picked[np.asarray(part)]]
        stacked = [{o: _stacked([v[o] for v in values]) for o in self.outputs} for values in (before, after)]
        return score_reading(score, stacked[0], stacked[1], data, allowed, len(part))

    # -- the artifact ------------------------------------------------------------------------------------------------

    def artifact(self, artifact: Model) -> Fidelity:
        """How far the artifact's outputs are from the original's, run as users run it on the ``cpu`` backend."""
        with _session(artifact, self.tensors) as session:
            return self._compare(lambda feed: session.run(self.tensors, feed), self.check)

    def accuracy(self, original: Model, artifact: Model, *, fitted: bool) -> Accuracy:
        """Top-1 of both on the labelled samples that say what others will see.

        Args:
            fitted: the artifact was fitted to samples, or chosen on some: these are left out, where others are left.
        """
        assert self.labels is not None
        held = self._held_back(len(self.labels)) if fitted else np.ones(len(self.labels), np.bool_)
        held_back = bool(held.any())
        counted = held if held_back else ~held
        name = original.graph.outputs[0].name
        runner = Runner(original, [name])
        before = _right((runner.run(feed)[0] for feed in self._batches), self.labels, self._where)[counted]
        with _session(artifact, [name]) as session:
            after = _right((session.run([name], feed)[0] for feed in self._batches), self.labels, self._where)[counted]
        n = len(before)
        return Accuracy(
            float(before.mean()), float(after.mean()), n, len(self.labels), held_back,
            wilson(int(before.sum()), n), wilson(int(after.sum()), n), paired_interval(before, after),
        )  # fmt: skip


    def _held_back(self, labels: int) -> npt.NDArray[np.bool_]:
        """Which labelled samples nothing was fitted to or chosen on: those held back, and those that were not picked at all."""
        seen = np.zeros(self._runs, np.bool_)
        if self.held_back:
            seen[self.picked[sorted({*self.calibrate, *self.choose})]] = True
        else:
            seen[self.picked] = True
        return ~np.repeat(seen, -(-labels // self._runs))[:labels]  # a run may take several samples


def _parts(count: int, made_up: bool, seed: int) -> tuple[list[int], list[int], list[int], bool]:
    """Samples to calibrate on, to choose on and to check on; whether the last are held back."""
    everything = list(range(count))
    if made_up or count < 4:
        return everything, everything, everything, False
    order = [int(i) for i in np.random.default_rng(seed).permutation(count)]
    if count < _FEWEST:
        held = max(1, count // 4)
        rest = sorted(order[held:])
        return rest, rest, sorted(order[:held]), True
    fifth = count // 5
    return sorted(order[2 * fifth :]), sorted(order[fifth : 2 * fifth]), sorted(order[:fifth]), True


def _scores(output: Array) -> Array:
    """[samples, classes] of an output that has one axis of classes; None of any other."""
    y = np.asarray(output)
    axes = [a for a, n in enumerate(y.shape) if n > 1 and (a or y.ndim == 1)]
    if y.dtype.kind not in "fiu" or len(axes) != 1:
        return None  # type: ignore[return-value]
    return np.moveaxis(y, axes[0], -1).reshape(-1, y.shape[axes[0]])


def _stacked(values: Sequence[Array]) -> Array:
    arrays = [np.asarray(v) for v in values]
    try:
        return np.stack(arrays)
    except ValueError:
        found = np.empty(len(arrays), object)
        found[:] = arrays
        return found


def top1(outputs: Iterable[Array], labels: Array, where: str = "data") -> float:
    """Share of samples whose largest element of the first output is at the label.

    Args:
        outputs: an array a run, [samples, classes] but for axes of size 1.
        labels: int [samples], in the order of the runs.
        where: they come from, for errors.

    Raises:
        UserError: the outputs are no scores of classes, or there are more or fewer than labels.
    """
    right = _right(outputs, labels, where)
    return float(right.mean()) if labels.size else float("nan")


def _check_labels(labels: Array, classes: int, where: str) -> None:
    """Raises UserError where a label is the index of no class."""
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"the labels go from {labels.min():g} to {labels.max():g}, and the model tells {classes} classes apart",
                        where=f"{where}, array {LABEL!r}", hint=f"They are indices, 0 to {classes - 1}.")  # fmt: skip


def _right(outputs: Iterable[Array], labels: Array, where: str) -> npt.NDArray[np.bool_]:
    found: list[Array] = []
    for output in outputs:
        scores = np.asarray(output)
        axes = [a for a in range(1, scores.ndim) if scores.shape[a] > 1]
        if scores.ndim == 1 and scores.size > 1:
            scores, axes = scores[None], [1]
        if len(axes) != 1:
            raise UserError(
                f"top-1 needs an output [samples, classes], the first output is {list(scores.shape)}",
                where=f"{where}, array {LABEL!r}",
                hint="Leave label out of the data to compare outputs instead.",
            )
        classes = scores.shape[axes[0]]
        _check_labels(labels, classes, where)
        picks = scores.argmax(axes[0])
        if scores.dtype.kind == "f":  # argmax takes the first NaN for the largest: class 0, mostly, which is right by chance
            picks = np.where(np.isnan(scores).any(axes[0]), -1, picks)
        found.append(picks.reshape(-1))
    picked = np.concatenate(found) if found else np.zeros(0, np.int64)
    if picked.size != labels.size:
        raise UserError(f"the model gave {picked.size} answers for {labels.size} labels", where=f"{where}, array {LABEL!r}")
    return np.asarray(picked == labels)


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
