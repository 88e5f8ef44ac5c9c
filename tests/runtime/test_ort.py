"""The custom operators inside ONNX Runtime, against ONNX's own operators on the dense weights."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from eie.runtime import Session, Weight, custom_op_library, schema
from eie.runtime import format as container
from eie.runtime.backends import ort as backend
from eie.runtime.errors import EieError, FormatError, ModelError, UserError
from eie.runtime.operators import DOMAIN

STATE = ort.capi.onnxruntime_pybind11_state
RNG = np.random.default_rng(11)
Array = np.ndarray[Any, Any]
Constants = dict[str, Array | Weight]


def weight(*shape: int, values: int = 13) -> Weight:
    codes = RNG.integers(0, values, shape).astype(np.uint8)
    codes[RNG.random(shape) < 0.6] = 0
    return Weight(codes, np.concatenate([[0], RNG.standard_normal(values - 1)]).astype(np.float32))


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def build(text: str, constants: Constants, *, dense: bool = False) -> onnx.ModelProto:
    """A model from ONNX text; its weights as payloads, or dense."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "{DOMAIN}" : 1]> {text}')
    for name, value in constants.items():
        if isinstance(value, Weight):
            array = value.dense() if dense else np.frombuffer(container.encode(value), np.uint8)
        else:
            array = value
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def options(threads: int = 1) -> ort.SessionOptions:
    made = ort.SessionOptions()
    made.log_severity_level = 4
    made.intra_op_num_threads = threads
    made.register_custom_ops_library(custom_op_library())
    return made


def plain(model: onnx.ModelProto | bytes, made: ort.SessionOptions | None = None) -> ort.InferenceSession:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(content, made or options(), providers=["CPUExecutionProvider"])


@dataclass
class Case:
    """An ``ai.eie`` graph, the standard one it must agree with, and inputs."""

    text: str
    standard: str
    constants: Constants
    feeds: list[dict[str, Array]] = field(default_factory=list)


def same(text: str) -> str:
    return text.replace("ai.eie.", "")


def case(text: str, constants: Constants, *feeds: dict[str, Array], standard: str | None = None) -> Case:
    return Case(text, standard or same(text), constants, list(feeds))


