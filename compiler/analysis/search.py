"""The smallest (or fastest) model that keeps a promise: a budget of error spent over the layers, then measured and corrected.

For each layer there is a curve: bytes, or time, over the error of its output (compiler/analysis/curves.py). How much of it reaches the
model's outputs is measured by changing one layer at a time. Errors of layers add up, nearly, so that the cheapest choice within a
budget of error is a knapsack problem: Lagrange's multiplier finds it on the curves' convex hulls (Shoham and Gersho, 1988), and what
is left of the budget is spent greedily. Then the passes run, the whole model is measured on samples nothing was fitted to, and the
budget is corrected until the promise just holds there; last, it has to hold on samples held back from all of that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..ir.graph import Model
from ..recipe import Rule
from .curves import Curve, Point, rule_of
from .promise import Reading
from .undo import undone

_TRIES = 9  # whole models made while looking for the budget
_CHECKS = 4  # ... and while the samples held back say no
_CLOSE = 1.06  # a budget this near to one that fails is good enough
_BETWEEN = 4  # choices between two steps that were tried
_AIM = 0.97  # of what is allowed: the next try aims below it
_PAIRED = 40  # layers from which single changes have to do
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
        latency: time is to be small, not bytes.
        layer_noise: most error of a layer's output, as a share of its energy; infinity: no bound.
        start: error of the outputs, as a share of their energy, that is tried first.
    """

    read: Callable[[str], Reading | None]
    bytes: float = 0.0
    us: float = 0.0
    latency: bool = False
    layer_noise: float = math.inf
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
        bytes: of all payloads, estimated.
    """

    points: Mapping[str, Point]
    kept: bool
    chosen: Reading | None
    checked: Reading | None
    tries: int
    shares: Mapping[str, float]
    bytes: float


class Planner:
    """Chooses a point for each layer from the curves.

    Args:
        curves: one a layer.
        latency: time is to be small, not bytes.
        layer_noise: most error of a layer.
    """

    def __init__(self, curves: Sequence[Curve], *, latency: bool, layer_noise: float) -> None:
        self.names = [c.layer for c in curves]
        self.reach = np.array([max(c.reach, 1e-12) for c in curves])
        self.points: list[list[Point]] = []
        for curve in curves:
            points = [p for p in dense(curve.points) if p.noise <= layer_noise or p.plain]
            points = points or [min(curve.points, key=lambda p: p.noise)]
            self.points.append(_worthwhile(points, latency))
        self.noise = [np.array([p.noise for p in points]) for points in self.points]
        self.cost = [np.array([_cost(p, latency) for p in points]) for points in self.points]

    def plan(self, budget: float) -> dict[str, Point]:
        """The cheapest points whose errors at the outputs add up to ``budget`` at most."""
        low, high = -60.0, 60.0  # logarithm of the price of error
        for _ in range(80):
            middle = (low + high) / 2
            if self._spent(self._pick(math.exp(middle))) > budget:
                low = middle
            else:
                high = middle
        picked = self._pick(math.exp(high))
        return self._named(self._fill(picked, budget))

    def within(self, limit: float, measure: Callable[[Point], float]) -> dict[str, Point] | None:
        """The points of least error whose sum of ``measure`` is ``limit`` at most; None where there are none."""
        values = [np.array([measure(p) for p in points]) for points in self.points]
        if sum(float(v.min()) for v in values) > limit:
            return None
        low, high = -60.0, 60.0  # logarithm of the price of a byte (or microsecond)

        def pick(price: float) -> list[int]:
            return [int(np.argmin(r * n + price * v)) for r, n, v in zip(self.reach, self.noise, values, strict=True)]

        for _ in range(80):
            middle = (low + high) / 2
            if sum(float(v[i]) for v, i in zip(values, pick(math.exp(middle)), strict=True)) > limit:
                low = middle
            else:
                high = middle
        return self._named(pick(math.exp(high)))

    def shares(self, points: Mapping[str, Point]) -> dict[str, float]:
        """Of the error expected at the outputs, each layer's."""
        each = {n: r * points[n].noise for n, r in zip(self.names, self.reach, strict=True)}
        total = sum(each.values())
        return {n: float(e / total) if total > 0 else 0.0 for n, e in each.items()}

    def spent(self, points: Mapping[str, Point]) -> float:
        return float(sum(r * points[n].noise for n, r in zip(self.names, self.reach, strict=True)))

    def _pick(self, price: float) -> list[int]:
        return [int(np.argmin(c + price * r * n)) for c, r, n in zip(self.cost, self.reach, self.noise, strict=True)]

    def _spent(self, picked: Sequence[int]) -> float:
        return float(sum(r * n[i] for r, n, i in zip(self.reach, self.noise, picked, strict=True)))

    def _fill(self, picked: list[int], budget: float) -> list[int]:
        """Spend what is left of the budget: the change that saves most, as long as one fits."""
        while True:
            left = budget - self._spent(picked)
            best: tuple[float, int, int] | None = None
            for layer, at in enumerate(picked):
                saved = self.cost[layer][at] - self.cost[layer]
                more = self.reach[layer] * (self.noise[layer] - self.noise[layer][at])
                fits = np.flatnonzero((saved > 0) & (more <= left))
                if fits.size:
                    i = int(fits[np.argmax(saved[fits])])
                    if best is None or saved[i] > best[0]:
                        best = (float(saved[i]), layer, i)
            if best is None:
                return picked if len(picked) > _PAIRED else self._exchange(picked, budget)
            picked[best[1]] = best[2]

    def _exchange(self, picked: list[int], budget: float) -> list[int]:
        """As long as it saves: one layer finer so that another can be coarser."""
        for _ in range(8 * len(picked)):
            left = budget - self._spent(picked)
            saved = [c[at] - c for c, at in zip(self.cost, picked, strict=True)]
            more = [r * (n - n[at]) for r, n, at in zip(self.reach, self.noise, picked, strict=True)]
            best: tuple[float, int, int, int, int] | None = None
            for i, j in itertools.combinations(range(len(picked)), 2):
                both = np.where(more[i][:, None] + more[j] <= left, saved[i][:, None] + saved[j], 0.0)
                at = int(np.argmax(both))
                if both.flat[at] > (best[0] if best is not None else 1e-9):
                    best = (float(both.flat[at]), i, j, *divmod(at, both.shape[1]))
            if best is None:
                break
            picked[best[1]], picked[best[2]] = best[3], best[4]
        return picked

    def _named(self, picked: Sequence[int]) -> dict[str, Point]:
        return {name: points[i] for name, points, i in zip(self.names, self.points, picked, strict=True)}


