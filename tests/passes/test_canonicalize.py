"""Canonicalize: each rule where it applies, where it must not, and that the model's answers stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from eie.compiler.ir.graph import Graph, Model
from eie.compiler.ir.printer import to_text
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import verify
from eie.compiler.ir.writer import to_proto
from eie.compiler.passes.canonicalize import Canonicalize

Array = npt.NDArray[Any]
RNG = np.random.default_rng(11)


def floats(*shape: int, dtype: Any = np.float32) -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def positive(*shape: int) -> Array:
    return np.asarray(RNG.uniform(0.5, 2, shape), np.float32)


def model(text: str, constants: Mapping[str, Array] | None = None, *, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {text}')
    for name, value in (constants or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return proto


def answers(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})]


def feeds_of(proto: onnx.ModelProto) -> dict[str, Array]:
    """An input for each, open dimensions being 2."""
    held = {t.name for t in proto.graph.initializer}
    made = {}
    for info in proto.graph.input:
        if info.name not in held:
            kind = info.type.tensor_type
            shape = [d.dim_value or 2 for d in kind.shape.dim]
            values = np.random.default_rng(1).standard_normal(shape)
            made[info.name] = np.asarray(
                values > 0 if kind.elem_type == 9 else values, helper.tensor_dtype_to_np_dtype(kind.elem_type)
            )
    return made


def run(proto: onnx.ModelProto, *, tolerance: float = 1e-5) -> Model:
    """The canonical model, checked: valid, the same answers, ``changed`` says the truth, and a second run changes nothing."""
    found = read(proto)
    before = to_proto(found).SerializeToString(deterministic=True)
    outcome = Canonicalize().run(found)
    verify(found)
    after = to_proto(found)
    onnx.checker.check_model(after, full_check=True)
    assert outcome.changed == (after.SerializeToString(deterministic=True) != before)
    feeds = feeds_of(proto)
    for old, new in zip(answers(proto, feeds), answers(after, feeds), strict=True):
        np.testing.assert_allclose(new.astype(np.float64), old.astype(np.float64), rtol=tolerance, atol=tolerance)
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
    assert [o.name for o in after.graph.output] == [o.name for o in proto.graph.output]
    text = to_text(found)
    assert not Canonicalize().run(found).changed
    assert to_text(found) == text
    assert to_proto(found) == after
    return found


def assert_unchanged(proto: onnx.ModelProto) -> None:
    found = run(proto)
    again = read(proto)
    assert to_text(found) == to_text(again)


def ops(found: Model | Graph) -> list[str]:
    return [n.op for n in (found.graph if isinstance(found, Model) else found).nodes]


def assert_becomes(found: Model, text: str) -> None:
    """The operators, written as ONNX text, names included."""
    expected = parser.parse_graph(text)
    got = [(n.op, n.inputs, n.outputs) for n in found.graph.nodes]
    assert got == [(n.op_type, list(n.input), list(n.output)) for n in expected.node]


# -- initializers and constants ------------------------------------------------------------------------------------------------


def test_initializers_stop_being_inputs() -> None:
    found = run(
        model(
            "g (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }", {"w": floats(4, 3)}, ir=3, opset=13
        )
    )
    assert [i.name for i in found.graph.inputs] == ["x"]
    assert found.ir_version == 4  # of which on initializers need not be inputs


def test_constant_nodes_become_constants() -> None:
    found = run(
        model(
            """g (float[2] x) => (float[2] y) {
            a = Constant<value = float[2] {1, 2}>() b = Constant<value_float = 1.5>() c = Constant<value_floats = [1.0, 2.0]>()
            i = Constant<value_int = 0>() j = Constant<value_ints = [0, 1]>()
            d = Add(x, a) e = Mul(d, b) f = Sub(e, c) h = Gather(f, j) k = Unsqueeze(h, l) l = Constant<value_ints=[0]>()
            m = Gather(k, i) y = Identity(m) }"""
        )
    )
    assert ops(found) == ["Add", "Mul", "Sub", "Gather", "Unsqueeze", "Gather"]
    kinds = {n: (c.array().dtype, c.dims) for n, c in found.graph.constants.items()}
    assert kinds["a"] == (np.float32, (2,)) and kinds["b"] == (np.float32, ()) and kinds["c"] == (np.float32, (2,))
    assert kinds["i"] == (np.int64, ()) and kinds["j"] == (np.int64, (2,))


def test_constants_of_strings_and_sparse_ones_stay_operators() -> None:
    proto = model('g () => (string[4] y) { a = Constant<value_strings = ["s", "t"]>() y = Concat<axis=0>(a, a) }')
    assert not Canonicalize().run(read(proto)).changed
    assert_unchanged(model("g () => (float y) { y = Constant<value_float = 1.5>() }"))  # it is an output
    proto = model("g () => (float[9] y) { y = Neg(s) }")
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(floats(2), "v"), helper.make_tensor("i", onnx.TensorProto.INT64, [2], [0, 5]), [9]
    )
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    found = read(proto)
    assert not Canonicalize().run(found).changed


def test_a_weight_is_seen_through_what_moves_it() -> None:
    found = run(
        model(
            """g (float[N,8] x) => (float[N,12] y) {
            k = Constant<value_ints = [8, 12]>() a = Transpose(w) b = Reshape(a, k) c = Mul(b, two) y = MatMul(x, c) }""",
            {"w": floats(6, 16), "two": np.float32([2])},
        )
    )
    assert_becomes(found, "g (float[N,8] x) => (float[N,12] y) { y = MatMul(x, c) }")
    assert list(found.graph.constants) == ["c"]
    assert found.graph.constants["c"].dims == (8, 12)


@pytest.mark.parametrize("opset", [10, 13, 19, 21])
@pytest.mark.parametrize("between", ["y = MatMul(x, d)", "t = Transpose(d) y = Gemm<transB=1>(x, t, k)"])
def test_weights_are_dequantized(opset: int, between: str) -> None:
    text = f"g (float[N,8] x) => (float[N,8] y) {{ d = DequantizeLinear(q, s, z) {between} }}"
    constants = {
        "q": RNG.integers(-99, 99, (8, 8)).astype(np.int8),
        "s": np.float32(0.02),
        "z": np.int8(3),
        "k": np.zeros(8, np.float32),
    }
    found = run(model(text, constants, opset=opset))
    assert ops(found) == [between.split("= ")[-1].split("(")[0].split("<")[0]]
    assert all(c.array().dtype == np.float32 for c in found.graph.constants.values())


def test_weights_are_dequantized_by_channel() -> None:
    found = run(
        model(
            "g (float[1,2,6] x) => (float[1,4,4] y) { d = DequantizeLinear<axis=0>(q, s, z) y = Conv<kernel_shape=[3]>(x, d) }",
            {"q": RNG.integers(0, 255, (4, 2, 3)).astype(np.uint8), "s": positive(4), "z": np.uint8([1, 2, 3, 4])},
            opset=13,
        )
    )
    assert ops(found) == ["Conv"]


def test_integers_that_are_no_weights_stay_integers() -> None:
    q = RNG.integers(-99, 99, (8, 8)).astype(np.int8)
    constants = {"q": q, "s": np.float32(0.02)}
    assert_unchanged(
        model("g (float[8,8] x) => (float[8,8] y) { d = DequantizeLinear(q, s) y = Add(x, d) }", constants)
    )
    assert_unchanged(
        model(
            "g (float[8,8] x) => (float[8,8] y) { d = DequantizeLinear(q, s) m = MatMul(x, d) y = Add(m, d) }",
            constants,
        )
    )


def test_an_expression_that_grows_stays_an_expression() -> None:
    constants = {"a": floats(2000, 1), "b": floats(1, 1000)}
    assert_unchanged(model("g (float[2000,1000] x) => (float[2000,1000] y) { m = Add(a, b) y = Mul(x, m) }", constants))
    assert_unchanged(model("g (float[N] x) => (float[N] y) { m = Gather(a, i) s = ReduceSum<keepdims=0>(m) y = Add(x, s) }",
                    {"a": floats(2, 500), "i": np.zeros((70,), np.int64)}))  # fmt: skip


def test_an_expression_that_would_take_all_memory_is_not_tried() -> None:
    constants = {"a": np.zeros((1 << 20, 1), np.int8), "b": np.zeros((1, 1 << 20), np.int8)}
    found = read(model("g () => (int64[2] y) { m = Add(a, b) y = Shape(m) }", constants))  # 2^40 elements
    assert not Canonicalize().run(found).changed
    constants = {"a": np.zeros((1, 1 << 20), np.int8), "i": np.zeros(1 << 20, np.int8).astype(np.int64)}
    found = read(model("g () => (int64[2] y) { m = Gather(a, i) y = Shape(m) }", constants))
    assert not Canonicalize().run(found).changed


def test_an_expression_that_is_wrong_stays_for_onnx_runtime_to_complain() -> None:
    found = read(
        model(
            "g (float[2] x) => (float[2] y) { a = Reshape(w, k) b = Slice(w, k, k, k) c = Add(w, v) d = Gather(w, k) y = Add(x, a) }",
            {"w": floats(4), "v": floats(3), "k": np.int64([3, 9])},
        )
    )
    assert not Canonicalize().run(found).changed


def test_strings_are_not_computed() -> None:
    proto = model("g () => (string[1] y) { y = Identity(s) }")
    proto.graph.initializer.append(helper.make_tensor("s", onnx.TensorProto.STRING, [1], [b"s"]))
    assert not Canonicalize().run(read(proto)).changed


def test_equal_constants_become_one() -> None:
    w = floats(8, 8)
    found = run(
        model(
            "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = MatMul(a, v) c = MatMul(b, u) y = MatMul(c, t) }",
            {"w": w, "v": w.copy(), "u": w.T.copy(), "t": w.reshape(8, 8) + 1},
        )
    )
    assert sorted(found.graph.constants) == ["t", "u", "w"]


def test_constants_that_only_look_equal_stay() -> None:
    zeros = np.zeros((8, 8), np.float32)
    text = "g (float[8,8] x) => (float[8,8] y, float[64] z) { a = Add(x, w) b = Reshape(a, k) z = Add(b, v) y = Mul(x, u) }"
    assert_unchanged(model(text, {"w": zeros, "v": zeros.reshape(64), "u": -zeros, "k": np.int64([64])}))


def test_equal_constants_of_two_bodies_move_out() -> None:
    w = floats(8, 8)
    proto = model(
        """g (float[N,8] x, bool c) => (float[N,8] y) {
        y = If (c) <then_branch = yes () => (float[N,8] p) { p = MatMul(x, u) },
                    else_branch = no () => (float[N,8] q) { n = Neg(x) q = MatMul(n, u) }> }"""
    )
    for attribute in proto.graph.node[0].attribute:
        attribute.g.initializer.append(numpy_helper.from_array(w, "u"))
    found = run(proto)
    assert list(found.graph.constants) == ["u_1"]
    assert not any(b.constants for bs in found.graph.nodes[0].bodies.values() for b in bs)


def test_a_constant_that_is_an_output_stays() -> None:
    w = floats(8, 8)
    found = run(
        model(
            "g (float[N,8] x) => (float[N,8] y, float[8,8] w) { a = MatMul(x, v) y = MatMul(a, w) }",
            {"w": w, "v": w.copy()},
        )
    )
    assert sorted(found.graph.constants) == ["v", "w"]


# -- operators that do nothing ---------------------------------------------------------------------------------------------------


def test_identity_goes() -> None:
    found = run(model("g (float[4] x) => (float[4] y) { a = Identity(x) b = Neg(a) c = Identity(b) y = Identity(c) }"))
    assert_becomes(found, "g (float[4] x) => (float[4] y) { y = Neg(x) }")
    assert_unchanged(model("g (float[4] x) => (float[4] y) { y = Identity(x) }"))
    assert_unchanged(model("g (float[4] x) => (float[4] a, float[4] y) { a = Neg(x) y = Identity(a) }"))


@pytest.mark.parametrize(
    "text, constants, opset",
    [
        ("d = Dropout<ratio=0.4>(a)", {}, 7),
        ("d = Dropout(a)", {}, 13),
        ("d, m = Dropout(a)", {}, 13),
        ("d = Dropout(a, r)", {"r": np.float32(0.9)}, 13),
        ("d = Dropout(a, r, t)", {"r": np.float32(0.9), "t": np.bool_(False)}, 13),
        ("d = Dropout(a, , t)", {"t": np.bool_(False)}, 13),
    ],
)
def test_dropout_goes(text: str, constants: dict[str, Array], opset: int) -> None:
    found = run(
        model(
            f"g (float[4] x) => (float[4] y) {{ a = Neg(x) {text} y = Abs(d) }}",
            {k: np.asarray(v) for k, v in constants.items()},
            opset=opset,
        )
    )
    assert_becomes(found, "g (float[4] x) => (float[4] y) { a = Neg(x) y = Abs(a) }")


def test_dropout_whose_mask_is_read_stays() -> None:
    assert_unchanged(model("g (float[4] x) => (float[4] y) { d, m = Dropout(x) n = Cast<to=1>(m) y = Add(d, n) }"))
    assert_unchanged(model("g (float[4] x) => (float[4] y, bool[4] m) { d, m = Dropout(x) y = Neg(d) }"))
    assert_unchanged(
        model(
            """g (float[4] x, bool c) => (float[4] y) { d, m = Dropout(x) e = Neg(d)
            y = If (c) <then_branch = yes () => (float[4] p) { p = Cast<to=1>(m) }, else_branch = no () => (float[4] q) { q = Abs(e) }> }"""
        )
    )


def test_dropout_in_training_stays() -> None:
    for constants in ({"t": np.asarray(True)}, {}):
        given = "" if constants else ", bool t"
        found = read(model(f"g (float[4] x{given}) => (float[4] y) {{ d = Dropout(x, , t) y = Neg(d) }}", constants))
        assert not Canonicalize().run(found).changed


# -- batch normalization ---------------------------------------------------------------------------------------------------------

NORM = {"s": floats(4), "b": floats(4), "m": floats(4), "v": positive(4)}
CONV = "c = Conv<kernel_shape=[3]>(x, w)"
BATCH = "BatchNormalization<epsilon=0.1>(c, s, b, m, v)"


def conv_net(rest: str, conv: str = CONV, outputs: str = "float[N,4,4] y", **constants: Array) -> onnx.ModelProto:
    return model(f"g (float[N,2,6] x) => ({outputs}) {{ {conv} {rest} }}", {"w": floats(4, 2, 3), **NORM, **constants})


@pytest.mark.parametrize("last", ["y", "n"])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_is_folded_into_conv(last: str, bias: bool) -> None:
    conv = "c = Conv<kernel_shape=[3]>(x, w, k)" if bias else CONV
    rest = f"{last} = {BATCH}" + (" y = Relu(n)" if last == "n" else "")
    found = run(conv_net(rest, conv, **({"k": floats(4)} if bias else {})))
    assert ops(found) == ["Conv"] + ["Relu"] * (last == "n")
    assert sorted(found.graph.constants) == ["c.bias", "w"]


@pytest.mark.parametrize(
    "shape, weight, conv",
    [
        ("N,4,5,5", (4, 1, 3, 3), "Conv<group=4>(x, w)"),
        ("N,4,5,5", (4, 2, 3, 3), "Conv<group=2, dilations=[2, 1]>(x, w)"),
        ("N,4,3,3,3", (4, 4, 1, 1, 1), "Conv(x, w)"),
        ("N,2,6", (2, 4, 3), "ConvTranspose(x, w)"),
        ("N,2,6", (2, 4, 3), "ConvTranspose<strides=[2]>(x, w, b)"),
        ("N,6,4,4", (6, 2, 3, 3), "ConvTranspose<group=2>(x, w)"),
        ("N,4,4,4", (4, 1, 2, 2), "ConvTranspose<group=4>(x, w)"),
    ],
)
def test_batch_norm_is_folded_into_every_kind_of_conv(shape: str, weight: tuple[int, ...], conv: str) -> None:
    dims = ",".join("ABCDE"[: len(weight)])
    text = f"g (float[{shape}] x) => (float[{dims}] y) {{ c = {conv} y = {BATCH} }}"
    found = run(model(text, {"w": floats(*weight), **NORM}))
    assert ops(found) == [conv.split("<")[0].split("(")[0]]


@pytest.mark.parametrize(
    "gemm", ["Gemm(x, w)", "Gemm(x, w, b)", "Gemm<transB=1>(x, t, b)", "Gemm<transA=1>(z, w, one)"]
)
def test_batch_norm_is_folded_into_gemm(gemm: str) -> None:
    text = f"g (float[2,3] x, float[3,2] z) => (float[2,4] y) {{ c = {gemm} y = {BATCH} }}"
    found = run(model(text, {"w": floats(3, 4), "t": floats(4, 3), "one": floats(1), **NORM}))
    assert ops(found) == ["Gemm"]


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 17])
def test_batch_norm_of_every_opset(opset: int) -> None:
    assert ops(
        run(
            model(
                f"g (float[N,2,6] x) => (float[N,4,4] y) {{ {CONV} y = {BATCH} }}",
                {"w": floats(4, 2, 3), **NORM},
                opset=opset,
            )
        )
    ) == ["Conv"]


def test_batch_norm_of_half_precision() -> None:
    text = "g (float16[N,2,6] x) => (float16[N,4,4] y) { c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"
    half = {k: v.astype(np.float16) for k, v in {"w": floats(4, 2, 3), **NORM}.items()}
    found = run(model(text, half), tolerance=1e-2)
    assert ops(found) == ["Conv"]
    assert {c.array().dtype for c in found.graph.constants.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    "proto",
    [
        conv_net(f"n = {BATCH} y = Add(n, c)"),  # another reads what comes before the norm
        conv_net(f"y = {BATCH}", outputs="float[N,4,4] c, float[N,4,4] y"),  # which is an output
        conv_net("y = BatchNormalization(c, s, b, m, v2)", v2=np.float32([1, 1, -9, 1])),  # no finite factor
        conv_net("e = Relu(c) y = BatchNormalization(e, s, b, m, v)"),
        model(f"g (float[N,2,6] x, float[4] s) => (float[N,4,4] y) {{ {CONV} y = {BATCH} }}",
              {k: v for k, v in {"w": floats(4, 2, 3), **NORM}.items() if k != "s"}),
        model(f"g (float[N,2,6] x, float[4,2,3] w) => (float[N,4,4] y) {{ {CONV} y = {BATCH} }}", NORM),
        model(f"g (float[2,3] x) => (float[2,4] y) {{ c = Gemm<alpha=0.5>(x, w, b) y = {BATCH} }}", {"w": floats(3, 4), **NORM}),
        model(f"g (float[2,3] x) => (float[2,4] y) {{ c = Gemm<beta=0.5>(x, w, b) y = {BATCH} }}", {"w": floats(3, 4), **NORM}),
        model(f"g (float[2,3] x) => (float[2,4] y) {{ c = Gemm(x, w, k) y = {BATCH} }}", {"w": floats(3, 4), "k": floats(2, 4), **NORM}),
        model(f"g (float[N,4,6] x) => (float[N,4,6] y) {{ c = Relu(x) y = {BATCH} }}", NORM),
    ],
    ids=["two readers", "an output", "infinite", "relu between", "fed scale", "fed weight", "alpha", "beta", "matrix bias", "no conv"],
)  # fmt: skip
def test_batch_norm_stays(proto: onnx.ModelProto) -> None:
    found = read(proto)
    before = to_text(found)
    assert not Canonicalize().run(found).changed
    assert to_text(found) == before


def test_batch_norm_in_training_stays() -> None:
    training = conv_net("y, k, l = BatchNormalization<training_mode=1>(c, s, b, m, v)")
    found = read(training)
    assert not Canonicalize().run(found).changed
    old = model(f"g (float[N,2,6] x) => (float[N,4,4] y, float[4] k) {{ {CONV} y, k, l, o, p = BatchNormalization(c, s, b, m, v) }}",
                {"w": floats(4, 2, 3), **NORM}, opset=9)  # fmt: skip
    found = read(old)
    assert not Canonicalize().run(found).changed


def test_the_other_reader_of_a_shared_weight_keeps_its_own() -> None:
    found = run(
        model(
            f"""g (float[N,2,6] x, float[N,2,6] z) => (float[N,4,4] y, float[N,4,4] d) {{
            {CONV} y = {BATCH} d = Conv<kernel_shape=[3]>(z, w) }}""",
            {"w": floats(4, 2, 3), **NORM},
        )
    )
    assert ops(found) == ["Conv", "Conv"]
    assert len({n.inputs[1] for n in found.graph.nodes}) == 2


def test_both_readers_of_a_shared_weight_have_norms() -> None:
    other = {f"{k}2": v[::-1].copy() for k, v in NORM.items()}
    found = run(
        model(
            f"""g (float[N,2,6] x, float[N,2,6] z) => (float[N,4,4] y, float[N,4,4] d) {{ {CONV} y = {BATCH}
            e = Conv<kernel_shape=[3]>(z, w) d = BatchNormalization(e, s2, b2, m2, v2) }}""",
            {"w": floats(4, 2, 3), **NORM, **{k: np.abs(v) for k, v in other.items()}},
        )
    )
    assert ops(found) == ["Conv", "Conv"]
    assert len({n.inputs[1] for n in found.graph.nodes}) == 2


def test_a_weight_that_is_an_output_or_its_own_bias_keeps_its_values() -> None:
    w = floats(4, 2, 3)
    found = run(conv_net(f"y = {BATCH}", outputs="float[N,4,4] y, float[4,2,3] w", w=w))
    assert ops(found) == ["Conv"]
    np.testing.assert_array_equal(found.graph.constants["w"].array(), w)


BRANCH = f"""g (float[N,2,6] x, bool go) => (float[N,4,4] y) {{
    y = If (go) <then_branch = yes () => (float[N,4,4] p) {{ {CONV} p = {BATCH} }},
                 else_branch = no () => (float[N,4,4] q) {{ q = Conv<kernel_shape=[3]>(x, w) }}> }}"""


def test_batch_norm_inside_a_body() -> None:
    """The weight lies outside, and the other branch reads it."""
    found = run(model(BRANCH, {"w": floats(4, 2, 3), **NORM}))
    bodies = {k: b[0] for k, b in found.graph.nodes[0].bodies.items()}
    assert ops(bodies["then_branch"]) == ["Conv"]
    assert sorted(bodies["then_branch"].constants) == ["c.bias", "w_1"]
    assert list(found.graph.constants) == ["w"]


# -- biases ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 1)])
@pytest.mark.parametrize("order", ["c, k", "k, c"])
def test_add_becomes_conv_bias(shape: tuple[int, ...], order: str) -> None:
    found = run(conv_net(f"y = Add({order})", k=floats(*shape)))
    assert ops(found) == ["Conv"]
    assert found.graph.nodes[0].inputs[2] == "c.bias"
    assert found.graph.constants["c.bias"].dims == (4,)


def test_add_becomes_the_bias_of_a_transposed_conv() -> None:
    found = run(model("g (float[N,6,4] x) => (float[N,4,6] y) { c = ConvTranspose<group=2>(x, w) y = Add(c, k) }",
                      {"w": floats(6, 2, 3), "k": floats(4, 1)}))  # fmt: skip
    assert ops(found) == ["ConvTranspose"]


@pytest.mark.parametrize(
    "rest, k",
    [
        ("y = Add(c, k)", floats(4)),  # along the taps: 4 by chance
        ("y = Add(c, k)", floats(1)),
        ("y = Add(c, k)", floats(4, 4)),
        ("y = Add(c, k)", floats(1, 1, 4)),
        ("y = Sub(c, k)", floats(4, 1)),
        ("d = Add(c, k) y = Mul(c, d)", floats(4, 1)),
        ("y = Add(c, c)", floats(4, 1)),
    ],
)
def test_add_stays(rest: str, k: Array) -> None:
    assert_unchanged(conv_net(rest, conv="c = Conv(x, w)", k=k))


def test_add_stays_where_it_raises_the_rank_or_there_is_a_bias() -> None:
    assert_unchanged(conv_net("y = Add(c, k)", conv="c = Conv(x, w)", outputs="float[1,N,4,4] y", k=floats(1, 1, 4, 1)))
    assert_unchanged(conv_net("y = Add(c, k)", conv="c = Conv(x, w, b)", k=floats(4, 1)))
    assert_unchanged(
        conv_net("y = Add(c, k)", conv="c = Conv(x, w)", outputs="float[N,4,4] c, float[N,4,4] y", k=floats(4, 1))
    )


@pytest.mark.parametrize("shape, order", [((3,), "m, k"), ((3,), "k, m"), ((1, 3), "m, k")])
def test_matmul_and_add_become_gemm(shape: tuple[int, ...], order: str) -> None:
    found = run(
        model(
            f"g (float[N,4] x) => (float[N,3] y) {{ m = MatMul(x, w) y = Add({order}) }}",
            {"w": floats(4, 3), "k": floats(*shape)},
        )
    )
    assert ops(found) == ["Gemm"]
    assert found.graph.nodes[0].outputs == ["y"]


def test_one_output_and_a_single_number() -> None:
    assert_unchanged(
        model(
            "g (float[N,4] x) => (float[N,1] y) { m = MatMul(x, w) y = Add(m, k) }",
            {"w": floats(4, 1), "k": np.asarray(floats())},
        )
    )


@pytest.mark.parametrize(
    "text, constants",
    [
        ("g (float[2,N,4] x) => (float[2,N,3] y) { m = MatMul(x, w) y = Add(m, k) }", {"k": floats(3)}),
        ("g (float[4] x) => (float[3] y) { m = MatMul(x, w) y = Add(m, k) }", {"k": floats(3)}),
        ("g (float[N,4] x) => (float[N,3] y) { m = MatMul(x, w) y = Add(m, k) }", {"k": floats(1)}),
        ("g (float[2,4] x) => (float[2,3] y) { m = MatMul(x, w) y = Add(m, k) }", {"k": floats(2, 3)}),
        ("g (float[3,4] x) => (float[3,3] y) { m = MatMul(x, w) y = Add(m, k) }", {"k": floats(3, 1)}),
        ("g (float[N,4] x) => (float[1,N,3] y) { m = MatMul(x, w) y = Add(m, k) }", {"k": floats(1, 1, 3)}),
        ("g (float[N,4] x) => (float[N,3] y, float[N,3] m) { m = MatMul(x, w) y = Add(m, k) }", {"k": floats(3)}),
        ("g (float[N,4] x, float[3] k) => (float[N,3] y) { m = MatMul(x, w) y = Add(m, k) }", {}),
        (
            "g (float[2,4] x) => (float[2,2] y) { m = MatMul(v, x) n = Transpose(m) y = Add(n, k) }",
            {"v": floats(2, 2), "k": floats(2)},
        ),
        (
            "g (double[N,4] x) => (double[N,3] y) { m = MatMul(x, w) y = Add(m, k) }",
            {"w": floats(4, 3).astype(float), "k": floats(3).astype(float)},
        ),
    ],
    ids=[
        "3-D",
        "vector",
        "one for all",
        "a row each",
        "a column",
        "higher rank",
        "read elsewhere",
        "fed",
        "other side",
        "double",
    ],
)
def test_matmul_and_add_stay(text: str, constants: dict[str, Array]) -> None:
    if "other" in text or "Transpose" in text:
        text = text.replace("float[2,2] y", "float[4,2] y")
    assert_unchanged(model(text, {"w": floats(4, 3), **constants} if "w)" in text else constants))


def test_ranks_behind_other_operators_are_inferred() -> None:
    found = run(
        model(
            "g (float[N,2,2] x) => (float[N,3] y) { f = Flatten(x) m = MatMul(f, w) y = Add(m, k) }",
            {"w": floats(4, 3), "k": floats(3)},
        )
    )
    assert ops(found) == ["Flatten", "Gemm"]


# -- whole models ------------------------------------------------------------------------------------------------------------------

WHOLE: Sequence[onnx.ModelProto] = [
    model(
        """g (float[N,1,8,8] x) => (float[N,5] y) {
        c = Conv<pads=[1, 1, 1, 1]>(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n)
        p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)
        d = Dropout(p) f = Flatten(d) t = Transpose(u) h = MatMul(f, t) i = Add(h, k) j = Identity(i) y = Softmax(j) }""",
        {"w": floats(4, 1, 3, 3), **NORM, "u": floats(5, 64), "k": floats(5)},
    ),
    model(
        """g (float[5,N,3] x) => (float[5,N,8] y, float[1,N,8] h) {
        w2 = Unsqueeze(w, z) r2 = Concat<axis=0>(r) r3 = Reshape(r2, q) o, h = GRU<hidden_size=8>(x, w2, r3)
        y = Squeeze(o, one) }""",
        {"w": floats(24, 3), "r": floats(24, 8), "z": np.int64([0]), "one": np.int64([1]), "q": np.int64([1, 24, 8])},
    ),
    model(
        """g (float[4] x, int64 n, bool go) => (float[4] y) {
        y = Loop(n, go, x) <body = step (int64 i, bool c, float[4] s) => (bool c2, float[4] s2) {
            c2 = Identity(c) k = Constant<value_float=0.5>() a = Mul(s, k) d = Dropout(a) s2 = Identity(d) }> }"""
    ),
]  # fmt: skip


@pytest.mark.parametrize("proto", WHOLE, ids=["cnn", "gru", "loop"])
def test_whole_models(proto: onnx.ModelProto) -> None:
    found = run(proto)
    assert "Identity" not in ops(found) and "Dropout" not in ops(found)
