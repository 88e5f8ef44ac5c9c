"""Models that can't run, and those that ask for too much: each a clear error, soon."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from artifacts import AllDense, OneByOne, assert_same, compress, execute, f32, model, ort
from eie.compiler import optimize
from eie.runtime import Session
from eie.runtime.backends.ort import create_session
from eie.runtime.errors import FormatError, InputError, ModelError, UserError
from eie.runtime.operators import DOMAIN


def artifact_of(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    _, artifact = compress(
        model("g (float[N,4] x) => (float[N,4] y) { a = Neg(x) h = MatMul(a, w) y = Relu(h) }", w=f32(4, 4))
    )
    change(artifact)
    return artifact


def test_a_failing_segment_names_its_node() -> None:
    text = "g (float[N,4] x, float[M,4] z) => (float[N,4] y) { h = MatMul(x, w) y = Add(h, z) }"
    _, artifact = compress(model(text, w=f32(4, 4)))
    artifact.graph.node[1].name = "the sum"
    executor = execute(artifact)
    with pytest.raises(InputError, match="the sum"):
        executor.program.run({"x": f32(3, 4), "z": f32(2, 4)})


def test_unknown_operator_names_its_node() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.node[0].op_type, m.graph.node[0].name = "Nagg", "first"

    with pytest.raises(ModelError, match="first"):
        execute(artifact_of(change))


def test_a_tensor_nobody_writes() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.node[0].input[0] = "nowhere"

    with pytest.raises(ModelError, match="nowhere"):
        execute(artifact_of(change))


def test_a_written_initializer() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.initializer.append(numpy_helper.from_array(f32(4), "h"))

    with pytest.raises(ModelError, match="initializer, and written"):
        execute(artifact_of(change))


def test_a_function_that_calls_itself() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.opset_import.append(helper.make_opsetid("my", 1))
        f = m.functions.add(name="f", domain="my", input=["p", "w"], output=["q"])
        f.opset_import.extend([helper.make_opsetid(DOMAIN, 1), helper.make_opsetid("my", 1)])
        f.node.append(helper.make_node("Gemm", ["p", "w"], ["r"], domain=DOMAIN))
        f.node.append(helper.make_node("f", ["r", "w"], ["q"], domain="my"))
        m.graph.node[1].domain, m.graph.node[1].op_type = "my", "f"

    with pytest.raises(ModelError, match="calls itself"):
        execute(artifact_of(change))


def test_a_cycle() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.node[0].input[0] = "y"

    with pytest.raises(ModelError, match="cycle"):
        execute(artifact_of(change))


# -- what asks for too much --------------------------------------------------------------------------------------------


def calls_twice(levels: int) -> onnx.ModelProto:
    """Functions that each call the next one twice: 2^levels nodes once inlined, in a few hundred bytes."""
    m = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    m.opset_import.append(helper.make_opsetid("my", 1))
    for i in range(levels):
        f = m.functions.add(name=f"f{i}", domain="my", input=["p"], output=["q"])
        f.opset_import.extend([helper.make_opsetid("", 17), helper.make_opsetid("my", 1)])
        inner = {"domain": "my"} if i + 1 < levels else {}
        op = f"f{i + 1}" if inner else "Neg"
        f.node.append(helper.make_node(op, ["p"], ["r"], **inner))
        f.node.append(helper.make_node(op, ["r"], ["q"], **inner))
    m.graph.node[0].domain, m.graph.node[0].op_type = "my", "f0"
    return m


def test_functions_that_come_to_billions_of_nodes() -> None:
    with pytest.raises(ModelError, match=r"functions come to .* nodes"):
        Session(calls_twice(30).SerializeToString())
    with pytest.raises(ModelError, match=r"functions come to .* nodes"):
        optimize(calls_twice(30))
    x = np.float32([1, -2])
    np.testing.assert_array_equal(Session(calls_twice(4).SerializeToString()).run(None, {"x": x})[0], x)


def test_functions_that_call_each_other() -> None:
    m = calls_twice(3)
    m.functions[2].node[1].domain, m.functions[2].node[1].op_type = "my", "f1"
    with pytest.raises(ModelError, match="calls itself"):
        optimize(m)


CONV = "g (float[1,2,N] x) => (float[1,A,B] y) { a = Neg(x) h = Conv<ATTRIBUTES>(a, w) y = Neg(h) }"


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    "attributes",
    ["pads=[2147483647, 2147483647]", "strides=[2147483647]", "pads=[2000000000, 0], dilations=[1000000000]"],
)
def test_a_convolution_of_any_attributes_is_computed_or_refused(operator: str, attributes: str) -> None:
    text = CONV.replace("Conv<", f"{operator}<").replace("ATTRIBUTES", attributes)
    _, artifact = compress(model(text, w=f32(2, 2, 3)))
    answers = []
    for backend in ("reference", "cpu", "ort"):
        try:
            answers.append(Session(artifact.SerializeToString(), backend).run(None, {"x": f32(1, 2, 9)})[0])
        except (FormatError, InputError, ModelError):
            continue
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu", "ort"])
def test_absurd_strides_leave_one_place(backend: str) -> None:
    text = CONV.replace("ATTRIBUTES", "strides=[65536]")
    dense, artifact = compress(model(text, w=f32(2, 2, 3)))
    x = f32(1, 2, 9)
    got = Session(artifact.SerializeToString(), backend).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, ort(dense).run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)


LSTM = "g (float[T,N,3] x) => (float[T,1,N,4] y) { y = LSTM<hidden_size=4>(x, w, r) }"


@pytest.mark.parametrize("backend", ["reference", "cpu", "ort"])
def test_an_empty_batch_ends_no_program(backend: str) -> None:
    """ONNX Runtime's own LSTM does that; where a layer is settled as one, the batch is refused instead."""
    dense, artifact = compress(model(LSTM, w=f32(1, 16, 3), r=f32(1, 16, 4)))
    x = np.zeros((2, 0, 3), np.float32)
    session = Session(artifact.SerializeToString(), backend)
    if "dense" in {layer.kernel for layer in session.layers()}:
        with pytest.raises(InputError, match="is empty"):
            session.run(None, {"x": x})
    else:
        assert session.run(None, {"x": x})[0].shape == (2, 1, 0, 4)
    with pytest.raises(InputError, match="is empty"):
        Session(dense.SerializeToString()).run(None, {"x": x})


