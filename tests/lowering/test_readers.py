"""From a model to an artifact and to answers: every operator that reads a weight, in every form it may have.

The weights have few distinct values, so that sharing them is exact and the artifact's answers are the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from eie.compiler import Recipe, optimize
from eie.compiler.ir.writer import to_proto
from eie.compiler.report.result import Result
from eie.runtime import Session, schema

Array = npt.NDArray[Any]
RECIPE = Recipe.parse('passes = ["canonicalize", "cluster{bits=8}", "encode"]')
BACKENDS = ("reference", "cpu", "ort")
DOMAIN = "ai.eie"


def weights(*shape: int, dtype: Any = np.float32) -> Array:
    """A third zeros, the rest of 14 values."""
    rng = np.random.default_rng(sum(shape))
    steps = rng.integers(-7, 8, shape) * (rng.random(shape) < 0.7)
    return np.asarray(steps / 16, dtype)


def floats(*shape: int, dtype: Any = np.float32) -> Array:
    return np.asarray(np.random.default_rng(len(shape)).standard_normal(shape), dtype)


@dataclass(frozen=True)
class Case:
    """A model's text and constants, and the ``ai.eie`` operators its artifact should have."""

    text: str
    constants: Mapping[str, Array]
    wanted: Sequence[str]
    tolerance: float = 1e-5
    opset: int = 17
    feeds: Mapping[str, Array] = field(default_factory=dict)


def model_of(case: Case) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {case.opset}]> g {case.text}')
    for name, value in case.constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return proto


def feeds_of(proto: onnx.ModelProto, given: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    for info in proto.graph.input:
        kind = info.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        found[info.name] = np.asarray(given.get(info.name, floats(*(d.dim_value or 3 for d in kind.shape.dim))), dtype)
    return found


def operators(graph: onnx.GraphProto) -> list[str]:
    """The ``ai.eie`` operators, bodies included, in the order of the file."""
    found = []
    for node in graph.node:
        if node.domain == DOMAIN:
            found.append(node.op_type)
        for attribute in node.attribute:
            for body in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                found += operators(body)
    return found


def assert_same_answers(case: Case, proto: onnx.ModelProto | None = None) -> tuple[Result, onnx.ModelProto]:
    """Optimize, check the artifact, and compare the answers of all backends with the model's in ONNX Runtime."""
    proto = proto or model_of(case)
    feeds = feeds_of(proto, case.feeds)
    plain = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = plain.run(None, feeds)
    shapes = {name: list(value.shape) for name, value in feeds.items()}
    data = {name: value[None] for name, value in feeds.items()} if case.feeds else None
    result = optimize(proto, data, RECIPE, shapes=None if data else shapes)
    artifact = to_proto(result.model)
    schema.register()
    onnx.checker.check_model(artifact, full_check=True)
    assert sorted(operators(artifact.graph)) == sorted(case.wanted)
    assert [i.SerializeToString() for i in artifact.graph.input] == [i.SerializeToString() for i in proto.graph.input]
    content = artifact.SerializeToString()
    for backend in BACKENDS:
        got = Session(content, backend=backend).run(None, feeds)
        for mine, theirs, info in zip(got, expected, proto.graph.output, strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), (backend, info.name)
            np.testing.assert_allclose(
                mine.astype(np.float64), theirs.astype(np.float64), rtol=case.tolerance, atol=case.tolerance,
                err_msg=f"{backend}, {info.name}",
            )  # fmt: skip
    return result, artifact


W = weights(24, 32)
GEMM = {"w": W, "t": W.T.copy(), "b": floats(32)}


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("(float[N,24] x) => (float[N,32] y) { y = Gemm(x, w) }", ["Gemm"]),
        ("(float[N,24] x) => (float[N,32] y) { y = Gemm(x, w, b) }", ["Gemm"]),
        ("(float[N,24] x) => (float[N,32] y) { y = Gemm<transB=1>(x, t, b) }", ["Gemm"]),
        ("(float[24,N] x) => (float[N,32] y) { y = Gemm<transA=1>(x, w, b) }", ["Gemm"]),
        ("(float[24,N] x) => (float[N,32] y) { y = Gemm<transA=1, transB=1, beta=0.5>(x, t, b) }", ["Gemm"]),
        ("(float[N,24] x) => (float[N,32] y) { y = Gemm<beta=0.0>(x, w, b) }", ["Gemm"]),
        ("(float[N,24] x) => (float[N,32] y) { y = Gemm<alpha=0.5>(x, w, b) }", ["Decode"]),
        ("(float[N,24] x, float[32] c) => (float[N,32] y) { y = Gemm<beta=2.0>(x, w, c) }", ["Gemm"]),
        ("(float[N,24] x, float[3,32] c) => (float[N,32] y) { y = Gemm(x, w, c) }", ["Gemm"]),
        ("(float[N,24] x) => (float[N,32] y) { y = MatMul(x, w) }", ["Gemm"]),
        ("(float[24] x) => (float[32] y) { y = MatMul(x, w) }", ["Gemm"]),
        ("(float[2,N,24] x) => (float[2,N,32] y) { y = MatMul(x, w) }", ["Gemm"]),
        ("(float[2,2,N,24] x) => (float[2,2,N,32] y) { m = MatMul(x, w) y = Add(m, b) }", ["Gemm"]),
        ("(float[N,24] x) => (float[N,32] y) { m = MatMul(x, w) y = Add(m, b) }", ["Gemm"]),
        ("(float[32,N] x) => (float[24,N] y) { y = MatMul(w, x) }", ["Decode"]),
        ("(float[2,32,N] x) => (float[2,24,N] y) { y = MatMul(w, x) }", ["Decode"]),
        ('(float[N,24] x) => (float[N,32] y) { y = Einsum<equation="ni,io->no">(x, w) }', ["Decode"]),
        ("(float[N,24] x) => (float[N,32] y) { y = Gemm(x, w) z = Neg(w) }", ["Gemm"]),
        ("(float[N,24] x) => (float[N,32] y, float[24,32] z) { y = Gemm(x, w) z = Neg(w) }", ["Gemm", "Decode"]),
    ],
)
def test_matrices(text: str, wanted: Sequence[str]) -> None:
    assert_same_answers(
        Case(text, {k: v for k, v in GEMM.items() if f" {k}," in text or f" {k})" in text or f"({k}" in text}, wanted)
    )


