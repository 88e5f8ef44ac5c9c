"""The way through, where several parts of it meet: what is a layer to all passes, and which samples say how right the result is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

from artifacts import f32, model
from eie.compiler import Recipe, optimize
from eie.compiler.analysis.judge import Judge
from eie.compiler.analysis.promise import wilson
from eie.compiler.ir.reader import read
from eie.compiler.report.table import report

WEIGHTS = """passes = [{passes}]
[[rule]]
match = "spectrum"
{options}
"""
PIPELINES = [
    "sparsify{density=0.4};cluster{bits=3};encode",
    "cluster{ratio=12};encode",
    "prune{density=0.4};share{bits=3};encode",
    "ternarize{ends=too};encode",
    "ttq{ends=too};retrain;encode",
    "dsd;fold-units;cluster{bits=3};encode",
    "reconstruct{step=0.5};encode",
]


def with_table() -> onnx.ModelProto:
    """A cosine transform, which looks designed, before a layer."""
    k, t = np.arange(24)[:, None], np.arange(32)[None]
    table = np.cos(np.pi / 32 * (t + 0.5) * k).astype(np.float32)
    text = """g (float[N,32] x) => (float[N,16] y) {
        [spectrum] s = MatMul(x, table) [last] y = Gemm<transB=1>(s, w, b) }"""
    return model(text, table=table.T.copy(), w=f32(16, 24), b=f32(16))


def made(passes: str, options: str) -> dict[str, str]:
    """Layer -> compressed, or why not."""
    text = WEIGHTS.format(passes=", ".join(json.dumps(p) for p in passes.split(";")), options=options)
    result = optimize(with_table(), None, Recipe.parse(text, "test"))
    return {row.name: "compressed" for row in result.layers} | {item.name: item.why for item in result.left_alone}


@pytest.mark.parametrize("passes", PIPELINES)
def test_what_a_rule_names_is_a_layer_to_every_pass(passes: str) -> None:
    found = made(passes, "skip = false")
    assert found["spectrum"] == found["last"] == "compressed"


def test_what_no_rule_names_is_none() -> None:
    result = optimize(with_table(), None, Recipe.parse('passes = ["cluster{bits=3}", "encode"]', "test"))
    assert [row.name for row in result.layers] == ["last"]
    assert "table" in next(item.why for item in result.left_alone if item.name == "spectrum")


def test_a_rules_options_hold_for_it() -> None:
    text = 'passes = ["sparsify{density=0.9}", "cluster", "encode"]\n[[rule]]\nmatch = "spectrum"\nsparsify = { density = 0.25 }\n'
    result = optimize(with_table(), None, Recipe.parse(text, "test"))
    assert {row.name: round(row.kept, 2) for row in result.layers} == {"spectrum": 0.25, "last": 0.9}


def test_why_inputs_are_not_seen_is_said_where_there_are_samples() -> None:
    text = "g (int64[N] x) => (float[N,12] y) { [table] h = Gather(t, x) [last] y = Gemm<transB=1>(h, w) }"
    proto = model(text, t=f32(20, 8), w=f32(12, 8))
    recipe = Recipe.parse('passes = ["reconstruct{step=0.3}", "encode"]', "test")
    with_samples = optimize(proto, {"x": np.arange(20)[:, None]}, recipe)
    assert with_samples.notes["table"].endswith("taken to be white: a table's rows are picked, not multiplied")
    assert "white" not in with_samples.notes["last"]
    assert "a table's rows are picked" in "".join(map(str, report(with_samples, "", verbose=True, width=120)))
    assert optimize(proto, None, recipe).notes["table"].endswith("inputs unknown, taken to be white")


def labelled(count: int, batch: int = 1) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """A classifier of batches, and samples labelled as it answers them, every tenth wrongly."""
    n = "N" if batch == 1 else batch
    text = f"g (float[{n},16] x) => (float[{n},4] y) {{ [only] y = Gemm<transB=1>(x, w, b) }}"
    w, b, x = f32(4, 16), f32(4), f32(count, 16)
    labels = (x @ w.T + b).argmax(1)
    labels[::10] = (labels[::10] + 1) % 4
    return model(text, w=w, b=b), {"x": x, "label": labels}


@pytest.mark.parametrize(
    "count, batch, recipe, samples, held_back",
    [
        # all are picked where nothing else is said, and a fifth of the runs held back
        (100, 1, 'passes = ["reconstruct{step=0.1}", "encode"]', 20, True),
        (100, 2, 'passes = ["reconstruct{step=0.1}", "encode"]', 2 * 10, True),
        # of 50 that are picked, 40
        (100, 1, 'passes = ["cluster", "encode"]\n[budget]\nmodel_sqnr_db = 20\nsamples = 50', 100 - 40, True),
        (20, 1, 'passes = ["cluster", "encode"]\n[budget]\nmodel_sqnr_db = 20\nsamples = 50', 20 - 16, True),
        (100, 1, 'passes = ["cluster{bits=8}", "encode"]', 100, True),  # nothing looked at any
        (3, 1, 'passes = ["reconstruct{step=0.1}", "encode"]', 3, False),  # too few to hold any back
    ],
)
def test_accuracy_is_that_of_samples_nothing_was_fitted_to(
    count: int, batch: int, recipe: str, samples: int, held_back: bool
) -> None:
    proto, data = labelled(count, batch)
    result = optimize(proto, data, Recipe.parse(recipe, "test"), cache=False)
    found = result.accuracy
    assert found is not None
    assert (found.samples, found.given, found.held_back) == (samples, count, held_back)
    assert found.interval_before == wilson(round(found.before * samples), samples)
    said = "".join(map(str, report(result, "", verbose=False, width=120)))
    assert (f"on {samples:,} samples held back of {count:,}" in said) == (held_back and samples < count)
    assert ("samples it was chosen on" in said) == (not held_back)


def test_accuracy_counts_the_samples_held_back_and_no_others() -> None:
    proto, data = labelled(100)
    judge = Judge(read(proto), data, None, 512, 0)
    wrong = set(range(0, 100, 10))
    found = judge.accuracy(read(proto), read(proto), fitted=True)
    assert found.before == 1 - len(wrong & set(judge.check)) / len(judge.check)
