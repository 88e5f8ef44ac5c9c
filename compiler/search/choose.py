"""A recipe's budget turned into rules: curves of the layers, the search over them, and what may be promised of the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from eie.runtime.backends.base import Activations

from ..analysis.calibration import Calibration
from ..analysis.judge import Judge
from ..analysis.layers import Layer
from ..analysis.promise import Reading
from ..ir.graph import Model, copied
from ..ir.writer import size_of
from ..lowering.artifact import lower
from ..lowering.names import shorten
from ..passes.base import Pass, PassResult
from ..passes.canonicalize import Canonicalize
from ..passes.encode import Encode
from ..progress import Progress
from ..recipe import Budget, Recipe, Rule
from ..usercode import load_function
from .curves import Cache, Curve, Point, measure, rule_of
from .planner import Planner
from .search import Found, Search, Task

_TOLERATED_DB = 5.0  # what made-up samples may miss at the finest codebooks, and it is reported; for more, layers are given back
_WATCHED = 24  # samples on which it is measured how far a layer's error reaches


class Transform(Protocol):
    """Runs one pass on all layers of a model, each with the options the recipe gives it."""

    def __call__(
        self, step: Pass, model: Model, layers: Sequence[Layer], recipe: Recipe, calibration: Calibration
    ) -> PassResult: ...


@dataclass(frozen=True)
class Promised:
    """What the search found, and what it promises.

    Attributes:
        rules: one a layer.
        missed: why the promise is not kept, and by how much; None where it is.
        reading: what the samples that it was checked on say; None where there was nothing to say.
        samples: how many those are; held_back: nothing was chosen on them.
        tries: whole models that were made.
        shares: of the expected error at the outputs, by layer.
        given_back: layers left as they are.
    """

    rules: Sequence[Rule]
    missed: str | None
    reading: Reading | None
    samples: int
    held_back: bool
    tries: int
    shares: Mapping[str, float] = field(default_factory=dict)
    given_back: Sequence[str] = ()

    def json(self) -> dict[str, Any]:
        return {
            "kept": self.missed is None,
            "says": self.reading.text if self.reading else None,
            "ratio": self.reading.ratio if self.reading else None,
            "samples": self.samples,
            "held_back": self.held_back,
            "tries": self.tries,
            "shares": dict(self.shares),
        }


def curves_of(
    model: Model, layers: Sequence[Layer], judge: Judge, recipe: Recipe, calibration: Calibration, *, cache: Cache | None,
    jobs: int = 1, dask: str | None = None, grid: Sequence[tuple[float, int]] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> list[Curve]:  # fmt: skip
    """Curves of the layers, with how far each one's error reaches: as far as any other's where samples are made up, for what such
    inputs make of one layer's error they do not make of another's."""
    part = judge.choose[:: max(1, len(judge.choose) // _WATCHED)][:_WATCHED]

    def arrives() -> float:
        noise, signal = judge.noise(model, part)
        ratios = [
            min(1e6, float(n.sum() / s.sum())) if np.isfinite(n).all() and s.sum() > 0 else float(n.any())
            for n, s in zip(noise.T, signal.T, strict=True)
        ]
        return max(ratios, default=0.0)

    budget = recipe.budget or Budget()
    return measure(
        model, layers, recipe, calibration, timed=budget.objective == "latency" or budget.latency_us > 0,
        trusted=not judge.made_up, grid=grid, jobs=jobs, dask=dask, cache=cache, arrives=None if judge.made_up else arrives,
        salt=f"{part} {len(judge.samples)}", progress=progress,
    )  # fmt: skip


def search(
    model: Model, layers: Sequence[Layer], judge: Judge, recipe: Recipe, calibration: Calibration, watched: Calibration, *,
    transform: Transform, encoding: Encode, cache: Cache | None, jobs: int, dask: str | None, progress: Progress,
) -> Promised:  # fmt: skip
    """Rules for every layer, within the recipe's budget.

    Args:
        model: canonical; as before afterwards.
        layers: all of the model; those that the recipe skips stay as they are.
        calibration: what the passes get to see.
        watched: what errors of layers are measured on.
    """
    budget = recipe.budget
    assert budget is not None
    chosen = [la for la in layers if any(recipe.options(la, p) for p in recipe.passes)]
    progress.stage("layers", len(chosen))
    curves = curves_of(model, chosen, judge, recipe, watched, cache=cache, jobs=jobs, dask=dask, progress=progress.step)
    latency = budget.objective == "latency"
    most = 10 ** (-budget.layer_sqnr_db / 10) if budget.layer_sqnr_db > 0 else math.inf
    task = _task(model, judge, budget)

    def apply(rules: Sequence[Rule], seen: Calibration = calibration) -> None:
        tried = recipe.with_rules(rules)
        for step in recipe.passes:
            if not isinstance(step, Canonicalize | Encode):
                transform(step, model, layers, tried, seen)

    def look(among: Sequence[Curve]) -> Found:
        return Search(
            model,
            Planner(among, latency=latency, layer_noise=most, us=0.0 if budget.size else budget.latency_us),
            task,
            apply,
            lambda rules: apply(rules, Calibration.none()),
            lambda: weigh(model, layers, encoding, recipe.activations),
            progress.step,
        ).run()

    progress.stage("search", 0)
    if judge.made_up:
        found = look([_compressed_only(c) for c in curves])
        if not found.kept and (found.chosen is None or found.chosen.ratio > 10 ** (_TOLERATED_DB / 10)):
            found = look(curves)
    else:
        found = look(curves)
    points = found.points
    return Promised(
        [rule_of(name, point) for name, point in points.items()],
        None if found.kept else _missed(found, budget, judge),
        found.checked or found.chosen,
        len(judge.check if found.checked else judge.choose),
        judge.held_back and found.checked is not None,
        found.tries,
        found.shares,
        [name for name, point in points.items() if point.plain],
    )


def checked(model: Model, judge: Judge, budget: Budget, *, held_back: bool) -> Promised:
    """What a model that is finished keeps of a promise on outputs; nothing is chosen.

    Args:
        model: what was made, canonical.
        held_back: nothing was chosen on the samples either.
    """
    reading = _task(model, judge, budget).read("check")
    missed = None
    if reading is not None and reading.sure > 1:
        few = ", but these are too few to be sure" if reading.ratio <= 1 else ""
        missed = f"the trained model {'keeps' if few else 'misses'} it on {len(judge.check)} samples{few}: {reading.text}"
    return Promised((), missed, reading, len(judge.check), held_back, 0)


def _compressed_only(curve: Curve) -> Curve:
    """Without the point that leaves the layer as it is, where there are others: made-up samples are no reason for that."""
    return replace(curve, points=tuple(p for p in curve.points if not p.plain) or curve.points)


def _task(model: Model, judge: Judge, budget: Budget) -> Task:
    parts = {"choose": judge.choose, "check": judge.check}
    score = load_function(budget.metric, "--metric") if budget.metric else None
    allowed = 10 ** (-budget.model_sqnr_db / 10)
    if budget.max_drop and score is None:
        judge.needs_classes()

    def read(part: str) -> Reading | None:
        if part not in parts:
            return None
        reading: Reading | None
        if score is not None and budget.max_drop:
            reading = judge.score(model, parts[part], budget.max_drop, score)
        elif budget.max_drop:
            reading = judge.drop(model, parts[part], budget.max_drop)
        else:
            reading = judge.error(model, parts[part], allowed) if budget.model_sqnr_db > 0 else None
        # made-up samples stand for no others, and there is nothing to be sure of
        return replace(reading, sure=reading.ratio) if reading is not None and judge.made_up else reading

    return Task(read, budget.size, budget.latency_us, allowed if not budget.max_drop and budget.model_sqnr_db else 1e-2)


def _missed(found: Found, budget: Budget, judge: Judge) -> str:
    if not found.feasible and budget.size:
        return f"no choice of the passes takes {budget.size:,} bytes or less: {found.least:,.0f} is the least"
    if not found.feasible:
        return f"no choice of the passes is expected to take {budget.latency_us:g} us or less: {found.least:g} us is the least"
    reading = found.checked or found.chosen
    assert reading is not None
    held_back = judge.held_back and found.checked is not None
    which = f"{len(judge.check if found.checked else judge.choose)} samples" + " held back" * held_back
    if reading.ratio <= 1:
        return f"it holds on {which}, but these are too few to be sure: {reading.text}"
    return f"the nearest that was found misses on {which}: {reading.text}"


def weigh(model: Model, layers: Sequence[Layer], encoding: Encode, activations: Activations) -> tuple[int, int]:
    """Bytes of the payloads, and of the artifact, that the model would become."""
    tried, its_layers = copied(model, list(layers))
    lowered = lower(tried, its_layers, activations, codec=encoding.chosen, index_bits=encoding.index_bits or None)
    tried.graph.prune()
    if encoding.names == "short":
        shorten(tried)
    return sum(len(s.payload) for s in lowered.stored), size_of(tried)


def point_text(point: Point) -> str:
    """A point's options as a recipe writes them."""
    if point.plain:
        return "as it is"
    return ", ".join(
        f"{name}{{{','.join(f'{k}={v:g}' for k, v in options.items())}}}" for name, options in point.options.items()
    )