@pytest.mark.parametrize("shape", [(), (1,), (32,), (1, 1), (1, 32), (3, 1), (3, 32)])
@pytest.mark.parametrize("beta", [1.0, -0.5])
def test_every_shape_of_c(shape: tuple[int, ...], beta: float) -> None:
    text = f"(float[3,24] x) => (float[3,32] y) {{ y = Gemm<beta={beta}>(x, w, c) }}"
    assert_same_answers(Case(text, {"w": W, "c": np.asarray(floats(*shape))}, ["Gemm"]))


def test_a_batch_of_matrices() -> None:
    assert_same_answers(
        Case("(float[2,N,24] x) => (float[2,N,32] y) { y = MatMul(x, w) }", {"w": weights(2, 24, 32)}, ["Decode"])
    )


@pytest.mark.parametrize(
    "shape, weight, operator, outputs",
    [
        ("N,8,12", (16, 8, 3), "Conv(x, w)", 3),
        ("N,8,12", (16, 8, 3), "Conv<pads=[2, 0], strides=[2], dilations=[2]>(x, w, b)", 3),
        ("N,8,9,9", (16, 8, 3, 3), "Conv<pads=[1, 1, 1, 1]>(x, w, b)", 4),
        ("N,8,9,9", (16, 8, 3, 3), 'Conv<auto_pad="SAME_UPPER", strides=[2, 2]>(x, w)', 4),
        ("N,8,9,9", (16, 8, 3, 3), 'Conv<auto_pad="SAME_LOWER", kernel_shape=[3, 3]>(x, w)', 4),
        ("N,16,9,9", (16, 4, 3, 3), "Conv<group=4>(x, w, b)", 4),
        ("N,16,9,9", (16, 1, 3, 3), "Conv<group=16, dilations=[2, 1]>(x, w, b)", 4),
        ("N,8,9,9", (16, 8, 1, 1), "Conv(x, w)", 4),
        ("N,4,5,6,5", (16, 4, 2, 3, 2), "Conv<pads=[1, 0, 0, 0, 1, 1]>(x, w)", 5),
        ("N,8,12", (8, 16, 3), "ConvTranspose<strides=[2]>(x, w)", 3),
        (
            "N,8,5,5",
            (8, 16, 3, 3),
            "ConvTranspose<strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]>(x, w, b)",
            4,
        ),
        ("N,8,5,5", (8, 8, 2, 2), "ConvTranspose<group=2, dilations=[2, 1]>(x, w, b)", 4),
    ],
)
def test_convolutions(shape: str, weight: tuple[int, ...], operator: str, outputs: int) -> None:
    dims = ",".join("ABCDE"[:outputs])
    constants = {"w": weights(*weight), **({"b": floats(16)} if "b)" in operator else {})}
    text = f"(float[{shape}] x) => (float[{dims}] y) {{ y = {operator} }}"
    assert_same_answers(Case(text, constants, [operator.split("<")[0].split("(")[0]], 1e-4))


