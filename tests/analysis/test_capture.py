"""Moments against what they stand for: the output error of changed weights, computed by running the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from artifacts import f32, model
from eie.compiler.analysis import moments as moments_module
from eie.compiler.analysis.calibration import Calibration, together
from eie.compiler.analysis.capture import capture, unseen
from eie.compiler.analysis.fidelity import Runner
from eie.compiler.analysis.form import Form
from eie.compiler.analysis.layers import find_layers
from eie.compiler.analysis.moments import Moments, Sums
from eie.compiler.ir.graph import Model
from eie.compiler.ir.reader import read
from eie.compiler.ir.writer import to_proto

Array = np.ndarray[Any, Any]


def samples(shape: tuple[int, ...], count: int = 6, name: str = "x") -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [
        {name: (rng.normal(0.5, 1, shape) + rng.normal(0, 1, (1,) * len(shape))).astype(np.float32)}
        for _ in range(count)
    ]


def test_sums_are_those_of_all_rows_at_once() -> None:
    rows = np.random.default_rng(0).normal(300, 2, (2, 3000, 9)).astype(np.float32)  # far from zero
    rows[:, 7, 3] = np.nan
    sums = Sums()
    for part in np.array_split(rows, 13, axis=1):
        sums.add(part, part.shape[1])
    found = sums.moments()
    assert found is not None
    good = np.delete(rows, 7, axis=1).astype(np.float64)
    assert found.rows == 2999
    assert found.low == good.min() and found.high == good.max()
    for g in range(2):
        np.testing.assert_allclose(found.blocks[0].mean[g], good[g].mean(0), rtol=1e-6)
        np.testing.assert_allclose(found.blocks[0].covariance[g], np.cov(good[g].T, bias=True), rtol=1e-3, atol=1e-3)


def test_wide_layers_are_kept_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "WIDE", 4)
    rows = np.random.default_rng(0).normal(0, 1, (1, 50, 10)).astype(np.float32)
    sums = Sums()
    sums.add(rows, 50)
    found = sums.moments()
    assert found is not None
    assert [(b.begin, b.end) for b in found.blocks] == [(0, 3), (3, 6), (6, 10)]
    assert found.width == 10
    d = np.zeros((1, 1, 10), np.float32)
    d[0, 0, 7] = 2
    np.testing.assert_allclose(found.noise(d), 4 * np.square(rows[0, :, 7], dtype=np.float64).mean(), rtol=1e-5)


def test_memory_does_not_grow_with_the_width() -> None:
    assert moments_module.bytes_of(1, 25_088) <= 136 << 20
    assert moments_module.bytes_of(1, 9_216) <= 136 << 20


MODELS = {
    "Gemm": ("g (float[N,12] x) => (float[N,7] y) { y = Gemm <transB=1> (x, w) }", (7, 12), (5, 12)),
    "MatMul": ("g (float[N,3,12] x) => (float[N,3,7] y) { y = MatMul(x, w) }", (12, 7), (2, 3, 12)),
    "MatMul of a weight from the left": ("g (float[12,N] x) => (float[7,N] y) { y = MatMul(w, x) }", (7, 12), (12, 20)),
    "Conv": (
        "g (float[N,4,9,8] x) => (float[N,6,a,b] y) { y = Conv <group=2,pads=[1,0,1,2],strides=[2,1],dilations=[1,2]> (x, w) }",
        (6, 2, 3, 3), (1, 4, 9, 8),
    ),
    "depthwise": ("g (float[N,16,6] x) => (float[N,16,a] y) { y = Conv <group=16,auto_pad=\"SAME_UPPER\"> (x, w) }",
                  (16, 1, 5), (1, 16, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_moments_give_the_error_of_changed_weights(name: str) -> None:
    text, shape, x = MODELS[name]
    graph = read(model(text, w=f32(*shape)))
    (layer,), _ = find_layers(graph)
    feeds = samples(x)
    found = capture(graph, [layer], feeds)[layer.name]
    before = [Runner(graph).run(f)[0] for f in feeds]
    weight = layer.array()
    change = f32(*weight.shape, seed=3) * 0.1
    layer.set_array(weight + change)
    noise = sum(float(np.square(b - Runner(graph).run(f)[0]).sum()) for b, f in zip(before, feeds, strict=True))
    predicted = found.noise(Form.of(layer).matrix(change)) * found.vectors * len(feeds)
    assert predicted == pytest.approx(noise, rel=2e-3)


def body_model(kind: str) -> Model:
    """A matrix inside of a body: of an If (either branch), of a Scan over 4 steps, or of a Loop of 3."""
    w = helper.make_tensor("w", 1, [8, 12], f32(8, 12).reshape(-1))
    x, y = (helper.make_tensor_value_info(n, 1, None) for n in "xy")
    product = helper.make_node("Gemm", ["h", "w"], ["p"], transB=1, name="inside")
    if kind == "If":
        then = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["h"]), product],
            "then",
            [],
            [helper.make_tensor_value_info("p", 1, None)],
            [w],
        )
        other = helper.make_graph(
            [helper.make_node("ReduceMean", ["x"], ["q"], axes=[1])],
            "else",
            [],
            [helper.make_tensor_value_info("q", 1, None)],
        )
        nodes = [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)]
        inputs = [helper.make_tensor_value_info("x", 1, [2, 12]), helper.make_tensor_value_info("c", 9, [])]
    else:
        scan = kind == "Scan"
        state = [helper.make_tensor_value_info("s", 1, None)]
        inside = helper.make_graph(
            [helper.make_node("Add", ["t", "one"], ["h"]), product, helper.make_node("Identity", ["s" if scan else "k"], ["s2"])]
            if scan else
            [helper.make_node("Identity", ["x"], ["h"]), product, helper.make_node("Identity", ["k"], ["k2"])],
            "body",
            [*state, helper.make_tensor_value_info("t", 1, [2, 12])] if scan
            else [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("k", 9, [])],
            [helper.make_tensor_value_info("s2", 1, None), helper.make_tensor_value_info("p", 1, None)] if scan
            else [helper.make_tensor_value_info("k2", 9, []), helper.make_tensor_value_info("p", 1, None)],
            [w, helper.make_tensor("one", 1, [1], [0.5])],
        )  # fmt: skip
        if scan:
            nodes = [helper.make_node("Scan", ["z", "x"], ["s3", "y"], body=inside, num_scan_inputs=1)]
            inputs = [helper.make_tensor_value_info("z", 1, [1]), helper.make_tensor_value_info("x", 1, [4, 2, 12])]
        else:
            nodes = [helper.make_node("Loop", ["n", "c"], ["y"], body=inside)]
            inputs = [
                helper.make_tensor_value_info("n", 7, []), helper.make_tensor_value_info("c", 9, []),
                helper.make_tensor_value_info("x", 1, [2, 12]),
            ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", inputs, [y])
    del x
    return read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


@pytest.mark.parametrize("kind", ["If", "Scan", "Loop"])
def test_bodies_are_seen_and_left_as_they_were(kind: str) -> None:
    graph = body_model(kind)
    before = to_proto(graph).SerializeToString(deterministic=True)
    (layer,), _ = find_layers(graph)
    rng = np.random.default_rng(0)
    feeds = []
    for _ in range(3):
        feed: dict[str, Array] = {"x": rng.normal(0, 1, (4, 2, 12) if kind == "Scan" else (2, 12)).astype(np.float32)}
        if kind == "Scan":
            feed["z"] = np.zeros(1, np.float32)
        else:
            feed["c"] = np.array(True)
        if kind == "Loop":
            feed["n"] = np.array(3)
        feeds.append(feed)
    found = capture(graph, [layer], feeds)[layer.name]
    rows = np.concatenate([f["x"].reshape(-1, 12) for f in feeds]).astype(np.float64)
    rows = np.maximum(rows, 0) if kind == "If" else rows + 0.5 if kind == "Scan" else rows
    np.testing.assert_allclose(found.blocks[0].second()[0], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
    assert to_proto(graph).SerializeToString(deterministic=True) == before
    if kind == "If":  # a branch that is never taken shows nothing
        assert capture(graph, [layer], [{**f, "c": np.array(False)} for f in feeds]) == {}


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_recurrent_layers_see_the_sequence_and_the_states(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3}[op]
    attributes = 'hidden_size=8, direction="bidirectional"'
    text = (
        f"g (float[5,2,8] x, float[2,2,8] h) => (float[5,2,2,8] y) {{ y, last = {op} <{attributes}> (x, w, r, , , h) }}"
    )
    graph = read(model(text, w=f32(2, gates * 8, 8), r=f32(2, gates * 8, 8, seed=1)))
    layers, _ = find_layers(graph)
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.normal(0, 1, (5, 2, 8)).astype(np.float32), "h": rng.normal(0, 1, (2, 2, 8)).astype(np.float32)}
        for _ in range(3)
    ]
    found = capture(graph, layers, feeds)
    x = np.concatenate([f["x"].reshape(-1, 8) for f in feeds]).astype(np.float64)
    states = [np.concatenate([f["h"][:, None].transpose(1, 0, 2, 3), Runner(graph).run(f)[0]]) for f in feeds]
    w, r = (found[layer.name] for layer in layers)
    np.testing.assert_allclose(w.blocks[0].second()[0], x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    for d in range(2):
        h = np.concatenate([s[:, d].reshape(-1, 8) for s in states]).astype(np.float64)
        np.testing.assert_allclose(r.blocks[0].second()[d], h.T @ h / len(h), rtol=1e-4, atol=1e-5)


def test_a_last_state_alone_still_shows_all_states() -> None:
    text = "g (float[5,2,8] x) => (float[1,2,8] last) { y, last = LSTM <hidden_size=8> (x, w, r) }"
    graph = read(model(text.replace("y, last =", ", last ="), w=f32(1, 32, 8), r=f32(1, 32, 8, seed=1)))
    layers, _ = find_layers(graph)
    before = to_proto(graph).SerializeToString(deterministic=True)
    found = capture(graph, layers, samples((5, 2, 8)))
    assert found[layers[1].name].rows == 6 * 10
    assert to_proto(graph).SerializeToString(deterministic=True) == before


def test_what_can_not_be_seen_is_said() -> None:
    graph = read(model("g (int64[N] x) => (float[N,8] y) { y = Gather(w, x) }", w=f32(20, 8)))
    (layer,), _ = find_layers(graph)
    assert "picked" in (unseen(graph, layer) or "")
    assert capture(graph, [layer], [{"x": np.array([1, 2])}]) == {}


def test_pairs_relate_the_model_to_its_original() -> None:
    text = "g (float[N,12] x) => (float[N,4] y) { h = Gemm <transB=1> (x, a)\n y = Gemm <transB=1> (h, b) }"
    graph = read(model(text, a=f32(16, 12), b=f32(4, 16, seed=1)))
    layers, _ = find_layers(graph)
    feeds = samples((5, 12))
    originals: dict[Any, Any] = {}
    for number, (part, found) in enumerate(Calibration(feeds, 0, 2).stages(graph, layers, originals)):
        (layer,) = part
        if number == 0:
            originals[layer.constant] = layer.constant.held
            a = layer.array()
            layer.set_array(a * 0.5)
        else:
            z = np.concatenate([f["x"] @ a.T for f in feeds]).astype(np.float64)
            z -= z.mean(0)
            cross = found[layer.name].blocks[0].cross
            assert cross is not None
            np.testing.assert_allclose(cross[0], z.T @ z / len(z) / 2, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(
                found[layer.name].blocks[0].covariance[0], z.T @ z / len(z) / 4, rtol=1e-3, atol=1e-3
            )


def test_samples_go_together_where_the_batch_is_open() -> None:
    graph = read(model(MODELS["Gemm"][0], w=f32(7, 12)))
    layers, _ = find_layers(graph)
    many = together(graph, layers, samples((1, 12), 70))
    assert [len(f["x"]) for f in many] == [32, 32, 6]
    fixed = read(model("g (float[1,12] x) => (float[1,7] y) { y = Gemm <transB=1> (x, w) }", w=f32(7, 12)))
    assert len(together(fixed, find_layers(fixed)[0], samples((1, 12), 70))) == 70


def test_a_run_is_of_one_sample_however_many_go_together() -> None:
    graph = read(model(MODELS["Gemm"][0], w=f32(7, 12)))
    layers, _ = find_layers(graph)
    calibration = Calibration.planned(graph, layers, samples((1, 12), 70))
    assert len(calibration.feeds) == 3
    [(_, found)] = calibration.whole(graph, layers)
    assert found[layers[0].name].vectors == pytest.approx(1) and found[layers[0].name].rows == 70


def test_white_moments_are_the_weights_own_error() -> None:
    white = Moments.white(5)
    d = f32(1, 3, 5)
    assert not white.known
    assert white.noise(d) == pytest.approx(float(np.square(d).sum()), rel=1e-5)