def _cost(point: Point, latency: bool) -> float:
    return point.us + 1e-6 * point.bytes if latency else point.bytes


def _worthwhile(points: Sequence[Point], latency: bool) -> list[Point]:
    """Points that no other one beats in both error and cost; those of least error first."""
    order = sorted(points, key=lambda p: (p.noise, _cost(p, latency), p.plain))
    found: list[Point] = []
    for point in order:
        if not found or _cost(point, latency) < _cost(found[-1], latency):
            found.append(point)
    return found


def dense(points: Sequence[Point]) -> list[Point]:
    """The points, and more between neighbours that differ in the reconstruction's step alone: error over step is a power law."""
    found = list(points)
    stepped: dict[str, list[Point]] = {}
    for point in points:
        options = point.options.get("reconstruct", {})
        if options.get("step", 0) > 0:
            rest = {k: v for k, v in options.items() if k != "step"}
            stepped.setdefault(repr(sorted(rest.items())), []).append(point)
    for line in stepped.values():
        line.sort(key=lambda p: p.options["reconstruct"]["step"])
        for a, b in itertools.pairwise(line):
            if min(a.noise, b.noise) <= 0:
                continue
            for k in range(1, _BETWEEN):
                t = k / _BETWEEN
                step = float(
                    f"{a.options['reconstruct']['step'] ** (1 - t) * b.options['reconstruct']['step'] ** t:.4g}"
                )
                found.append(
                    Point(
                        {**a.options, "reconstruct": {**a.options["reconstruct"], "step": step}},
                        float(a.noise ** (1 - t) * b.noise**t), a.bytes * (1 - t) + b.bytes * t, a.us * (1 - t) + b.us * t,
                        a.kept * (1 - t) + b.kept * t, max(a.bits, b.bits),
                    )
                )  # fmt: skip
    return found


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
        if self.task.bytes or self.task.us:
            return self._within()
        return self._smallest()

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
        return self._checked(*best, good)

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

    # -- as right as bytes or time allow ------------------------------------------------------------------------------

    def _within(self) -> Found:
        task = self.task
        measure: Callable[[Point], float] = (lambda p: p.bytes) if task.bytes else (lambda p: p.us)
        limit = task.bytes or task.us
        room = limit - (self._overhead() if task.bytes else 0.0)
        points: dict[str, Point] | None = None
        reading: Reading | None = None
        for _ in range(_CHECKS):
            found = self.planner.within(room, measure)
            if found is None:
                break
            points = found
            reading, size = self._made(points, "check")
            if not task.bytes or size <= limit:
                kept = reading is None or reading.sure <= 1
                return self._as(points, kept, reading, reading)
            room -= 1.05 * (size - limit) + 16
        smallest = {n: min(ps, key=measure) for n, ps in zip(self.planner.names, self.planner.points, strict=True)}
        return self._as(points or smallest, False, None, None)

    def _overhead(self) -> float:
        """Bytes of the file that are no payloads."""
        points = {n: ps[-1] for n, ps in zip(self.planner.names, self.planner.points, strict=True)}
        with undone(self.model):
            self.roughly([rule_of(name, point) for name, point in points.items()])
            payloads, size = self.weigh()
        return size - payloads

    def _as(self, points: Mapping[str, Point], kept: bool, chosen: Reading | None, checked: Reading | None) -> Found:
        total = sum(p.bytes for p in points.values())
        return Found(points, kept, chosen, checked, self.tries, self.planner.shares(points), total)