def recurrent(
    op: str, attributes: str = "", *, inputs: str = "x, w, r, b", directions: int = 1, layout: int = 0
) -> Case:
    gates, hidden, wide = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 16, 12
    shape = "2,5" if layout else "5,2"
    text = f"(float[{shape},{wide}] x) => (float[A,B,C,D] y, float[E,F,G] h) {{ y, h = {op}<hidden_size={hidden}{attributes}>({inputs}) }}"
    constants = {
        "w": weights(directions, gates * hidden, wide),
        "r": weights(directions, gates * hidden, hidden),
        "b": floats(directions, gates * 2 * hidden) / 8,
        "n": np.int32([5, 3]),
        "s": floats(directions, 2, hidden),
        "c": floats(directions, 2, hidden) / 2,
        "p": floats(directions, 3 * hidden) / 4,
    }
    used = {name.strip() for name in inputs.split(",")}
    return Case(text, {k: v for k, v in constants.items() if k in used}, [op], 1e-4)


@pytest.mark.parametrize(
    "case",
    [
        recurrent("LSTM"),
        recurrent("LSTM", inputs="x, w, r"),
        recurrent("LSTM", ', direction="reverse"'),
        recurrent("LSTM", ', direction="bidirectional"', directions=2),
        recurrent("LSTM", inputs="x, w, r, b, n, s, c"),
        recurrent("LSTM", inputs="x, w, r, b, , s, c, p"),
        recurrent("LSTM", inputs="x, w, r, , , , , p"),
        recurrent("LSTM", ', activations=["Sigmoid", "Tanh", "Tanh"]'),
        recurrent("LSTM", ", clip=0.3"),
        recurrent("LSTM", ", input_forget=1"),
        recurrent("GRU"),
        recurrent("GRU", ", linear_before_reset=1"),
        recurrent("GRU", ', direction="bidirectional", linear_before_reset=1', directions=2),
        recurrent("GRU", inputs="x, w, r, b, n, s"),
        recurrent("GRU", ", clip=0.3"),
    ],
    ids=lambda c: c.text[c.text.index("=", 20) + 1 :],
)
def test_recurrent(case: Case) -> None:
    assert_same_answers(case)


@pytest.mark.parametrize(
    "case",
    [
        recurrent("LSTM", ', activations=["HardSigmoid", "Tanh", "Tanh"]'),
        recurrent("LSTM", ', activations=["Sigmoid", "Tanh", "Relu"]'),
        recurrent("GRU", ', activations=["Sigmoid", "Softsign"]'),
        recurrent("GRU", ', activations=["Affine", "Tanh"], activation_alpha=[0.5, 1.0], activation_beta=[0.1, 0.0]'),
        recurrent("RNN"),
        recurrent("RNN", ', activations=["Relu"]'),
    ],
    ids=lambda c: c.text[c.text.index("=", 20) + 1 :],
)
def test_recurrent_that_is_decoded(case: Case) -> None:
    assert_same_answers(Case(case.text, case.constants, ["Decode", "Decode"], 1e-4))


