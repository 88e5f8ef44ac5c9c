"""A budget of error spent over the layers.

For each layer there is a curve: bytes, or time, over the error of its output (compiler/search/curves.py). How much of it reaches the
model's outputs is measured by changing one layer at a time. Errors of layers add up, nearly, so that the cheapest choice within a
budget of error is a knapsack problem: Lagrange's multiplier finds it on the curves' convex hulls (Shoham and Gersho, 1988), and what
is left of the budget is spent greedily.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .curves import Curve, Point

Array = npt.NDArray[np.float64]

_BETWEEN = 4  # choices between two steps that were tried
_PAIRED = 40  # layers from which single changes have to do


class Planner:
    """Chooses a point for each layer from the curves.

    Args:
        curves: one a layer.
        latency: time is to be small, not bytes.
        layer_noise: most error of a layer.
        us: most time of all layers together, which has a price of its own where it binds; 0: any.
    """

    def __init__(self, curves: Sequence[Curve], *, latency: bool, layer_noise: float, us: float = 0.0) -> None:
        self.names = [c.layer for c in curves]
        self.reach = np.array([max(c.reach, 1e-12) for c in curves])
        self.points: list[list[Point]] = []
        for curve in curves:
            points = [p for p in dense(curve.points) if p.noise <= layer_noise or p.plain]
            points = points or [min(curve.points, key=lambda p: p.noise)]
            self.points.append(sorted(points, key=lambda p: p.noise) if us else _worthwhile(points, latency))
        self.noise = [np.array([p.noise for p in points]) for points in self.points]
        self.us = us
        self.time = [np.array([p.us for p in points]) for points in self.points]
        self.cost = [np.array([_cost(p, latency) for p in points]) for points in self.points]

    @property
    def fastest(self) -> float:
        """Microseconds, whatever the error."""
        return sum(float(t.min()) for t in self.time)

    def least(self, measure: Callable[[Point], float]) -> dict[str, Point]:
        """The point of each layer that has least of something."""
        return {name: min(points, key=measure) for name, points in zip(self.names, self.points, strict=True)}

    def plan(self, budget: float) -> dict[str, Point]:
        """The cheapest points whose errors at the outputs add up to ``budget`` at most, and whose times to no more than they may."""

        def with_time(price: float) -> list[int]:
            return self._cheapest([c + price * t for c, t in zip(self.cost, self.time, strict=True)], budget)

        picked = self._cheapest(self.cost, budget)
        if self.us and _total(self.time, picked) > self.us:
            picked = _least_price(with_time, lambda p: _total(self.time, p) <= self.us, 40.0, 40)
        return self._named(picked)

    def within(self, limit: float, measure: Callable[[Point], float]) -> dict[str, Point] | None:
        """The points of least error whose sum of ``measure`` is ``limit`` at most; None where there are none."""
        values = [np.array([measure(p) for p in points]) for points in self.points]
        if sum(float(v.min()) for v in values) > limit:
            return None

        def pick(price: float) -> list[int]:
            return [int(np.argmin(r * n + price * v)) for r, n, v in zip(self.reach, self.noise, values, strict=True)]

        return self._named(_least_price(pick, lambda p: _total(values, p) <= limit))

    def coarser(self, name: str, point: Point, times: float) -> Point:
        """The cheapest point of a layer with at most so many times the error."""
        at = self.names.index(name)
        fits = np.flatnonzero(self.noise[at] <= times * point.noise)
        return self.points[at][int(fits[np.argmin(self.cost[at][fits])])] if fits.size else point

    def shares(self, points: Mapping[str, Point]) -> dict[str, float]:
        """Of the error expected at the outputs, each layer's."""
        each = {n: r * points[n].noise for n, r in zip(self.names, self.reach, strict=True)}
        total = sum(each.values())
        return {n: float(e / total) if total > 0 else 0.0 for n, e in each.items()}

    def spent(self, points: Mapping[str, Point]) -> float:
        return float(sum(r * points[n].noise for n, r in zip(self.names, self.reach, strict=True)))

    def _cheapest(self, cost: Sequence[Array], budget: float) -> list[int]:
        def pick(price: float) -> list[int]:
            return [int(np.argmin(c + price * r * n)) for c, r, n in zip(cost, self.reach, self.noise, strict=True)]

        return self._fill(cost, _least_price(pick, lambda p: self._spent(p) <= budget), budget)

    def _spent(self, picked: Sequence[int]) -> float:
        return float(sum(r * n[i] for r, n, i in zip(self.reach, self.noise, picked, strict=True)))

    def _fill(self, cost: Sequence[Array], picked: list[int], budget: float) -> list[int]:
        """Spend what is left of the budget: the change that saves most, as long as one fits."""
        while True:
            left = budget - self._spent(picked)
            best: tuple[float, int, int] | None = None
            for layer, at in enumerate(picked):
                saved = cost[layer][at] - cost[layer]
                more = self.reach[layer] * (self.noise[layer] - self.noise[layer][at])
                fits = np.flatnonzero((saved > 0) & (more <= left))
                if fits.size:
                    i = int(fits[np.argmax(saved[fits])])
                    if best is None or saved[i] > best[0]:
                        best = (float(saved[i]), layer, i)
            if best is None:
                return picked if len(picked) > _PAIRED else self._exchange(cost, picked, budget)
            picked[best[1]] = best[2]

    def _exchange(self, cost: Sequence[Array], picked: list[int], budget: float) -> list[int]:
        """As long as it saves: one layer finer so that another can be coarser."""
        for _ in range(8 * len(picked)):
            left = budget - self._spent(picked)
            saved = [c[at] - c for c, at in zip(cost, picked, strict=True)]
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


def _total(values: Sequence[Array], picked: Sequence[int]) -> float:
    return sum(float(v[i]) for v, i in zip(values, picked, strict=True))


def _least_price(
    pick: Callable[[float], list[int]], fits: Callable[[list[int]], bool], widest: float = 60.0, steps: int = 80
) -> list[int]:
    """What is picked at the least price for which it fits, between e^-widest and e^widest; at the highest where nothing does."""
    low, high = -widest, widest
    for _ in range(steps):
        middle = (low + high) / 2
        if fits(pick(math.exp(middle))):
            high = middle
        else:
            low = middle
    return pick(math.exp(high))


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