W, B = weight(6, 5), floats(6)
RNN_STATE = {"h": floats(2, 3, 4), "c": floats(2, 3, 4)}
CASES: dict[str, Case] = {
    "gemm": case(
        "g (float[N,5] x) => (float[N,6] y) { y = ai.eie.Gemm(x, w, b) }",
        {"w": W, "b": B},
        {"x": floats(3, 5)},
        {"x": floats(1, 5)},
        {"x": floats(0, 5)},
        standard="g (float[N,5] x) => (float[N,6] y) { y = Gemm<transB=1>(x, w, b) }",
    ),
    "gemm, three dimensions, no bias": case(
        "g (float[A,B,5] x) => (float[A,B,6] y) { y = ai.eie.Gemm(x, w) }",
        {"w": W},
        {"x": floats(2, 3, 5)},
        {"x": floats(2, 0, 5)},
        standard="g (float[A,B,5] x) => (float[A,B,6] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }",
    ),
    "gemm, a vector": case(
        "g (float[5] x) => (float[6] y) { y = ai.eie.Gemm(x, w) }",
        {"w": W},
        {"x": floats(5)},
        standard="g (float[5] x) => (float[6] y) { y = MatMul(w, x) }",
    ),
    "conv": case(
        "g (float[N,4,H,V] x) => (float[N,6,C,D] y) "
        "{ y = ai.eie.Conv<kernel_shape=[3,3], pads=[1,0,1,2], strides=[2,1], group=2>(x, w, b) }",
        {"w": weight(6, 2, 3, 3), "b": B},
        {"x": floats(2, 4, 7, 6)},
        {"x": floats(1, 4, 5, 3)},
        {"x": floats(0, 4, 5, 3)},
    ),
    "conv, one dimension, same": case(
        'g (float[N,2,L] x) => (float[N,6,M] y) { y = ai.eie.Conv<auto_pad="SAME_UPPER", strides=[2]>(x, w) }',
        {"w": weight(6, 2, 3)},
        {"x": floats(2, 2, 8)},
    ),
    "conv, three dimensions, dilated": case(
        "g (float[N,2,H,V,D] x) => (float[N,6,A,B,C] y) { y = ai.eie.Conv<dilations=[1,2,1]>(x, w) }",
        {"w": weight(6, 2, 2, 2, 2)},
        {"x": floats(1, 2, 4, 5, 3)},
    ),
    "conv transpose": case(
        "g (float[N,4,H,V] x) => (float[N,6,A,B] y) "
        "{ y = ai.eie.ConvTranspose<strides=[2,2], output_padding=[1,0], group=2>(x, w, b) }",
        {"w": weight(4, 3, 3, 3), "b": B},
        {"x": floats(2, 4, 3, 4)},
        {"x": floats(0, 4, 3, 4)},
    ),
    "lstm": case(
        "g (float[T,N,3] x, int32[N] s, float[2,N,4] h, float[2,N,4] c) "
        "=> (float[T,2,N,4] y, float[2,N,4] yh, float[2,N,4] yc) { y, yh, yc = "
        'ai.eie.LSTM<hidden_size=4, direction="bidirectional">(x, w, r, b, s, h, c, p) }',
        {"w": weight(2, 16, 3), "r": weight(2, 16, 4), "b": floats(2, 32), "p": floats(2, 12)},
        {"x": floats(5, 3, 3), "s": np.array([5, 1, 3], np.int32), **RNN_STATE},
    ),
    "lstm, inputs and outputs left out": case(
        "g (float[T,N,3] x, float[1,N,4] c) => (float[1,N,4] yc) "
        "{ , , yc = ai.eie.LSTM<hidden_size=4>(x, w, r, , , , c) }",
        {"w": weight(1, 16, 3), "r": weight(1, 16, 4)},
        {"x": floats(5, 3, 3), "c": floats(1, 3, 4)},
        {"x": floats(1, 1, 3), "c": floats(1, 1, 4)},
    ),
    "gru": case(
        "g (float[T,N,3] x, float[1,N,4] h) => (float[T,1,N,4] y, float[1,N,4] yh) { y, yh = "
        'ai.eie.GRU<hidden_size=4, direction="reverse", linear_before_reset=1>(x, w, r, b, , h) }',
        {"w": weight(1, 12, 3), "r": weight(1, 12, 4), "b": floats(1, 24)},
        {"x": floats(5, 3, 3), "h": floats(1, 3, 4)},
    ),
    "gather": case(
        "g (int64[A,B] i) => (float[A,B,2,3] y) { y = ai.eie.Gather(w, i) }",
        {"w": weight(7, 2, 3)},
        {"i": np.array([[0, 6, -1], [-7, 2, 2]])},
        {"i": np.zeros((2, 0), np.int64)},
    ),
    "gather, int32, one index": case(
        "g (int32 i) => (float[5] y) { y = ai.eie.Gather(w, i) }", {"w": W}, {"i": np.array(-2, np.int32)}
    ),
    "decode": case(
        "g (float[N,6] x) => (float[N,5] y) { d = ai.eie.Decode(w) y = MatMul(x, d) }",
        {"w": W},
        {"x": floats(3, 6)},
        standard="g (float[N,6] x) => (float[N,5] y) { y = MatMul(x, w) }",
    ),
    "decode, transposed and reshaped": case(
        "g (float[N,3] x) => (float[2,N,5] y) { d = ai.eie.Decode<transpose=1, shape=[2,3,5]>(w) y = MatMul(x, d) }",
        {"w": weight(5, 6), "s": np.array([2, 3, 5])},
        {"x": floats(3, 3)},
        standard="g (float[N,3] x) => (float[2,N,5] y) "
        "{ t = Transpose<perm=[1,0]>(w) d = Reshape(t, s) y = MatMul(x, d) }",
    ),
    "in an If": case(
        "g (float[N,5] x, bool c) => (float[N,6] y) { y = If(c) "
        "<then_branch = t () => (float[N,6] a) { a = ai.eie.Gemm(x, w) }, "
        "else_branch = e () => (float[N,6] f) { z = ai.eie.Gemm(x, w) f = Neg(z) }> }",
        {"w": W},
        *({"x": floats(3, 5), "c": np.array(c)} for c in (True, False, True)),
        standard="g (float[N,5] x, bool c) => (float[N,6] y) { y = If(c) "
        "<then_branch = t () => (float[N,6] a) { a = Gemm<transB=1>(x, w) }, "
        "else_branch = e () => (float[N,6] f) { z = Gemm<transB=1>(x, w) f = Neg(z) }> }",
    ),
    "in a Loop": case(
        "g (float[N,5] x, int64 n) => (float[N,5] y) { y = Loop(n, , x) "
        "<body = b (int64 i, bool ci, float[N,5] s) => (bool co, float[N,5] t) "
        "{ p = ai.eie.Gemm(s, w) t = Tanh(p) co = Identity(ci) }> }",
        {"w": weight(5, 5)},
        {"x": floats(2, 5), "n": np.array(3)},
        {"x": floats(4, 5), "n": np.array(0)},
        standard="g (float[N,5] x, int64 n) => (float[N,5] y) { y = Loop(n, , x) "
        "<body = b (int64 i, bool ci, float[N,5] s) => (bool co, float[N,5] t) "
        "{ p = Gemm<transB=1>(s, w) t = Tanh(p) co = Identity(ci) }> }",
    ),
}


