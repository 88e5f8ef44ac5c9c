"""The way through, where several passes meet: what they take for layers."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from artifacts import f32, model
from eie.compiler import Recipe, optimize

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
