"""If, Loop and Scan around compressed layers, run step by step."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import IF, assert_agrees, compress, execute, f32, model, segments
from eie.runtime.errors import ModelError
from eie.runtime.program import LayerStep


def test_if_with_captures() -> None:
    for c in (True, False):
        executor = assert_agrees(model(IF, w=f32(4, 4), d=f32(4)), {"x": f32(3, 4), "c": np.array(c)}, layers=1)
    assert segments(executor) == 2


def test_if_whose_bodies_hold_the_weights() -> None:
    assert_agrees(
        model(IF.replace("w)", "body_w)"), body_w=f32(4, 4), d=f32(4)),
        {"x": f32(3, 4), "c": np.array([True])},
        layers=1,
    )


LOOP = """g (float[N,4] x, int64 n, bool c) => (float[N,4] y, float[K,N,4] all, int64[K] counts) {
    a = Neg(x)
    last, all, counts = Loop
        (n, c, a) <body = b (int64 i, bool ci, float[N,4] s) => (bool co, float[N,4] t, float[N,4] u, int64 j) {
        m = MatMul(s, w) t = Add(m, x) u = Neg(t) j = Identity(i) z = ReduceSum<keepdims=0>(t) co = Less(z, limit) }>
    y = Tanh(last) }"""


@pytest.mark.parametrize("n, c", [(4, True), (0, True), (3, False), (100, True)])
def test_loop(n: int, c: bool) -> None:
    parsed = model(LOOP, w=f32(4, 4) / 8, limit=np.float32(3.5))
    assert_agrees(parsed, {"x": f32(3, 4) / 4, "n": np.array(min(n, 30)), "c": np.array(c)}, layers=1)


@pytest.mark.parametrize("inputs", ["(n, , a)", "( , c, a)", "( , , a)"])
def test_loop_without_count_or_condition(inputs: str) -> None:
    text = LOOP.replace("(n, c, a)", inputs).replace("Less(z, limit)", "Less(i, limit)")
    assert_agrees(
        model(text, w=f32(4, 4) / 8, limit=np.array(3)),
        {"x": f32(3, 4), "n": np.array(5), "c": np.array(True)},
        layers=1,
    )


def test_loop_of_growing_shape_and_sequence() -> None:
    text = """g (float[N,4] x) => (float[M,4] y, seq(float) z) {
        n = Constant<value_int=3>() s0 = SequenceEmpty<dtype=1>()
        y, z = Loop
            (n, , x, s0) <body = b (int64 i, bool ci, float[P,4] s, seq(float) q)
            => (bool co, float[Q,4] t, seq(float) v) {
            m = MatMul(s, w) t = Concat<axis=0>(m, s) v = SequenceInsert(q, m) co = Identity(ci) }> }"""
    assert_agrees(model(text, w=f32(4, 4)), {"x": f32(1, 4)}, layers=1)


SCAN = """g (float[2,3] h, float[5,2,3] x, float[2,5,3] v) => (float[2,3] y, float[A,B,C] all) {
    y, all = Scan <num_scan_inputs=2, scan_input_axes=[0,1], scan_input_directions=[0,1], scan_output_axes=[-1],
        scan_output_directions=[1],
            body = b (float[2,3] s, float[2,3] p, float[2,3] q) => (float[2,3] t, float[2,3] u) {
            m = MatMul(s, w) o = Add(m, p) t = Sub(o, q) u = Identity(t) }> (h, x, v) }"""


def test_scan() -> None:
    assert_agrees(model(SCAN, w=f32(3, 3)), {"h": f32(2, 3), "x": f32(5, 2, 3), "v": f32(2, 5, 3)}, layers=1)


def test_control_flow_inside_control_flow() -> None:
    text = """g (float[N,4] x, bool c) => (float[N,4] y) {
        k = Constant<value_int=2>()
        y = Loop (k, c, x) <body = b (int64 i, bool ci, float[N,4] s) => (bool co, float[N,4] t) {
            f = Identity(s) odd = Cast<to=9>(i)
            t = If (odd) <then_branch = p () => (float[N,4] a) { m = MatMul(f, w) a = Add(m, x) },
                          else_branch = q () => (float[N,4] e) { e = MatMul(s, v) }>
            co = Identity(ci) }> }"""
    assert_agrees(model(text, w=f32(4, 4), v=f32(4, 4, seed=3)), {"x": f32(3, 4), "c": np.array(True)}, layers=2)


def test_bodies_without_layers_stay_whole() -> None:
    text = IF.replace("m = MatMul(a, w) p = Add(m, d)", "p = Add(a, d)").replace("y = Tanh(h)", "y = MatMul(h, w)")
    executor = assert_agrees(model(text, w=f32(4, 4), d=f32(4)), {"x": f32(3, 4), "c": np.array(True)}, layers=1)
    assert segments(executor) == 1
    assert sum(isinstance(s, LayerStep) for s in executor.program.steps) == 1


def test_old_scan_is_refused() -> None:
    _, artifact = compress(model(SCAN, w=f32(3, 3)))
    for entry in artifact.opset_import:
        if not entry.domain:
            entry.version = 8
    with pytest.raises(ModelError, match="opset 9"):
        execute(artifact)


def test_bodies_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="do not fit"):
        execute(compress(model(IF.replace("t () =>", "t (float[N,4] z) =>"), w=f32(4, 4), d=f32(4)))[1])
    text = LOOP.replace("t = Add(m, x) u = Neg(t)", "t = Shape(m) u = Neg(m)").replace("(t)", "(m)")
    with pytest.raises(ModelError, match=r"takes tensor\(float\) and hands back tensor\(int64\)"):
        execute(compress(model(text, w=f32(4, 4), limit=np.float32(1)))[1])