@pytest.mark.parametrize("parallel", [False, True], ids=["one thread", "threads"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_standard_operators(name: str, parallel: bool) -> None:
    c = CASES[name]
    made = options(2 if parallel else 1)
    if parallel:
        made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    compressed = plain(build(c.text, c.constants), made)
    dense = plain(build(c.standard, c.constants, dense=True))
    for feeds in c.feeds:
        for got, want in zip(compressed.run(None, feeds), dense.run(None, feeds), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("density", [0.04, 1.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
def test_packed_and_dense_layers_agree(op: str, bias: bool, density: float) -> None:
    """Few weights run from the packed form, many through ONNX Runtime's own operator: the choice is `verdict_of`'s."""
    from eie.runtime.backends.cpu import verdict_of

    shape = (40, 30) if op == "Gemm" else (16, 16, 3, 3)
    codes = RNG.integers(1, 13, shape).astype(np.uint8)
    codes[RNG.random(shape) >= density] = 0
    w = Weight(codes, np.concatenate([[0], RNG.standard_normal(12)]).astype(np.float32))
    if op != "Gemm":
        assert verdict_of(op, {}, w, "f32").dense == (density == 1)
    x, b = floats(2, 30) if op == "Gemm" else floats(2, 16, 9, 8), floats(shape[0])
    inside = "float[N,30]" if op == "Gemm" else "float[N,16,H,V]"
    text = f"g ({inside} x) => (float[] y) {{ y = ai.eie.{op}(x, w{', b' if bias else ''}) }}"
    model = build(text, {"w": w, "b": b})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (got,) = plain(model).run(None, {"x": x})
    (want,) = Session(model.SerializeToString(), "reference").run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gemm", "conv", "conv transpose", "lstm", "in an If"])
@pytest.mark.parametrize("activations", ["i16", "u8"])
def test_integers_are_the_same_bits_outside(name: str, activations: Any) -> None:
    """The option of the session, and the cpu backend, which computes in the same format."""
    c = CASES[name]
    content = build(c.text, c.constants).SerializeToString()
    inside = backend.create_session(content, 1, activations)
    outside = Session(content, "cpu", activations=activations)
    for feeds in c.feeds:
        for got, want in zip(inside.run(None, feeds), outside.run(None, feeds), strict=True):
            np.testing.assert_array_equal(got, want)


def test_decode_writes_large_weights_in_blocks() -> None:
    w = weight(300, 500)
    text = "g (float[N] x) => (float[300,500] y) { y = ai.eie.Decode(w) }"
    np.testing.assert_array_equal(plain(build(text, {"w": w}), options(2)).run(None, {"x": floats(1)})[0], w.dense())


# -- errors ------------------------------------------------------------------------------------------------------------

GEMM = "g (float[N,5] x) => (float[N,6] y) { y = ai.eie.Gemm(x, w, b) }"


def damaged(change: Any, text: str = GEMM) -> onnx.ModelProto:
    model = build(text, {"w": W, "b": B})
    tensor = model.graph.initializer[0]
    raw = change(tensor.raw_data)
    tensor.raw_data, tensor.dims[0] = raw, len(raw)
    return model


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda r: r[:-9] + bytes([r[-9] ^ 4]) + r[-8:], "checksum"),
        (lambda r: r[:-3], "'y'"),
        (lambda r: b"", "ends before"),
        (lambda r: b"PNG" + r[3:], "'y'"),
        (lambda r: r[:3] + b"\x09" + r[4:], "'y'"),
    ],
)
def test_damaged_payloads_fail_when_the_session_is_made(change: Any, words: str) -> None:
    model = damaged(change).SerializeToString()
    with pytest.raises(FormatError, match="layer 'y' \\(Gemm\\)") as error:
        backend.create_session(model, 1, None)
    assert words in str(error.value)


def test_a_damaged_payload_around_a_body_is_found() -> None:
    c = CASES["in an If"]
    model = build(c.text, c.constants)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1] + b"\0"
    with pytest.raises((FormatError, STATE.InvalidGraph), match=r"(?s)'a'.*checksum"):
        backend.create_session(model.SerializeToString(), 1, None).run(None, c.feeds[0])


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_any_damage_is_an_error(place: int, mask: int) -> None:
    def change(raw: bytes) -> bytes:
        at = place % len(raw)
        return raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]

    with pytest.raises(FormatError):
        backend.create_session(damaged(change).SerializeToString(), 1, None)


