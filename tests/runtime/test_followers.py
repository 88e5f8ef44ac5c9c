"""Elementwise operators behind compressed layers: taken over by the layer where nobody else sees what is between, with the same bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from artifacts import AllDense, compress, f32, model, ort
from eie.runtime.backends.base import Compiled, LayerSpec
from eie.runtime.backends.cpu import CpuBackend
from eie.runtime.backends.reference import ReferenceBackend
from eie.runtime.errors import EieError
from eie.runtime.executor import Executor
from eie.runtime.modelfile import load_model
from eie.runtime.tensors import Tensors

FORMATS: tuple[Any, ...] = ("f32", "i16", "u8")
CONV = "Conv<pads=[1,1,1,1]>"


class Packed(CpuBackend):
    """Every layer packed, however small."""

    def verdict(self, spec: LayerSpec) -> None:
        return None


class Apart(Packed):
    """Operators behind a layer are left to ONNX Runtime."""

    def compile(self, spec: LayerSpec) -> Compiled:
        return replace(super().compile(spec), follow=None)


def executor(artifact: onnx.ModelProto, backend: Any, activations: Any) -> Executor:
    return Executor(load_model(artifact.SerializeToString()), Tensors(None), backend, activations=activations)


def assert_taken(
    text: str, weights: dict[str, Any], feeds: dict[str, Any], *taken: tuple[str, ...], opset: int = 17
) -> None:
    """In every format, on one thread and on three, with the same bits as apart; which operators each layer took over."""
    artifact = compress(model(text, opset=opset, **weights))[1]
    for activations in FORMATS:
        apart = executor(artifact, Apart(), activations)
        expected = apart.program.run(feeds)
        assert all(not layer.followers for layer in apart.layers)
        for threads in (1, 3):
            fused = executor(artifact, Packed(threads), activations)
            assert tuple(layer.followers for layer in fused.layers) == taken
            for got, want in zip(fused.program.run(feeds), expected, strict=True):
                assert got.dtype == want.dtype
                np.testing.assert_array_equal(got, want)
                np.testing.assert_array_equal(np.signbit(got), np.signbit(want))
        if activations != "f32":
            for got, want in zip(
                executor(artifact, ReferenceBackend(), activations).program.run(feeds), expected, strict=True
            ):
                np.testing.assert_array_equal(got, want)


SIDE = pytest.mark.parametrize("side", [5, 9, 16, 21])  # flat layout, odd lanes; lines of a whole vector; two vectors


@SIDE
@pytest.mark.parametrize(
    ("nodes", "taken"),
    [
        ("y = Relu(c)", ("Relu",)),
        ("y = LeakyRelu<alpha = 0.2>(c)", ("LeakyRelu",)),
        ("y = Clip(c, zero, six)", ("Clip",)),
        ("y = Clip(c, , six)", ("Clip",)),
        ("y = Clip(c, six, zero)", ("Clip",)),  # the upper bound wins, as in ONNX Runtime
        ("y = Add(c, r)", ("Add",)),
        ("a = Add(r, c) y = Relu(a)", ("Add", "Relu")),
        ("a = Add(c, e) k = LeakyRelu(a) y = Add(r, k)", ("Add", "LeakyRelu", "Add")),
        ("a = Add(e, c) k = Clip(a, zero, six) d = Add(k, six) y = Relu(d)", ("Add", "Clip", "Add", "Relu")),
        ("a = Neg(c) y = Relu(a)", ()),
        ("a = Add(c, c) y = Relu(a)", ()),
        ("y = Add(c, whole)", ()),  # a constant tensor is not worth a copy of its own
        ("y = Add(c, line)", ()),
    ],
)  # fmt: skip
def test_behind_a_convolution(nodes: str, taken: tuple[str, ...], side: int) -> None:
    text = f"g (float[2,3,{side},{side}] x, float[2,8,{side},{side}] r) => (float[N,M,H,W] y) {{ c = {CONV}(x, w, b) {nodes} }}"
    weights = {"w": f32(8, 3, 3, 3), "b": f32(8), "e": f32(8, 1, 1), "zero": np.float32(0), "six": np.float32(0.6),
               "whole": f32(2, 8, side, side), "line": f32(side)}  # fmt: skip
    used = {
        n: np.asarray(w)
        for n, w in weights.items()
        if n in ("w", "b") or f"{n}" in nodes.replace(",", " ").replace(")", " ").replace("(", " ").split()
    }
    assert_taken(text, used, {"x": f32(2, 3, side, side), "r": f32(2, 8, side, side, seed=3)}, taken)


@pytest.mark.parametrize(
    "text",
    ["ConvTranspose<strides=[2,2]>", "ConvTranspose<strides=[3,1], pads=[1,0,1,2], output_padding=[1,0], group=2>"],
)
def test_behind_a_transposed_convolution(text: str) -> None:
    graph = f"g (float[2,4,5,6] x) => (float[N,M,H,W] y) {{ c = {text}(x, w) a = Add(c, e) y = Clip(a, low, high) }}"
    out = 6 if "group" in text else 3
    weights = {
        "w": f32(4, 3, 3, 3),
        "e": f32(1, out, 1, 1),
        "low": np.array(-0.5, np.float32),
        "high": np.array(0.7, np.float32),
    }
    assert_taken(graph, weights, {"x": f32(2, 4, 5, 6)}, ("Add", "Clip"))


def test_behind_one_and_three_spatial_dimensions() -> None:
    line = "g (float[1,3,40] x, float[1,4,40] r) => (float[N,M,L] y) { c = Conv<pads=[1,1]>(x, w) a = Add(c, r) y = Relu(a) }"
    assert_taken(line, {"w": f32(4, 3, 3)}, {"x": f32(1, 3, 40), "r": f32(1, 4, 40)}, ("Add", "Relu"))
    room = "g (float[1,2,5,6,7] x, float[1,4,3,4,5] r) => (float[N,M,A,B,C] y) { c = Conv(x, w) a = Add(c, r) y = Relu(a) }"
    assert_taken(room, {"w": f32(4, 2, 3, 3, 3)}, {"x": f32(1, 2, 5, 6, 7), "r": f32(1, 4, 3, 4, 5)}, ("Add", "Relu"))


@pytest.mark.parametrize(
    ("nodes", "taken"),
    [
        ("y = Relu(c)", ("Relu",)),
        ("a = Add(c, e) y = Relu(a)", ("Add", "Relu")),
        ("a = Add(r, c) d = Add(a, one) y = Clip(d, zero, )", ("Add", "Add", "Clip")),
        ("y = Add(c, e2)", ()),  # [1, out]: would give a vector another rank
    ],
)
@pytest.mark.parametrize("batch", [1, 5])
def test_behind_a_matrix(nodes: str, taken: tuple[str, ...], batch: int) -> None:
    text = f"g (float[N,20] x, float[N,30] r) => (float[N,30] y) {{ c = MatMul(x, w) {nodes} }}"
    weights = {"w": f32(20, 30), "e": f32(30), "one": f32(1), "zero": np.array(0, np.float32), "e2": f32(1, 30)}
    used = {n: w for n, w in weights.items() if n == "w" or f"{n})" in nodes or f" {n}," in nodes}
    assert_taken(text, used, {"x": f32(batch, 20), "r": f32(batch, 30)}, taken)


def test_clip_with_attributes() -> None:
    text = "g (float[N,20] x) => (float[N,30] y) { c = MatMul(x, w) y = Clip<min=-0.25, max=0.5>(c) }"
    assert_taken(text, {"w": f32(20, 30)}, {"x": f32(2, 20)}, ("Clip",), opset=9)


def test_what_others_read_stays() -> None:
    """A tensor that is an output, that two nodes read, or that a body reads: the operator behind it is a step of its own."""
    weights = {"w": f32(8, 3, 3, 3)}
    feeds: dict[str, Any] = {"x": f32(1, 3, 9, 9)}
    head = "g (float[1,3,9,9] x) => (float[N,M,H,W] y, float[N,M,H,W] z)"
    assert_taken(f"{head} {{ z = {CONV}(x, w) y = Relu(z) }}", weights, feeds, ())
    assert_taken(f"{head} {{ c = {CONV}(x, w) y = Relu(c) z = Neg(c) }}", weights, feeds, ())
    assert_taken(f"{head} {{ c = {CONV}(x, w) z = Relu(c) y = LeakyRelu(z) }}", weights, feeds, ("Relu",))
    assert_taken(f"{head} {{ c = {CONV}(x, w) a = Relu(c) z = Neg(a) y = Abs(a) }}", weights, feeds, ("Relu",))
    body = "then_branch = t () => (float[N,M,H,W] p) { p = Neg(c) }, else_branch = e () => (float[N,M,H,W] q) { q = Abs(c) }"
    text = f"g (float[1,3,9,9] x, bool k) => (float[N,M,H,W] y, float[N,M,H,W] z) {{ c = {CONV}(x, w) z = Relu(c) y = If (k) <{body}> }}"
    assert_taken(text, weights, feeds | {"k": np.array(True)}, ())


def test_inside_a_body() -> None:
    text = """g (float[N,4] x, bool c) => (float[N,4] y) {
        y = If (c) <
            then_branch = t () => (float[N,4] p) { m = MatMul(x, w) p = Relu(m) },
            else_branch = e () => (float[N,4] q) { m2 = MatMul(x, w) s = Add(m2, x) q = LeakyRelu(s) }> }"""
    for taken in (True, False):
        assert_taken(text, {"w": f32(4, 4)}, {"x": f32(3, 4), "c": np.array(taken)}, ("Relu",), ("Add", "LeakyRelu"))


def test_two_layers_that_meet() -> None:
    """One of them takes the sum over, and waits for the other; chains of residual blocks work."""
    text = f"""g (float[1,8,9,9] x) => (float[N,M,H,W] y) {{
        a = {CONV}(x, v) b = {CONV}(x, w) s = Add(a, b) t = Relu(s)
        c = {CONV}(t, w) d = Relu(c) e = {CONV}(d, v) f = Add(t, e) y = Relu(f) }}"""
    assert_taken(text, {"v": f32(8, 8, 3, 3), "w": f32(8, 8, 3, 3, seed=1)}, {"x": f32(1, 8, 9, 9)},
                 ("Add", "Relu"), (), ("Relu",), ("Add", "Relu"))  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (8, 9, 9), (3, 8, 9, 9), (2, 1, 8, 9, 9), (9,), (1, 1, 9, 9)])
def test_operands_that_broadcast(shape: tuple[int, ...]) -> None:
    """They are not what the output pass adds, and are added all the same."""
    kind = ",".join(map(str, shape))
    text = f"g (float[1,3,9,9] x, float[{kind}] r) => (float y) {{ c = {CONV}(x, w) a = Add(c, r) b = Relu(a) y = Neg(b) }}"
    parsed = model(text, w=f32(8, 3, 3, 3))
    parsed.graph.output[0].type.tensor_type.ClearField("shape")
    artifact = compress(parsed)[1]
    feeds = {"x": f32(1, 3, 9, 9), "r": f32(*shape)}
    for activations in FORMATS:
        expected = executor(artifact, Apart(), activations).program.run(feeds)[0]
        got = executor(artifact, Packed(), activations).program.run(feeds)[0]
        assert got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)


def test_operands_that_do_not_fit() -> None:
    artifact = compress(
        model(
            f"g (float[1,3,9,9] x, float[A,B,C,D] r) => (float[N,M,H,W] y) {{ c = {CONV}(x, w) y = Add(c, r) }}",
            w=f32(8, 3, 3, 3),
        )
    )[1]
    with pytest.raises(EieError, match="can't be added"):
        executor(artifact, Packed(), "f32").program.run({"x": f32(1, 3, 9, 9), "r": f32(1, 8, 9, 8)})


@pytest.mark.parametrize(
    "nodes", ["y = Relu(c)", "y = Clip(c, low, high)", "y = Clip(c)", "y = LeakyRelu(c)", "a = Add(c, r) y = Relu(a)"]
)
def test_odd_numbers_pass_as_in_onnx_runtime(nodes: str) -> None:
    """NaN, infinities and -0 come out of a layer whose weight picks them; a sample that is not finite is NaN in u8 and i16."""
    text = f"g (float[N,8] x, float[N,8] r) => (float[N,8] y) {{ c = MatMul(x, w) {nodes} }}"
    odd = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, -1, 1e-40, -3e38], np.float32)
    more = {"low": np.array(-0.5, np.float32), "high": np.array(0.5, np.float32)} if "low" in nodes else {}
    w = np.diag(np.arange(1, 9)).astype(np.float32)
    feeds = {"x": np.stack([odd, np.ones(8, np.float32), -np.ones(8, np.float32)]), "r": f32(3, 8)}
    artifact = compress(model(text, w=w, **more))[1]
    for activations in FORMATS:
        expected = executor(artifact, Apart(), activations).program.run(feeds)[0]
        for backend in (Packed(), Packed(3)):
            got = executor(artifact, backend, activations).program.run(feeds)[0]
            np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    image = f"g (float[N,2,9,9] x, float[N,8,9,9] r) => (float[N,8,9,9] y) {{ c = {CONV}(x, w) {nodes} }}"
    artifact = compress(model(image, w=f32(8, 2, 3, 3), **more))[1]
    feeds = {"x": f32(2, 2, 9, 9), "r": f32(2, 8, 9, 9)}
    feeds["x"][0, 1, 3, 3] = np.inf
    for activations in ("i16", "u8"):
        expected = executor(artifact, Apart(), activations).program.run(feeds)[0]
        np.testing.assert_array_equal(executor(artifact, Packed(3), activations).program.run(feeds)[0], expected)


@pytest.mark.parametrize("dense", [True, False])
def test_between_layers_halves_stay_wide(dense: bool) -> None:
    """Casts to half floats and back go, through what only moves numbers; a Relu comes next to its layer."""
    text = f"""g (float16[1,3,9,9] x) => (float16[N,M,H,W] y, float16[N,M,H,W] e) {{
        a = Cast<to = 1>(x) c = {CONV}(a, w) d = Cast<to = 10>(c) e = Relu(d) p = MaxPool<kernel_shape=[2,2]>(e)
        k = Concat<axis=1>(p, p) f = Cast<to = 1>(k) g = {CONV}(f, v) h = Cast<to = 10>(g) y = Relu(h) }}"""
    rounded, artifact = compress(model(text, w=f32(8, 3, 3, 3), v=f32(4, 16, 3, 3)))
    feeds = {"x": f32(1, 3, 9, 9).astype(np.float16)}
    made = executor(artifact, AllDense() if dense else Packed(), None)
    for got, expected in zip(made.program.run(feeds), ort(rounded).run(None, feeds), strict=True):
        assert got.dtype == np.float16 and got.shape == expected.shape
        np.testing.assert_allclose(got.astype(np.float32), expected.astype(np.float32), rtol=1e-2, atol=2e-2)
    assert [layer.followers for layer in made.layers] == ([(), ()] if dense else [("Relu",), ("Relu",)])


def test_halves_that_others_read_are_there() -> None:
    text = f"""g (float16[1,3,9,9] x, bool k) => (float16[N,M,H,W] y, float16[N,M,H,W] d, float[N,M,H,W] z) {{
        a = Cast<to = 1>(x) c = {CONV}(a, w) d = Cast<to = 10>(c) y = Relu(d) z = Cast<to = 1>(d) }}"""
    artifact = compress(model(text, w=f32(8, 3, 3, 3)))[1]
    y, d, z = executor(artifact, Packed(), None).program.run(
        {"x": f32(1, 3, 9, 9).astype(np.float16), "k": np.array(True)}
    )
    np.testing.assert_array_equal(y, np.maximum(d, 0))
    np.testing.assert_array_equal(z, d.astype(np.float32))
    assert (d < 0).any()