def test_half_of_a_recurrent_layer() -> None:
    """Where only one of the two weights is compressed, it is decoded."""
    case = recurrent("GRU")
    assert_same_answers(Case(case.text, {**case.constants, "r": floats(1, 48, 16)}, ["GRU"], 0.05))
    tiny = {"w": weights(1, 12, 12), "r": weights(1, 12, 4), "b": floats(1, 24)}  # r is too small
    assert_same_answers(Case(case.text.replace("hidden_size=16", "hidden_size=4"), tiny, ["Decode"]))


@pytest.mark.parametrize(
    "operator, dims, wanted",
    [
        ("Gather(w, i)", "2,3,16", "Gather"),
        ("Gather<axis=0>(w, i)", "2,3,16", "Gather"),
        ("Gather<axis=1>(w, i)", "40,2,3", "Decode"),
        ("Gather<axis=-1>(w, i)", "40,2,3", "Decode"),
    ],
)
@pytest.mark.parametrize("indices", ["int64", "int32"])
def test_tables(operator: str, dims: str, wanted: str, indices: str) -> None:
    feeds = {"i": np.array([[0, 3, -1], [5, -16, 15]])}
    assert_same_answers(
        Case(
            f"({indices}[2,3] i) => (float[{dims}] y) {{ y = {operator} }}",
            {"w": weights(40, 16)},
            [wanted],
            feeds=feeds,
        )
    )


def test_a_table_of_images() -> None:
    feeds = {"i": np.array([1, 0])}
    assert_same_answers(
        Case(
            "(int64[2] i) => (float[2,4,5,6] y) { y = Gather(w, i) }",
            {"w": weights(10, 4, 5, 6)},
            ["Gather"],
            feeds=feeds,
        )
    )


# -- shared weights ------------------------------------------------------------------------------------------------------------------


def test_a_weight_of_two_operators_is_one_payload() -> None:
    result, artifact = assert_same_answers(
        Case(
            "(float[N,24] x) => (float[N,24] y) { a = MatMul(x, w) y = MatMul(a, w) }",
            {"w": weights(24, 24)},
            ["Gemm", "Gemm"],
        )
    )
    assert len(result.layers) == 1
    assert len(artifact.graph.initializer) == 1


def test_a_weight_in_two_orientations() -> None:
    """The first reader has its form; the other, that would need the transpose, decodes."""
    text = "(float[N,24] x) => (float[N,24] y) { a = MatMul(x, w) y = Gemm<transB=1>(a, w) }"
    _, artifact = assert_same_answers(Case(text, {"w": weights(24, 24)}, ["Gemm", "Decode"]))
    assert len(artifact.graph.initializer) == 1


def test_a_table_that_is_the_output_matrix_too() -> None:
    """Language models tie their embedding to their last layer."""
    feeds = {"i": np.array([3, 1, 39])}
    text = "(int64[3] i) => (float[3,40] y) { e = Gather(w, i) y = Gemm<transB=1>(e, w) }"
    assert_same_answers(Case(text, {"w": weights(40, 24)}, ["Gather", "Gemm"], feeds=feeds))
    text = "(int64[3] i) => (float[3,40] y) { e = Gather(w, i) t = Transpose<perm=[1, 0]>(w) y = MatMul(e, t) }"
    assert_same_answers(Case(text, {"w": weights(40, 24)}, ["Gather", "Gemm"], feeds=feeds))


def test_equal_weights_become_one_payload() -> None:
    text = "(float[N,24] x) => (float[N,24] y) { a = MatMul(x, w) y = MatMul(a, v) }"
    _, artifact = assert_same_answers(Case(text, {"w": weights(24, 24), "v": weights(24, 24)}, ["Gemm", "Gemm"]))
    assert len(artifact.graph.initializer) == 1


def test_a_weight_on_both_sides() -> None:
    assert_same_answers(
        Case(
            "(float[24,24] x) => (float[24,24] y) { m = MatMul(w, w) y = MatMul(m, x) }",
            {"w": weights(24, 24)},
            ["Decode"],
        )
    )
    constants = {"w": weights(24, 24), "v": weights(24, 32)}
    text = "(float[N,32] x) => (float[24,32] y) { m = MatMul(w, v) s = ReduceSum<keepdims=0>(x) y = Add(m, s) }"
    assert_same_answers(Case(text, constants, ["Gemm", "Decode"]))