CONV = "g (float[N,2,H,V] x) => (float[N,6,A,B] y) { y = ai.eie.Conv(x, w) }"
LSTM = "g (float[T,N,3] x) => (float[T,1,N,4] y) { y = ai.eie.LSTM(x, w, r) }"
DECODE = "g (float[N] x) => (float[A,B] y) { d = ai.eie.Decode(w) y = Relu(d) }"
ANY_GEMM = "g (float[] x) => (float[] y) { y = ai.eie.Gemm(x, w) }"
ANY_CONV = "g (float[] x) => (float[] y) { y = ai.eie.Conv(x, w) }"
ANY_GATHER = "g (int64[N] i) => (float[] y) { y = ai.eie.Gather(w, i) }"
CELL: Constants = {"w": weight(1, 16, 3), "r": weight(1, 16, 4)}
KERNEL: Constants = {"w": weight(6, 2, 3, 3)}


@pytest.mark.parametrize(
    "text, constants, attribute, words",
    [
        (GEMM, {"w": W, "b": B}, ("activations", "i4"), "'i4'.*f32, i16, u8"),
        (GEMM, {"w": W, "b": B}, ("activations", 3), "'activations'.*string"),
        (GEMM, {"w": weight(6, 5, 2), "b": B}, None, "3 dimensions"),
        (GEMM, {"w": weight(6, 4), "b": B}, None, r"\[\?, 5\].*4 inputs"),
        (CONV, {"w": W}, None, "2 dimensions"),
        (CONV, KERNEL, ("group", 4), "4 groups"),
        (CONV, KERNEL, ("group", 2), "4 channels"),
        (CONV, KERNEL, ("group", 0), "group"),
        (CONV, KERNEL, ("pads", [1, 1]), "pads"),
        (CONV, KERNEL, ("pads", [1] * 7), "pads"),
        (CONV, KERNEL, ("pads", [1, 1, -1, 1]), "pads"),
        (CONV, KERNEL, ("strides", [0, 1]), "strides"),
        (CONV, KERNEL, ("strides", 2), "strides.*ints"),
        (CONV, KERNEL, ("dilations", [1, 2**40]), "dilations"),
        (CONV, KERNEL, ("kernel_shape", [3, 2]), "kernel_shape"),
        (CONV, KERNEL, ("auto_pad", "SAME"), "auto_pad.*SAME_LOWER"),
        (CONV, KERNEL, ("auto_pad", "S" * 300), "auto_pad"),
        (LSTM, CELL, ("hidden_size", 5), "hidden_size"),
        (LSTM, CELL, ("direction", "up"), "'up'"),
        (LSTM, CELL, ("direction", "bidirectional"), r"2 direction\(s\)"),
        (LSTM, CELL, ("layout", 2), "layout"),
        (LSTM, CELL, ("clip", -1.0), "clip"),
        (LSTM, CELL, ("clip", float("nan")), "clip"),
        (LSTM, {**CELL, "r": weight(1, 16, 5)}, None, r"\[1, 16, 5\]"),
        (DECODE, {"w": W}, ("transpose", 2), "transpose"),
        (DECODE, {"w": weight(30)}, ("transpose", 1), "1 dimensions"),
        (DECODE, {"w": W}, ("shape", [7, 5]), r"\[7, 5\]"),
        (DECODE, {"w": W}, ("shape", [2**62, 2**62]), "shape"),
        ("g (float i) => (float[A] y) { y = ai.eie.Gather(w, i) }", {"w": W}, None, "element type 1"),
    ],
)
def test_what_does_not_fit_fails_when_the_session_is_made(
    text: str, constants: Constants, attribute: tuple[str, Any] | None, words: str
) -> None:
    model = build(text, constants)
    node = next(n for n in model.graph.node if n.domain == DOMAIN)
    node.name = "the layer"
    if attribute is not None:
        node.attribute.append(helper.make_attribute(*attribute))
    with pytest.raises((FormatError, ModelError)) as error:
        backend.create_session(model.SerializeToString(), 1, None)
    assert re.search(words, str(error.value)), str(error.value)
    assert isinstance(error.value, ModelError) or "'the layer'" in str(error.value)


