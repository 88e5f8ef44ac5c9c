"""The smallest (or fastest) model that keeps a promise: a budget of error spent over the layers, then measured and corrected.

The planner (compiler/search/planner.py) spends the budget on the layers. Then the passes run, the whole model is measured on samples
nothing was fitted to, and the budget is corrected until the promise just holds there; last, it has to hold on samples held back from
all of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..analysis.promise import Reading
from ..analysis.undo import undone
from ..ir.graph import Model
from ..recipe import Rule
from .curves import Point, rule_of
from .planner import Planner

_TRIES = 9  # whole models made while looking for the budget
_CHECKS = 4  # ... and while the samples held back say no
_CLOSE = 1.06  # a budget this near to one that fails is good enough
_AIM = 0.97  # of what is allowed: the next try aims below it
_SLACK = 0.6  # of what is allowed: where no more is used, layers are tried one by one
_COARSER = 8.0  # times a layer's error, there
_ROUNDS = 3  # ... over all layers
_LEAST = 1e-9  # of error, as a share of the outputs' energy: below that nothing is compressed


class Apply(Protocol):
    """Runs the recipe's passes, each layer as chosen, on the model; what it did is undone by the caller."""

    def __call__(self, rules: Sequence[Rule]) -> None: ...


@dataclass(frozen=True)
class Task:
    """What is looked for.

    Attributes:
        read: what samples say of the model as it is now; the argument says which: choose, or check.
        bytes: most bytes of the whole file; 0: as few as possible.
        us: most microseconds expected; 0: no bound.
        start: error of the outputs, as a share of their energy, that is tried first.
    """

    read: Callable[[str], Reading | None]
    bytes: float = 0.0
    us: float = 0.0
    start: float = 3e-3


@dataclass(frozen=True)
class Found:
    """What the search came to.

    Attributes:
        points: what becomes of each layer.
        kept: the promise holds; otherwise the points are those that come nearest.
        chosen, checked: what the samples said, on which it was chosen and on which it was checked; None where nothing is promised.
        tries: whole models that were made.
        shares: of the expected error at the outputs, by layer.
        feasible: some choice takes no more bytes, or time, than was asked for.
        least: bytes of the smallest file that can be made, or microseconds expected of the fastest, where that is too much.
    """

    points: Mapping[str, Point]
    kept: bool
    chosen: Reading | None
    checked: Reading | None
    tries: int
    shares: Mapping[str, float]
    feasible: bool = True
    least: float = 0.0


