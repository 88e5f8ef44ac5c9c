"""What the benchmarks say, not how fast: rows, patterns, statistics, refusals."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from eie.compiler import optimize
from eie.compiler.bench.cases import CASES, WINDOW, Case, weight
from eie.compiler.bench.deepsparse import PYTHON, DeepSparse, fixed
from eie.compiler.bench.layers import Plan
from eie.compiler.bench.machine import limits
from eie.compiler.bench.timing import Elapsed, Times, interleaved
from eie.compiler.cli.bench import means
from eie.compiler.cli.main import app
from eie.compiler.errors import UserError

LENET = Path(__file__).parents[2] / "models" / "lenet-300-100.onnx"
ROW = {
    "layer",
    "batch",
    "cache",
    "pattern",
    "density",
    "system",
    "format",
    "isa",
    "threads",
    "median_us",
    "p10_us",
    "p90_us",
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of each kind that takes no time."""
    for case in (
        Case("gemm", "gemm", (70, 300), 0.2),
        Case("conv", "conv", (8, 8, 3, 3), 0.2, 9, {"pads": [1] * 4}),
        Case("cell", "lstm", (12, 20), 0.3),
        Case("step", "projected", (12, 20, 9), 0.3),
    ):
        monkeypatch.setitem(CASES, case.name, case)


def test_every_kind_is_measured_beside_its_peers(small: None) -> None:
    plan = Plan(("gemm", "conv", "cell", "step"), (1, 3), ("warm",), runs=2)
    groups = list(plan.measure())
    assert len(groups) == plan.steps()
    rows = [row for group in groups for row in group]
    assert all(row.keys() >= ROW and 0 < row["p10_us"] <= row["median_us"] <= row["p90_us"] for row in rows)
    assert {(r["layer"], r["pattern"], r["batch"]) for r in rows} == {
        ("gemm", "unstructured", 1), ("gemm", "unstructured", 3), ("gemm", "balanced", 1), ("gemm", "balanced", 3),
        ("conv", "unstructured", 1), ("conv", "block", 1), ("cell", "balanced", 1), ("step", "balanced", 1),
    }  # fmt: skip
    assert {r["system"] for r in rows if r["layer"] == "gemm"} == {
        "ort fp32",
        "ort int8",
        "ort 4-bit",
        "ort 2-bit",
        "eie",
    }
    ours = [row for row in rows if row["system"] == "eie"]
    assert all(row["bytes"] > 0 and row["load_us"] > 0 and row["isa"] in row["kernel"] for row in ours)
    assert {m["layers"] for m in means(rows)} == {1}
    assert all(0 < m["least"] <= m["over_best"] * 1.000001 for m in means(rows))


def test_layers_command_prints_json(small: None) -> None:
    done = CliRunner().invoke(app, ["bench", "layers", "--layer", "gemm", "--cache", "warm", "--runs", "1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found.keys() == {"machine", "rows"} and len(found["rows"]) == 2 * 7
    assert found["machine"]["limits"]["fma_gmacs"] > 0 and found["machine"]["versions"]["onnxruntime"]


def test_model_command_prints_json(tmp_path: Path) -> None:
    artifact = tmp_path / "m.eie.onnx"
    optimize(LENET).save(artifact)
    done = CliRunner().invoke(
        app, ["bench", "model", str(artifact), "--against", str(LENET), "--runs", "2", "--clock", "cpu", "--json"]
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["system"] for row in rows] == ["ort fp32", "eie cpu", "eie ort", "eie library"]
    assert all(row.keys() >= ROW and row["load_us"] > 0 and row["load_peak_bytes"] >= 0 for row in rows)


@pytest.mark.parametrize("arguments", [
    ["layers", "--layer", "Alex-9"], ["layers", "--batch", "0"], ["layers", "--cache", "hot"], ["layers", "--pattern", "x"],
    ["layers", "--formats", "f16"], ["layers", "--isa", "mmx"], ["layers", "--layer", ","],
    ["layers", "--layer", "NT-We", "--cache", "warm", "--with", "abacus"],
    ["layers", "--clock", "sun"], ["layers", "--clock", "cpu", "--threads", "2"],
    ["model", str(LENET), "--against", str(LENET)], ["model", "no.onnx", "--against", str(LENET)],
])  # fmt: skip
def test_what_is_not_there_is_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(done.exception, UserError) or done.exit_code == 2, (done.exception, done.output)


def test_limits_are_measured() -> None:
    found = limits()
    assert found["fma_gmacs"] > 0 and all(found[f"read_{name}_gbs"] > 0 for name in ("16k", "1m", "8m", "memory"))


def test_weights_have_their_pattern() -> None:
    balanced = weight((32, 256), 0.1, "balanced", "Gemm").codes != 0
    windows = balanced.reshape(32, -1, WINDOW).sum(axis=2)
    assert (windows == windows[0]).all() and int(windows[0].sum()) == round(0.1 * 256)
    block = weight((16, 8, 3, 3), 0.25, "block", "Conv").codes != 0
    quads = block.reshape(16, 2, 4, 3, 3)
    assert (quads.all(axis=2) | ~quads.any(axis=2)).all() and abs(block.mean() - 0.25) < 0.01
    assert weight((9, 50), 0.3, "unstructured", "Gemm").nonzeros == round(0.3 * 450)


def test_calls_take_turns() -> None:
    order: list[str] = []
    found = interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=2, evict=lambda: order.append("-")
    )  # type: ignore[arg-type]
    assert order == ["a", "b", *["-", "a", "-", "b"] * 2] and found.keys() == {"a", "b"}
    assert Times.of([1.0, 2.0, 3.0]) == Times(2.0, pytest.approx(1.2), pytest.approx(2.8))
    assert np.isfinite(found["a"].median)


def test_deepsparse_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x) => (float[N,2] y) { y = Neg(x) }'
    )
    x = np.ones((1, 2), np.float32)
    assert [d.dim_value for d in fixed(model, x.shape).graph.input[0].type.tensor_type.shape.dim] == [1, 2]
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    with pytest.raises(UserError, match="can't be started"):
        DeepSparse(model, x, -x, 1)
    monkeypatch.setenv(PYTHON, sys.executable)
    if importlib.util.find_spec("deepsparse") is None:
        with pytest.raises(UserError, match="not installed"):
            DeepSparse(model, x, -x, 1)


def test_calls_may_take_their_own_time() -> None:
    for clock, expected in (("wall", 5.0), ("cpu", 3.0)):
        assert interleaved({"a": lambda: Elapsed(5000, 3000)}, runs=3, clock=clock)["a"].median == expected