def test_empty_lists_mean_the_default() -> None:
    model = build(CONV, KERNEL)
    model.graph.node[0].attribute.append(onnx.AttributeProto(name="pads", type=onnx.AttributeProto.INTS))
    assert plain(model).run(None, {"x": floats(1, 2, 4, 4)})[0].shape == (1, 6, 2, 2)


@pytest.mark.parametrize(
    "text, constants, feeds, words",
    [
        (ANY_GEMM, {"w": W}, {"x": floats(2, 4)}, r"\[2, 4\].*5 inputs"),
        (ANY_GEMM, {"w": W}, {"x": np.array(1, np.float32)}, r"\[\].*5 inputs"),
        ("g (float[N,5] x, float[M] b) => (float[N,6] y) { y = ai.eie.Gemm(x, w, b) }", {"w": W},
         {"x": floats(2, 5), "b": floats(5)}, r"bias.*\[5\].*\[6\]"),
        (ANY_CONV, KERNEL, {"x": floats(2, 2, 9)}, "4 dimensions"),
        (ANY_CONV, KERNEL, {"x": floats(2, 3, 9, 9)}, "2 channels"),
        (ANY_CONV, KERNEL, {"x": floats(2, 2, 2, 9)}, r"\[2, 2, 2, 9\]"),
        ("g (float[T,N,3] x, int32[M] s) => (float[] y) { y = ai.eie.LSTM(x, w, r, , s) }", CELL,
         {"x": floats(2, 2, 3), "s": np.array([1, 3], np.int32)}, "value 3.*2 steps"),
        ("g (float[T,N,3] x, int32[M] s) => (float[] y) { y = ai.eie.LSTM(x, w, r, , s) }", CELL,
         {"x": floats(2, 2, 3), "s": np.array([1], np.int32)}, r"\[1\] instead of \[2\]"),
        ("g (float[T,N,3] x, float[] h) => (float[] y) { y = ai.eie.LSTM(x, w, r, , , h) }", CELL,
         {"x": floats(2, 2, 3), "h": floats(2, 1, 4)}, r"initial_h.*\[2, 1, 4\] instead of \[1, 2, 4\]"),
        (ANY_GATHER, {"w": W}, {"i": np.array([0, 6])}, "index 6 .* 6 rows"),
        (ANY_GATHER, {"w": W}, {"i": np.array([-7])}, "index -7"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_fail_the_run(
    text: str, constants: Constants, feeds: dict[str, Array], words: str
) -> None:
    model = build(text, constants)
    for info in (*model.graph.input, *model.graph.output):
        if not info.type.tensor_type.shape.dim:
            info.type.tensor_type.ClearField("shape")
    session = plain(model)
    with pytest.raises(STATE.InvalidArgument) as error:
        session.run(None, feeds)
    assert re.search(words, str(error.value)), str(error.value)


def test_a_payload_that_is_fed_must_stay_the_same() -> None:
    text = "g (float[N,5] x, uint8[P] w) => (float[N,6] y) { y = ai.eie.Gemm(x, w) }"
    session = plain(build(text, {}))
    other = Weight(W.codes[::-1].copy(), W.codebook)
    first, second = (np.frombuffer(container.encode(w), np.uint8).copy() for w in (W, other))
    x = floats(2, 5)
    for fed in (first, first, first.copy()):
        np.testing.assert_allclose(session.run(None, {"x": x, "w": fed})[0], x @ W.dense().T, rtol=1e-5, atol=1e-5)
    with pytest.raises(STATE.InvalidGraph, match=r"ai\.eie Gemm 'y'.*checksum"):
        plain(build(text, {})).run(None, {"x": x, "w": np.append(first[:-1], first[-1] ^ 1)})
    for changed in (second, first[:-1], first[:0]):
        with pytest.raises(STATE.InvalidArgument, match="changed between runs"):
            session.run(None, {"x": x, "w": changed})


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_sessions_outlive_their_options_and_do_not_mind_each_other() -> None:
    model = build(GEMM, {"w": W, "b": B})
    made = options()
    sessions = [plain(model, made), plain(model, made), backend.create_session(model.SerializeToString(), 1, "u8")]
    del made
    gc.collect()
    x = floats(3, 5)
    exact, again, coarse = (s.run(None, {"x": x})[0] for s in sessions)
    np.testing.assert_array_equal(exact, again)
    np.testing.assert_allclose(coarse, exact, atol=0.2)
    assert not np.array_equal(coarse, exact)
    del sessions[1]
    gc.collect()
    np.testing.assert_array_equal(sessions[0].run(None, {"x": x})[0], exact)


@pytest.mark.parametrize("name", ["gemm", "in an If", "lstm"])
def test_many_threads_share_a_session(name: str) -> None:
    c = CASES[name]
    session = plain(build(c.text, c.constants), options(2))
    want = plain(build(c.standard, c.constants, dense=True)).run(None, c.feeds[0])
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: session.run(None, c.feeds[0]), range(64)):
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_optimized_model_can_be_saved_and_read_again(tmp_path: Path) -> None:
    text = (
        "g (float[N,5] x) => (float[] y) { a = Identity(x) h = ai.eie.Gemm(a, w, b) r = Relu(h) "
        "d = ai.eie.Decode<transpose=1>(w) q = MatMul(x, d) s = Add(r, q) y = Relu(s) }"
    )
    model = build(text, {"w": W, "b": B})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    made = options()
    made.optimized_model_filepath = str(tmp_path / "saved.onnx")
    first = plain(model, made)
    second = ort.InferenceSession(tmp_path / "saved.onnx", options(), providers=["CPUExecutionProvider"])
    for rows in (2, 0, 5):
        x = floats(rows, 5)
        np.testing.assert_array_equal(first.run(None, {"x": x})[0], second.run(None, {"x": x})[0])


def test_external_payloads(tmp_path: Path) -> None:
    """Payloads one after the other in a file: hardly any of them aligned."""
    text = "g (float[N,5] x) => (float[N,4] y) { a = ai.eie.Gemm(x, w, b) c = ai.eie.Gemm(a, v) y = ai.eie.Gemm(c, u) }"
    u, v = weight(4, 3), weight(3, 6)
    model = build(text, {"w": W, "b": B, "v": v, "u": u})
    file = tmp_path / "model.eie.onnx"
    onnx.save(model, file, save_as_external_data=True, location="data", size_threshold=0)
    x = floats(3, 5)
    want = (x @ W.dense().T + B) @ v.dense().T @ u.dense().T
    np.testing.assert_allclose(backend.create_session(file, 1, None).run(None, {"x": x})[0], want, rtol=1e-3, atol=1e-4)
    (coarse,) = backend.create_session(str(file), 1, "u8").run(None, {"x": x})
    assert not np.allclose(coarse, want, rtol=1e-6, atol=1e-7)
    (tmp_path / "data").unlink()
    with pytest.raises(ModelError):
        backend.create_session(file, 1, None)


def test_the_session_option_is_checked() -> None:
    for text in ("u9", "u8" * 40):
        made = ort.SessionOptions()
        made.add_session_config_entry(backend.OPTION, text)
        with pytest.raises(STATE.InvalidArgument, match="f32, i16 or u8"):
            made.register_custom_ops_library(custom_op_library())
    with pytest.raises(UserError, match="f32, i16, u8"):
        backend.create_session(build(GEMM, {"w": W, "b": B}).SerializeToString(), 1, "x" * 40)  # type: ignore[arg-type]


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_LIBRARY", "_nothing")
    with pytest.raises(UserError, match=r"missing.*C compiler"):
        custom_op_library()


def test_what_is_no_model() -> None:
    for model in (b"", b"nonsense", "/no/such/file.onnx"):
        with pytest.raises(EieError):
            backend.create_session(model, 1, None)


# -- shapes before running ---------------------------------------------------------------------------------------------


def test_onnx_runtime_knows_what_bias_and_kernel_tell() -> None:
    """Elsewhere every unknown dimension has a name of its own: equal names would let it plan equal memory."""
    text = (
        "g (float[N,4,7,V] x) => (float[] y, float[] z, float[] q) { y = ai.eie.Conv<kernel_shape=[3,3], strides=[2,2]>"
        "(x, w, b) z = ai.eie.Conv(x, w) q = ai.eie.Gemm(x, v) }"
    )
    model = build(text, {"w": weight(6, 4, 3, 3), "b": B, "v": weight(3, 6)})
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    shapes = [o.shape for o in plain(model).get_outputs()]
    if tuple(map(int, ort.__version__.split(".")[:2])) < (1, 24):
        assert shapes == [[], [], []]
        return
    assert shapes[0][:3] == ["N", 6, 3]
    assert shapes[1][0] == shapes[2][0] == "N"
    unknown = [shapes[0][3], *shapes[1][1:], shapes[2][3]]
    assert all(isinstance(d, str) for d in unknown)
    assert len({*unknown}) == len(unknown)


def inferred(text: str, constants: Constants, strict: bool = True) -> list[list[int | str]]:
    schema.register()
    schema.register()
    model = build(text, constants)
    onnx.checker.check_model(model)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict)
    return [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in found.graph.output]


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("in ")])
def test_onnx_infers_what_runs(name: str) -> None:
    c = CASES[name]
    shapes = inferred(c.text, c.constants)
    outputs = plain(build(c.text, c.constants)).run(None, c.feeds[0])
    for shape, output in zip(shapes, outputs, strict=True):
        assert len(shape) == output.ndim
        assert all(d == n for d, n in zip(shape, output.shape, strict=True) if isinstance(d, int))