def test_an_empty_batch_that_is_declared_ends_no_program() -> None:
    text = LSTM.replace("T,N,3", "2,0,3").replace("T,1,N,4", "2,1,0,4")
    with pytest.raises(UserError, match="is empty"):
        optimize(model(text, w=f32(1, 16, 3), r=f32(1, 16, 4)))
    folded = model("g () => (float[2,1,0,4] y) { y = LSTM<hidden_size=4>(x, w, r) }",
                   x=np.zeros((2, 0, 3), np.float32), w=f32(1, 16, 3), r=f32(1, 16, 4))  # fmt: skip
    with pytest.raises(InputError, match="is empty"):
        execute(compress(folded)[1], AllDense())


def test_a_clip_of_zero_is_none() -> None:
    dense, artifact = compress(model(LSTM, w=f32(1, 16, 3), r=f32(1, 16, 4)))
    artifact.graph.node[0].attribute.append(helper.make_attribute("clip", 0.0))
    x = f32(5, 2, 3)
    expected = ort(dense).run(None, {"x": x})[0]
    for backend in ("reference", "cpu", "ort"):
        got = Session(artifact.SerializeToString(), backend).run(None, {"x": x})[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    executor = execute(artifact, AllDense())
    np.testing.assert_allclose(executor.program.run({"x": x})[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu", "ort"])
def test_attributes_that_are_given_twice_or_mean_nothing(backend: str) -> None:
    _, artifact = compress(model(LSTM, w=f32(1, 16, 3), r=f32(1, 16, 4)))
    artifact.graph.node[0].attribute.append(helper.make_attribute("hidden_size", 4))
    with pytest.raises(FormatError, match="twice"):
        Session(artifact.SerializeToString(), backend)
    del artifact.graph.node[0].attribute[:]
    artifact.graph.node[0].attribute.append(helper.make_attribute("hidden_size", -1))
    with pytest.raises(FormatError, match="hidden_size is -1"):
        Session(artifact.SerializeToString(), backend)
    with pytest.raises(FormatError, match="hidden_size is -1"):
        create_session(artifact.SerializeToString())


LOOP = """g (float[N,4] x, int64 n, bool c) => (float[N,4] y, float[N,4] x, float[3,4] k, float[P,4] h) {
    y = Loop (n, c, x) <body = b (int64 i, bool ci, float[N,4] s) => (bool co, float[N,4] so) { co = Identity(ci) so = MatMul(s, w) }>
    h = If (c) <
        then_branch = t () => (float[N,4] p) { p = MatMul(x, w) },
        else_branch = e () => (float[3,4] q) { q = Constant<value = float[3,4] {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> () }> }"""


@pytest.mark.parametrize("c", [False, True])
@pytest.mark.parametrize("trips", [0, 2])
@pytest.mark.parametrize("backend", ["one by one", "reference", "cpu", "ort"])
def test_who_writes_to_outputs_changes_nothing_else(backend: str, trips: int, c: bool) -> None:
    dense, artifact = compress(model(LOOP, w=f32(4, 4), k=f32(3, 4, seed=1)))
    session = Session(artifact.SerializeToString(), OneByOne() if backend == "one by one" else backend)
    feeds = {"x": f32(3, 4), "n": np.array(trips), "c": np.array(c)}
    expected = ort(dense).run(None, feeds)
    for _ in range(2):
        given = session.run(None, feeds)
        assert_same(given, expected)
        for output in given:
            output[...] = 99
    np.testing.assert_array_equal(feeds["x"], f32(3, 4))


@pytest.mark.parametrize("backend", ["reference", "cpu", "ort"])
def test_the_other_order_of_bytes_is_refused(backend: str) -> None:
    dense, artifact = compress(model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=f32(4, 4)))
    for held in (dense, artifact):
        session = Session(held.SerializeToString(), backend)
        with pytest.raises(InputError, match=r"expected tensor\(float\), got an array of >f4"):
            session.run(None, {"x": f32(3, 4).astype(">f4")})