def test_a_weight_that_reads_through_two_bodies_and_outside() -> None:
    text = """(float[N,24] x, bool c) => (float[N,24] y) { a = MatMul(x, w)
        y = If(c) <then_branch = yes () => (float[N,24] p) { p = MatMul(a, w) },
                   else_branch = no () => (float[N,24] q) { t = Abs(w) q = MatMul(a, t) }> }"""
    for go in (True, False):
        feeds = {"c": np.array(go), "x": floats(3, 24)}
        assert_same_answers(Case(text, {"w": weights(24, 24)}, ["Gemm", "Gemm", "Decode"], feeds=feeds))


# -- bodies ----------------------------------------------------------------------------------------------------------------------------

BODIES = {
    "If": """(float[N,24] x, bool c) => (float[N,24] y) {
        y = If(c) <then_branch = yes () => (float[N,24] p) { p = Gemm(x, w, b) },
                   else_branch = no () => (float[N,24] q) { q = MatMul(x, v) }> }""",
    "Loop": """(float[3,24] x, bool c) => (float[3,24] y) { n = Constant<value_int=3>()
        y = Loop(n, c, x) <body = step (int64 i, bool go, float[3,24] s) => (bool go2, float[3,24] s2) {
            go2 = Identity(go) m = Gemm(s, w, b) t = Tanh(m) d = MatMul(t, v) s2 = Add(d, x) }> }""",
    "Scan": """(float[4,3,24] x, float[3,24] h) => (float[3,24] y, float[4,3,24] ys) {
        y, ys = Scan<num_scan_inputs=1, body = step (float[3,24] s, float[3,24] e) => (float[3,24] s2, float[3,24] o) {
            m = Gemm(e, w, b) k = MatMul(s, v) t = Add(m, k) s2 = Tanh(t) o = Identity(s2) }>(h, x) }""",
}  # fmt: skip


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("inside", [False, True])
def test_bodies(kind: str, inside: bool) -> None:
    """The weights stand outside, or as Constant nodes in the body."""
    constants = {"w": weights(24, 24), "b": floats(24), "v": weights(24, 24)[:, ::-1].copy()}
    feeds = {"c": np.array(True), "x": floats(4, 3, 24) if kind == "Scan" else floats(3, 24)}
    case = Case(BODIES[kind], constants, ["Gemm", "Gemm"], 1e-4, feeds=feeds)
    proto = model_of(case)
    if inside:
        body = next(a.g for n in proto.graph.node for a in n.attribute if a.HasField("g"))
        for node in body.node:
            node.input[:] = ["inner" if t == "w" else t for t in node.input]
        written = helper.make_node("Constant", [], ["inner"], value=numpy_helper.from_array(constants["w"]))
        body.node.insert(0, written)
    assert_same_answers(case, proto)


# -- half precision ----------------------------------------------------------------------------------------------------------------------

HALF = np.float16


@pytest.mark.parametrize(
    "text, constants, wanted",
    [
        ("(T[N,24] x) => (T[N,32] y) { y = Gemm(x, w, b) }", {"w": (24, 32), "b": (32,)}, ["Gemm"]),
        ("(T[N,24] x) => (T[N,32] y) { y = Gemm<beta=0.5>(x, w, b) }", {"w": (24, 32), "b": (3, 1)}, ["Gemm"]),
        ("(T[2,N,24] x) => (T[2,N,32] y) { y = MatMul(x, w) }", {"w": (24, 32)}, ["Gemm"]),
        ("(T[32,N] x) => (T[24,N] y) { y = MatMul(w, x) }", {"w": (24, 32)}, ["Decode"]),
        ("(T[N,8,9] x) => (T[N,16,7] y) { y = Conv(x, w, b) }", {"w": (16, 8, 3), "b": (16,)}, ["Conv"]),
        ("(T[N,8,9] x) => (T[N,16,11] y) { y = ConvTranspose(x, w) }", {"w": (8, 16, 3)}, ["ConvTranspose"]),
        ("(T[N,24] x) => (T[N,32] y) { a = MatMul(x, w) y = Add(a, b) }", {"w": (24, 32), "b": (32,)}, ["Gemm"]),
        ("(T[N,24] x) => (T[N,24] y) { a = MatMul(x, w) y = Gemm<transB=1>(a, w) }", {"w": (24, 24)}, ["Gemm", "Decode"]),
    ],
)  # fmt: skip
def test_float16(text: str, constants: Mapping[str, tuple[int, ...]], wanted: Sequence[str]) -> None:
    made = {n: weights(*s, dtype=HALF) if n == "w" else floats(*s, dtype=HALF) for n, s in constants.items()}
    assert_same_answers(Case(text.replace("T[", "float16["), made, wanted, 2e-2))