@pytest.mark.parametrize(
    "text, want",
    [
        ("ai.eie.Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)", [2, 6, 4, 3]),
        ('ai.eie.Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)', [2, 6, 4, 3]),
        ('ai.eie.Conv<auto_pad="VALID", pads=[1,1,1,1], dilations=[2,1]>(x, w)', [2, 6, 3, 4]),
        ("ai.eie.ConvTranspose<strides=[2,3], pads=[1,0,0,1]>(x, v)", [2, 5, 14, 17]),
        ('ai.eie.ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, v)', [2, 5, 14, 12]),
        ("ai.eie.ConvTranspose<strides=[2,2], output_shape=[15,13]>(x, v)", [2, 5, 15, 13]),
    ],
)
def test_convolutions_are_as_large_as_inferred(text: str, want: list[int]) -> None:
    constants: Constants = {"w": weight(6, 4, 3, 3), "v": weight(4, 5, 3, 3)}
    graph = f"g (float[2,4,7,6] x) => (float[A,B,C,D] y) {{ y = {text} }}"
    assert inferred(graph, constants) == [want]
    assert list(plain(build(graph, constants)).run(None, {"x": floats(2, 4, 7, 6)})[0].shape) == want


def test_inference_leaves_open_what_does_not_fit() -> None:
    assert inferred(CONV, {"w": W}, False) == [[]]
    model = damaged(lambda raw: raw[:4])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    schema.register()
    found = onnx.shape_inference.infer_shapes(model)
    assert found.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_checker_knows_our_attributes() -> None:
    schema.register()
    model = build(GEMM, {"w": W, "b": B})
    model.graph.node[0].attribute.append(helper.make_attribute("speed", 3))
    with pytest.raises(onnx.checker.ValidationError, match="speed"):
        onnx.checker.check_model(model)


