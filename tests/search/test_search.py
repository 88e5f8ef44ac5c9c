"""The planner against brute force, readings against what is known, the search against promises that can and can't be kept."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts import model
from eie.compiler.analysis.judge import Judge, top1
from eie.compiler.analysis.promise import (
    Reading,
    called,
    drop_reading,
    error_reading,
    logits,
    paired_interval,
    score_reading,
    wilson,
)
from eie.compiler.errors import UserError
from eie.compiler.ir.reader import read
from eie.compiler.recipe import Budget, Rule
from eie.compiler.search.choose import _missed
from eie.compiler.search.curves import Cache, Curve, Point, fitted_codebook
from eie.compiler.search.planner import Planner, dense
from eie.compiler.search.search import Found, Search, Task
from eie.compiler.usercode import load_function

Array = np.ndarray[Any, Any]


def curves(layers: int, points: int, seed: int = 0) -> list[Curve]:
    rng = np.random.default_rng(seed)
    found = []
    for k in range(layers):
        noise = np.sort(10 ** rng.uniform(-5, -1, points))
        size = np.sort(rng.uniform(100, 5000, points))[::-1]
        made = [
            Point({"cluster": {"bits": i + 1}}, float(n), float(b), float(b) / 7, 0.5, i + 1)
            for i, (n, b) in enumerate(zip(noise, size, strict=True))
        ]
        found.append(
            Curve(f"l{k}", (*made, Point({}, 0.0, 6000.0, 900.0, 1.0, 32)), 100, float(10 ** rng.uniform(-1, 1)))
        )
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_near_the_optimum_and_within_its_budget(seed: int) -> None:
    given = curves(4, 6, seed)
    planner = Planner(given, latency=False, layer_noise=math.inf)
    for budget in (1e-4, 1e-3, 1e-2, 0.1):
        found = planner.plan(budget)
        assert planner.spent(found) <= budget * (1 + 1e-9)
        best = min(
            sum(p.bytes for p in combination)
            for combination in itertools.product(*(c.points for c in given))
            if sum(c.reach * p.noise for c, p in zip(given, combination, strict=True)) <= budget
        )
        assert sum(p.bytes for p in found.values()) <= 1.25 * best
    assert sum(planner.shares(found).values()) == pytest.approx(1)


def test_within_bytes_or_time() -> None:
    planner = Planner(curves(5, 8), latency=False, layer_noise=math.inf)
    for limit in (8000.0, 16_000.0):
        found = planner.within(limit, lambda p: p.bytes)
        assert found is not None and sum(p.bytes for p in found.values()) <= limit
    assert planner.within(10.0, lambda p: p.bytes) is None
    bounded = Planner(curves(5, 8), latency=True, layer_noise=1e-3)
    assert all(p.noise <= 1e-3 for p in bounded.plan(1e9).values())


def test_between_steps_the_curve_goes_on() -> None:
    a, b = (
        Point({"reconstruct": {"step": s}}, n, size, 0.0, 0.5, 4)
        for s, n, size in ((0.1, 1e-4, 400.0), (0.4, 1e-2, 200.0))
    )
    found = sorted((p for p in dense([a, b])), key=lambda p: p.noise)
    assert len(found) == 5
    assert [p.options["reconstruct"]["step"] for p in found] == pytest.approx([0.1, 0.1414, 0.2, 0.2828, 0.4], rel=1e-3)
    assert all(x.noise < y.noise and x.bytes > y.bytes for x, y in itertools.pairwise(found))


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(100, 100)
    assert high == pytest.approx(1) and low == pytest.approx(0.963, abs=1e-3)  # published tables
    low, high = wilson(5, 10)
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    change = paired_interval(np.ones(200), np.concatenate([np.ones(190), np.zeros(10)]))
    assert change[0] < -0.05 < change[1] < 0


def test_errors_are_read_by_energy_and_by_sample() -> None:
    signal = np.ones((100, 2))
    noise = np.full((100, 2), 1e-3)
    reading = error_reading(noise, signal, ["a", "b"], 1e-2)
    assert reading.ratio == pytest.approx(0.1) and reading.value == pytest.approx(30)
    noise[0, 1] = 50.0  # one sample is lost: the energy says so, the quartile does not
    assert error_reading(noise, signal, ["a", "b"], 1e-2).ratio == pytest.approx(50.1, rel=0.01)
    assert "b" in error_reading(noise, signal, ["a", "b"], 1e-2).text
    assert error_reading(noise, signal, ["a", "b"], 1e-2, quartile_only=True).ratio == pytest.approx(0.1)
    noise[0, 1] = math.inf
    assert error_reading(noise, signal, ["a", "b"], 1e-2).ratio == math.inf


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_expected_drop_is_what_many_samples_count(probabilities: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0, 3, (20_000, 10))
    z = y + rng.normal(0, 0.1, y.shape)
    changed = float((y.argmax(1) != z.argmax(1)).mean())
    if probabilities:
        y, z = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (y, z))
        assert np.allclose(logits(y).argmax(1), y.argmax(1))
    found = [
        drop_reading(y[part], z[part], y[part.start : part.start + 500], 0.01, None, None).ratio
        for part in (slice(k, k + 100) for k in range(0, 20_000, 500))
    ]
    expected = np.mean([math.sqrt(r) * 0.01 for r in found])  # 100 samples at a time, of which hardly one changes
    if not probabilities:
        assert expected == pytest.approx(changed / 2, rel=0.2)
        return
    at = np.arange(len(y))
    lost = float(
        (y.max(1) - y[at, z.argmax(1)]).mean()
    )  # of right answers, where they are as probable as the model says
    assert max(lost, 0.2 * changed) * 0.8 < expected < max(lost, 0.2 * changed) * 1.3


def test_a_sure_answer_costs_half_when_it_changes() -> None:
    y = np.tile([[0.98, 0.02]], (100, 1))
    reading = drop_reading(y, np.where(np.arange(100)[:, None] < 4, y[:, ::-1], y), y, 0.02, None, None)
    assert reading.value == pytest.approx(0.5 * 0.04)


def test_with_labels_what_is_put_right_counts() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0, 1, (2000, 5))
    labels = rng.integers(0, 5, 2000)  # answers by chance: changing them costs nothing
    reading = drop_reading(y, y + rng.normal(0, 0.2, y.shape), y, 0.05, labels, labels)
    assert reading.ratio < 0.1
    assert drop_reading(y, y, y, 0.01, labels, labels).ratio == 0
    assert drop_reading(y, -y, y, 0.01, None, None).ratio > 100


def test_scores_of_ones_own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mymetric.py").write_text(
        "def good(outputs, data):\n    return -abs(outputs['y'] - data['x']).mean()\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    score = load_function("mymetric:good", "--metric")
    x = np.arange(12.0)
    assert called(score, {"y": x + 1}, {"x": x}) == -1
    reading = score_reading(score, {"y": x}, {"y": x + 0.5}, {"x": x}, 1.0, 12)
    assert reading.ratio == pytest.approx(0.25) and reading.value == 0.5
    with pytest.raises(UserError, match="instead of a number"):
        called(lambda o, d: "good", {}, {})  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="nan"):
        called(lambda o, d: math.nan, {}, {})


def test_a_grid_is_no_codebook_somebody_fitted() -> None:
    rng = np.random.default_rng(0)
    assert not fitted_codebook(rng.integers(-8, 8, 100).astype(np.float32) * np.float32(0.03))
    assert fitted_codebook(rng.choice(rng.normal(0, 1, 15), 100).astype(np.float32))


class Made:
    """What a search sees of whole models: their bytes as a function of the chosen bits, one a layer, and one reading of all."""

    def __init__(self, size: Callable[[list[int]], int], ratio: float = 0.5) -> None:
        self.size, self.reading, self.bits = size, Reading(ratio, ratio, f"ratio {ratio}", ratio), [0]

    def apply(self, rules: Sequence[Rule]) -> None:
        self.bits = [r.options["cluster"]["bits"] for r in rules]

    def search(self, **asked: float) -> Found:
        points = tuple(Point({"cluster": {"bits": b}}, 4.0**-b, 100.0 * b, 10.0 * b, 1.0, b) for b in range(1, 9))
        planner = Planner([Curve("a", points, 1), Curve("b", points, 1)], latency=False, layer_noise=math.inf)
        graph = read(model("g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }"))
        task = Task(lambda part: self.reading, **asked)
        return Search(
            graph, planner, task, self.apply, self.apply, lambda: (sum(self.bits) * 100, self.size(self.bits)), str
        ).run()


def test_what_fits_is_found_and_room_is_used() -> None:
    found = Made(lambda bits: 100 * sum(bits) + 50).search(bytes=1250)
    assert found.kept and found.feasible
    assert sum(p.bytes for p in found.points.values()) == 1200


def test_where_corrections_do_not_converge_the_smallest_is_made() -> None:
    made = Made(lambda bits: 201 if sum(bits) == 2 else 1001)  # a byte too much, whatever room is taken away
    found = made.search(bytes=1000)
    assert found.kept and found.feasible and [p.bits for p in found.points.values()] == [1, 1]
    assert found.tries == 5


def test_the_least_is_said_where_nothing_fits_and_only_there() -> None:
    found = Made(lambda bits: 100 * sum(bits) + 70).search(bytes=205)
    assert not found.kept and not found.feasible and found.least == 270
    assert "takes 205 bytes or less: 270 is the least" in _missed(found, Budget(size=205), None)  # type: ignore[arg-type]
    found = Made(lambda bits: 0).search(us=15.0)
    assert not found.kept and not found.feasible and found.least == 20
    assert "15 us or less: 20 us is the least" in _missed(found, Budget(latency_us=15.0), None)  # type: ignore[arg-type]


def test_what_fits_and_is_not_right_is_said_to_be_so() -> None:
    found = Made(lambda bits: 100 * sum(bits), ratio=1.5).search(bytes=205)
    assert not found.kept and found.feasible
    judge = Judge(
        read(model("g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }")),
        {"x": np.ones((20, 8), np.float32)},
        None,
        20,
        0,
    )
    assert (
        _missed(found, Budget(size=205), judge) == "the nearest that was found misses on 4 samples held back: ratio 1.5"
    )


def test_a_layer_whose_error_goes_nowhere_is_made_coarser_in_the_end() -> None:
    points = tuple(Point({"cluster": {"bits": b}}, 4.0**-b, 100.0 * b, 10.0 * b, 1.0, b) for b in range(1, 9))
    planner = Planner([Curve("a", points, 1), Curve("b", points, 1)], latency=False, layer_noise=math.inf)
    made = Made(lambda bits: 0)

    def read_(part: str) -> Reading:  # of the first layer no error arrives; of the second six bits are wanted
        ratio = 4.0 ** (6 - made.bits[1]) if made.bits[1] < 6 else 0.5
        return Reading(ratio, ratio, "", ratio)

    graph = read(model("g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }"))
    found = Search(graph, planner, Task(read_), made.apply, made.apply, lambda: (0, 0), str).run()
    assert found.kept
    assert found.points["b"].bits == 6 and found.points["a"].bits < 6


def test_time_has_a_price_where_it_binds() -> None:
    """Of two ways to be as right, one is small and slow, the other large and fast."""

    def points(large: float) -> tuple[Point, ...]:
        return tuple(Point({"cluster": {"bits": b}}, 1e-3, size, us, 1.0, b) for b, size, us in ((1, 100.0, 20.0), (2, large, 5.0)))

    given = [Curve(f"l{k}", points(200.0 + 50 * k), 1) for k in range(4)]
    loose, tight = (Planner(given, latency=False, layer_noise=math.inf, us=us).plan(1.0) for us in (90.0, 60.0))
    assert sum(p.bytes for p in loose.values()) == 400
    assert sum(p.us for p in tight.values()) <= 60
    assert [p.bits for p in tight.values()] == [2, 2, 1, 1]  # those that lose least by it
    assert Planner(given, latency=False, layer_noise=math.inf, us=10.0).fastest == 20


KEPT = [{"layer": "a", "rows": 3, "reach": 1.0, "points": [
    {"options": {"cluster": {"bits": 4}}, "noise": 0.1, "bytes": 9.0, "us": 1.0, "kept": 1.0, "bits": 4},
    {"options": {}, "noise": 0.0, "bytes": 99.0, "us": 1.0, "kept": 1.0, "bits": 32}]}]  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("", ""),
        (json.dumps(KEPT), "[" * 100_000),
        (json.dumps(KEPT), "[3]"),
        (json.dumps(KEPT), json.dumps(KEPT)[:50]),
        ('"points": [', '"points": [], "layers": ['),
        ('"noise": 0.1', '"noise": "0.1"'),
        ('"noise": 0.1', '"noise": NaN'),
        ('"bytes": 9.0', '"bytes": -9.0'),
        ('"reach": 1.0', '"reach": null'),
        ('"options": {}', '"options": {"cluster": {"bits": 4}}'),
        ('{"bits": 4}', '{"bits": 99}'),
        ('{"cluster": {"bits": 4}}', '{"no-pass": {}}'),
        ('{"cluster": {"bits": 4}}', "[1]"),
    ],
)
def test_what_is_kept_of_curves_is_no_more_than_a_file(tmp_path: Path, was: str, now: str) -> None:
    text = json.dumps(KEPT)
    assert was in text
    (tmp_path / "k.json").write_text(text.replace(was, now) if was else text)
    found = Cache(tmp_path).get("k")
    assert (found is None) == bool(was)
    if found is not None:
        Cache(tmp_path).put("again", found)
        assert json.loads((tmp_path / "again.json").read_text()) == KEPT


def test_scores_that_are_not_a_number_are_no_answer() -> None:
    scores = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    labels = np.array([0, 0, 1, 2])
    assert top1([scores], labels) == 1.0
    scores[0] = np.nan
    scores[2, 2] = np.nan
    assert top1([scores], labels) == 0.5