class Search:
    """Looks for the points, making whole models as it goes.

    Args:
        model: it is as before afterwards.
        planner: of its layers.
        task: what is looked for.
        apply: makes a whole model.
        roughly: the same without looking at samples.
        weigh: bytes of payloads and of the file, for the model as it is now.
        progress: hears of each try.
    """

    def __init__(
        self,
        model: Model,
        planner: Planner,
        task: Task,
        apply: Apply,
        roughly: Apply,
        weigh: Callable[[], tuple[int, int]],
        progress: Callable[[str], None],
    ) -> None:
        self.model, self.planner, self.task = model, planner, task
        self.apply, self.roughly, self.weigh, self.progress = apply, roughly, weigh, progress
        self.tries = 0

    def run(self) -> Found:
        if self.task.bytes:
            return self._within()
        if self.task.us and self.planner.fastest > self.task.us:
            fastest = self.planner.least(lambda p: p.us)
            return replace(self._as(fastest, False, None, None), feasible=False, least=self.planner.fastest)
        found = self._smallest()
        takes = sum(p.us for p in found.points.values())
        if self.task.us and takes > self.task.us:  # what would be fast enough has too large an error
            return replace(found, kept=False, feasible=False, least=takes)
        return found

    def _made(self, points: Mapping[str, Point], part: str) -> tuple[Reading | None, int]:
        self.tries += 1
        with undone(self.model):
            self.apply([rule_of(name, point) for name, point in points.items()])
            return self.task.read(part), self.weigh()[1] if self.task.bytes else 0

    # -- as small as a promise allows --------------------------------------------------------------------------------

    def _smallest(self) -> Found:
        good, bad = 0.0, math.inf  # budgets of error, the largest that keeps the promise and the smallest that does not
        best: tuple[dict[str, Point], Reading | None] | None = None
        nearest: tuple[float, dict[str, Point], Reading | None] | None = None
        budget = self.task.start
        for _ in range(_TRIES):
            points = self.planner.plan(budget)
            self.progress(f"{-10 * math.log10(budget):.1f} dB")
            reading, _ = self._made(points, "choose")
            ratio = 0.0 if reading is None else reading.ratio
            if nearest is None or ratio < nearest[0]:
                nearest = (ratio, points, reading)
            if ratio <= 1:
                if best is None or budget > good:
                    good, best = budget, (points, reading)
            else:
                bad = min(bad, budget)
            if (good and bad / good < _CLOSE) or (ratio <= 1 and self._coarsest(points)):
                break
            budget = self._next(budget, ratio, good, bad)
            if budget < _LEAST:
                break
        if best is None:
            assert nearest is not None
            return self._as(nearest[1], False, nearest[2], None)
        points, reading = self._relaxed(*best)
        return self._checked(points, reading, good)

    def _relaxed(self, points: dict[str, Point], reading: Reading | None) -> tuple[dict[str, Point], Reading | None]:
        """Where much is left of what is allowed, errors add up otherwise than the curves say: layers go coarser one by one, those
        first that save most by it, as long as the promise holds."""
        for _ in range(_ROUNDS):
            if reading is None or reading.ratio > _SLACK or self.task.us:
                break
            coarser = {name: self.planner.coarser(name, point, _COARSER) for name, point in points.items()}
            saved = {name: points[name].bytes - point.bytes for name, point in coarser.items()}
            before = points
            for name in sorted((n for n in saved if saved[n] > 0), key=lambda n: -saved[n])[:_TRIES]:
                self.progress(f"coarser: {name}")
                tried = {**points, name: coarser[name]}
                found, _ = self._made(tried, "choose")
                if found is not None and found.ratio <= 1:
                    points, reading = tried, found
            if points is before:
                break
        return points, reading

    def _next(self, budget: float, ratio: float, good: float, bad: float) -> float:
        """Ratios go about with the budget; where both ends are known, never beyond them."""
        factor = _AIM / ratio if 0 < ratio < math.inf else (8.0 if ratio == 0 else 1 / 8)
        proposed = budget * min(12.0, max(1 / 12, factor))
        if good and math.isfinite(bad):
            if not good * 1.02 < proposed < bad / 1.02:
                proposed = math.sqrt(good * bad)
        elif good:
            proposed = max(proposed, good * 1.15)
        return proposed

    def _coarsest(self, points: Mapping[str, Point]) -> bool:
        return all(points[n] is ps[-1] for n, ps in zip(self.planner.names, self.planner.points, strict=True))

    def _checked(self, points: dict[str, Point], chosen: Reading | None, budget: float) -> Found:
        """Tightened until it holds on the samples held back, with what they leave open."""
        checked: Reading | None = None
        for _ in range(_CHECKS):
            checked, _ = self._made(points, "check")
            if checked is None or checked.sure <= 1:
                return self._as(points, True, chosen, checked)
            self.progress(f"held back: {checked.text}")
            budget = budget * min(0.8, max(0.05, 0.9 / checked.sure if math.isfinite(checked.sure) else 0.05))
            points = self.planner.plan(budget)
        checked, _ = self._made(points, "check")
        return self._as(points, checked is None or checked.sure <= 1, chosen, checked)

    # -- as right as bytes allow ------------------------------------------------------------------------------

    def _within(self) -> Found:
        task = self.task
        room = task.bytes - self._overhead()
        for _ in range(_CHECKS):
            points = self.planner.within(room, lambda p: p.bytes)
            if points is None:
                break
            reading, size = self._made(points, "check")
            if size <= task.bytes:
                return self._as(points, reading is None or reading.sure <= 1, reading, reading)
            room -= 1.05 * (size - task.bytes) + 16
        # bytes on the curves are estimates, and the corrections may have gone too far: the smallest choice is made before it is refused
        smallest = self.planner.least(lambda p: p.bytes)
        reading, size = self._made(smallest, "check")
        if size <= task.bytes:
            return self._as(smallest, reading is None or reading.sure <= 1, reading, reading)
        return replace(self._as(smallest, False, None, None), feasible=False, least=size)

    def _overhead(self) -> float:
        """Bytes of the file that are no payloads."""
        points = {n: ps[-1] for n, ps in zip(self.planner.names, self.planner.points, strict=True)}
        with undone(self.model):
            self.roughly([rule_of(name, point) for name, point in points.items()])
            payloads, size = self.weigh()
        return size - payloads

    def _as(self, points: Mapping[str, Point], kept: bool, chosen: Reading | None, checked: Reading | None) -> Found:
        return Found(points, kept, chosen, checked, self.tries, self.planner.shares(points))