# -- the oldest ONNX Runtime -------------------------------------------------------------------------------------------

SCRIPT = """
import sys, numpy, onnxruntime
library, *names = sys.argv[1:]
for name in names:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(name + ".onnx", options, providers=["CPUExecutionProvider"])
    feeds = dict(numpy.load(name + ".npz"))
    numpy.savez(name + ".out.npz", *session.run(None, feeds))
"""


@pytest.mark.slow
def test_the_oldest_onnx_runtime(oldest_onnxruntime: Path, tmp_path: Path) -> None:
    names = []
    for i, c in enumerate(CASES.values()):
        names.append(str(tmp_path / str(i)))
        onnx.save(build(c.text, c.constants), names[-1] + ".onnx")
        np.savez(names[-1] + ".npz", **c.feeds[0])
    command = [str(oldest_onnxruntime), "-c", SCRIPT, custom_op_library(), *names]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    for name, c in zip(names, CASES.values(), strict=True):
        want = plain(build(c.standard, c.constants, dense=True)).run(None, c.feeds[0])
        with np.load(name + ".out.npz") as got:
            for k, value in enumerate(want):
                np.testing.assert_allclose(got[f"arr_{k}"], value, rtol=1e-4, atol=1e-5, err_msg=c.text)


def test_nothing_of_onnx_runtime_is_linked() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the library as an ELF file, as on Linux")
    content = Path(custom_op_library()).read_bytes()
    assert content[:4] == b"\x7fELF"
    assert b"libonnxruntime" not in content
    assert b"OrtGetApiBase" not in content