def test_float16_recurrent_table_and_body() -> None:
    feeds = {"i": np.array([[0, 3, -1], [5, -16, 15]])}
    assert_same_answers(
        Case(
            "(int64[2,3] i) => (float16[2,3,16] y) { y = Gather(w, i) }",
            {"w": weights(40, 16, dtype=HALF)},
            ["Gather"],
            feeds=feeds,
        )
    )
    text = """(float16[N,24] x, bool c) => (float16[N,24] y) {
        y = If(c) <then_branch = yes () => (float16[N,24] p) { p = Gemm(x, w, b) },
                   else_branch = no () => (float16[N,24] q) { q = MatMul(x, w) }> }"""
    constants = {"w": weights(24, 24, dtype=HALF), "b": floats(24, dtype=HALF)}
    for go in (True, False):
        assert_same_answers(
            Case(text, constants, ["Gemm", "Gemm"], 2e-2, feeds={"c": np.array(go), "x": floats(3, 24, dtype=HALF)})
        )


def test_bfloat16() -> None:
    """ONNX Runtime has few kernels for it: the weight is cast before it is used, as exporters of mixed models have it."""
    kind = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
    text = "(float[N,24] x) => (float[N,32] y) { c = Cast<to=1>(w) y = MatMul(x, c) }"
    assert_same_answers(Case(text, {"w": weights(24, 32).astype(kind)}, ["Gemm"]))


# -- what is given up ----------------------------------------------------------------------------------------------------------------------


def test_a_payload_that_would_be_larger_is_not_made() -> None:
    result, artifact = assert_same_answers(
        Case("(float[N,8] x) => (float[N,9] y) { y = MatMul(x, w) }", {"w": floats(8, 9)}, [])
    )
    assert not result.layers
    assert any("its payload would take" in item.why for item in result.left_alone)
    assert artifact.graph.initializer[0].data_type == onnx.TensorProto.FLOAT
    assert all(o.domain != DOMAIN for o in artifact.opset_import)


PATTERNS = ["ternarize{ends=too}", "sparsify{density=0.2},cluster{bits=3}", "sparsify{pattern=2:4},cluster{bits=4}"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("codec", ["raw", "huffman", "context", "auto"])
@pytest.mark.parametrize("sign", [0, 1])
def test_passes_and_codecs(pattern: str, codec: str, sign: int) -> None:
    """What the passes made is what the artifact computes, whatever stores it; weights of one sign included."""
    dense = floats(48, 64)
    proto = model_of(
        Case("(float[N,48] x) => (float[N,64] y) { y = MatMul(x, w) }", {"w": np.abs(dense) if sign else dense}, [])
    )
    names = ", ".join(f'"{p}"' for p in [*pattern.replace("},", "}|").split("|"), f"encode{{codec={codec}}}"])
    result = optimize(proto, recipe=Recipe.parse(f"passes = [{names}]"))
    (row,) = result.layers
    content = to_proto(result.model).SerializeToString()
    x = floats(3, 48)
    outputs = [Session(content, backend=b).run(None, {"x": x})[0] for b in BACKENDS]
    for got in outputs[1:]:
        np.testing.assert_allclose(got, outputs[0], rtol=1e-5, atol=1e-5)
    assert row.bytes_after < row.bytes_before
