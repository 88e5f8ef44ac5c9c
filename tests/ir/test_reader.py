"""The reader: what of a file it keeps, and what it says of files that are damaged or no ONNX at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from eie.compiler.analysis.layers import find_layers
from eie.compiler.errors import ModelError, VerifyError
from eie.compiler.ir.graph import Model
from eie.compiler.ir.printer import to_text
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import verify
from eie.compiler.ir.writer import save, to_proto
from eie.compiler.passes.canonicalize import Canonicalize

Same = Callable[[onnx.ModelProto, onnx.ModelProto], bool]
RNG = np.random.default_rng(5)
NEWEST = onnx.defs.onnx_opset_version()


def floats(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def parse(text: str, *initializers: onnx.TensorProto, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {text}')
    model.graph.initializer.extend(initializers)
    return model


EVERYTHING = parse(
    """g (float[N,8] x, bool c) => (float[N,8] y, float[N,8] z) {
    a = MatMul(x, w) e = Add(a, b) d = DequantizeLinear(q, s) f = Gemm<alpha=0.5, transB=1>(e, d, b)
    k = Constant<value_floats=[1.0, 2.0]>() o = Dropout(f) v = Conv<kernel_shape=[3], pads=[1, 1]>(t, u)
    n = BatchNormalization(v, b, b, b, p) r = Reshape(n, h) l = Concat<axis=0>(k, k)
    y = If (c) <then_branch = yes () => (float[N,8] p1) { p1 = MatMul(o, w) },
                else_branch = no () => (float[N,8] p2) { p2 = Identity(e) }>
    z = Identity(o) }""",
    *(floats(n, *s) for n, s in {"w": (8, 8), "b": (8,), "t": (1, 2, 4), "u": (8, 2, 3)}.items()),
    numpy_helper.from_array(np.full(8, 2, np.float32), "p"),
    numpy_helper.from_array(RNG.integers(-9, 9, (8, 8)).astype(np.int8), "q"),
    numpy_helper.from_array(np.float32(0.1), "s"),
    numpy_helper.from_array(np.array([4, 8]), "h"),
)
BYTES = EVERYTHING.SerializeToString()


# -- what is no model --------------------------------------------------------------------------------------------------


def through(path: Path) -> Model:
    """What the compiler does with a file before it asks anything else of it."""
    model = read(path)
    verify(model)
    to_text(model)
    to_proto(model).SerializeToString()
    find_layers(model)
    Canonicalize().run(model)
    verify(model)
    find_layers(model)
    to_proto(model).SerializeToString()
    return model


def assert_model_or_error(tmp_path: Path, content: bytes) -> None:
    """A damaged file is a model all the same, or a ModelError with a place; any other exception fails the test."""
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    where = "not yet"
    try:
        through(path)
    except ModelError as error:
        where = error.where or ""
    assert where


def test_the_undamaged_model_goes_through(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(BYTES)
    model = through(tmp_path / "m.onnx")
    assert model.path == str(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "the file is empty"),
        (b"no model at all, but a line of text", "no ONNX model"),
        (bytes(100), "no ONNX model"),
        (b"\x08\x08", "holds no graph"),
        (BYTES[: len(BYTES) // 2], "truncated"),
        (b"PK\x03\x04" + bytes(50), "no ONNX model"),
        (b"GIF89a" + bytes(50), "no ONNX model"),
        (BYTES.replace(b"MatMul", b"Mat\xfful"), r"model\.graph\.node\.op_type is no text"),
    ],
)
def test_no_model(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        read(path)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't read the model: No such file"):
        read(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="this is a folder"):
        read(tmp_path)


def test_names_that_are_no_text_in_every_place(tmp_path: Path) -> None:
    for name in (b"yes", b"then_branch", b"p1", b"value_floats", b"transB"):
        path = tmp_path / "x.onnx"
        path.write_bytes(BYTES.replace(name, b"\xff" * len(name)))
        with pytest.raises(ModelError, match="is no text"):
            read(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.integers(0, 8 * len(BYTES) - 1), min_size=1, max_size=4))
@example(flips=[])
def test_flipped_bits(tmp_path: Path, flips: list[int]) -> None:
    content = bytearray(BYTES)
    for bit in flips:
        content[bit // 8] ^= 1 << bit % 8
    assert_model_or_error(tmp_path, bytes(content))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.tuples(st.integers(0, len(BYTES)), st.integers(0, len(BYTES))))
def test_missing_stretches(tmp_path: Path, cut: tuple[int, int]) -> None:
    assert_model_or_error(tmp_path, BYTES[: min(cut)] + BYTES[max(cut) :])


@pytest.mark.slow
def test_every_single_bit(tmp_path: Path) -> None:
    for bit in range(8 * len(BYTES)):
        content = bytearray(BYTES)
        content[bit // 8] ^= 1 << bit % 8
        assert_model_or_error(tmp_path, bytes(content))


def test_a_long_chain_is_no_deep_recursion() -> None:
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["t0"])]
    nodes += [helper.make_node("Identity", [f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
    nodes.append(helper.make_node("MatMul", ["x", "t3000"], ["y"]))
    graph = parse("g (float[N,8] x) => (float[N,8] y) { y = Identity(x) }", *EVERYTHING.graph.initializer)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    model = read(graph)
    verify(model)
    Canonicalize().run(model)
    assert [n.op for n in model.graph.nodes] == ["MatMul"]


# -- what is kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset(opset: int, same: Same) -> None:
    proto = parse("g (float[N,4] x) => (float[N,3] y) { h = Gemm(x, w, b) y = Relu(h) }", floats("w", 4, 3),
                  floats("b", 3), opset=opset)  # fmt: skip
    model = read(proto)
    verify(model)
    assert model.graph.opsets == {"": opset}
    assert same(to_proto(model), proto)


def test_a_model_without_opset_imports() -> None:
    proto = parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    del proto.opset_import[:]
    assert read(proto).graph.opsets == {"": 1}


def test_the_default_domain_has_two_names() -> None:
    proto = parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    proto.opset_import[0].domain = proto.graph.node[0].domain = "ai.onnx"
    model = read(proto)
    verify(model)
    assert model.graph.opsets == {"": 17}
    assert model.graph.nodes[0].domain == ""


LOOP = parse(
    """g (float[4] x, int64 trips, bool go) => (float[4] y) {
    a = Neg(x) b = Abs(x)
    y = Loop(trips, go, x) <body = step (int64 i, bool c, float[4] s) => (bool c2, float[4] s2) {
        c2 = Identity(c)
        t = If(c) <then_branch = yes () => (float[4] p) { p = Add(a, w) }, else_branch = no () => (float[4] q) { q = Add(s, b) }>
        s2 = Mul(t, w) }> }""",
    floats("w", 4),
)
SCAN = parse(
    """g (float[3,4] x, float[4] h) => (float[4] y, float[3,4] ys) {
    a = Neg(h)
    y, ys = Scan<num_scan_inputs=1, body = step (float[4] s, float[4] e) => (float[4] s2, float[4] o) {
        m = Add(s, a) n = Mul(m, w) s2 = Add(n, e) o = Identity(s2) }>(h, x) }""",
    floats("w", 4),
)


def test_bodies_that_read_outer_tensors(same: Same) -> None:
    model = read(LOOP)
    verify(model)
    graph = model.graph
    loop = next(n for n in graph.nodes if n.op == "Loop")
    body = loop.bodies["body"][0]
    choice = next(n for n in body.nodes if n.op == "If")
    assert body.captured() == {"a", "b", "w"}
    assert body.parent is graph
    assert choice.bodies["then_branch"][0].captured() == {"a", "w"}
    assert graph.consumers("a") == [loop] == graph.consumers("w")
    assert body.consumers("w")[0] is choice
    assert body.constant("w") is graph.constants["w"]
    assert body.constant("s") is None  # fed
    assert [n.op for n in graph.nodes[:2]] == ["Neg", "Abs"]  # before the loop that needs them
    assert same(to_proto(model), LOOP)


def test_scan(same: Same) -> None:
    model = read(SCAN)
    verify(model)
    scan = next(n for n in model.graph.nodes if n.op == "Scan")
    assert scan.bodies["body"][0].captured() == {"a", "w"}
    assert same(to_proto(model), SCAN)


def test_initializers_that_are_inputs_too(same: Same) -> None:
    proto = parse("g (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }", floats("w", 4, 3), ir=3)
    model = read(proto)
    verify(model)
    assert model.graph.is_input("w")
    assert "w" in model.graph.constants
    assert same(to_proto(model), proto)


CONSTANTS = """g () => (float o) {
    a = Constant<value = float[2] {1, 2}>() b = Constant<value_float = 1.5>() c = Constant<value_floats = [1.0, 2.0]>()
    d = Constant<value_int = 3>() e = Constant<value_ints = [3, 4]>() f = Constant<value_string = "s">()
    h = Constant<value_strings = ["s", "t"]>() o = Identity(b) }"""


def test_constant_nodes_of_every_kind(same: Same) -> None:
    proto = parse(CONSTANTS)
    sparse = helper.make_sparse_tensor(
        floats("v", 2), helper.make_tensor("i", onnx.TensorProto.INT64, [2], [0, 5]), [9]
    )
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["z"], sparse_value=sparse))
    model = read(proto)
    verify(model)
    assert [n.get(next(iter(n.attributes))) for n in model.graph.nodes[2:8]] == [
        1.5,
        [1, 2],
        3,
        [3, 4],
        "s",
        [b"s", b"t"],
    ]
    assert same(to_proto(model), proto)


@pytest.mark.parametrize(
    "kind", ["FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE", "INT4", "UINT4", "INT8", "BOOL", "FLOAT8E4M3FN"]
)
def test_types(kind: str) -> None:
    data_type = onnx.TensorProto.DataType.Value(kind)
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    values = np.array([0, 1, 1, 0, 1]).astype(dtype)
    for tensor in (numpy_helper.from_array(values, "w"), helper.make_tensor("w", data_type, [5], [0, 1, 1, 0, 1])):
        model = read(parse("g () => () { y = Shape(w) }", tensor))
        model.graph.outputs.append(helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [1]))
        verify(model)
        constant = model.graph.constants["w"]
        assert constant.array().dtype == dtype
        np.testing.assert_array_equal(constant.array().astype(float), [0, 1, 1, 0, 1])
        assert constant.elements == 5
        assert constant.nbytes == len(numpy_helper.from_array(values).raw_data)


def test_strings() -> None:
    model = read(
        parse(
            "g () => (int64[1] y) { y = Shape(w) }", helper.make_tensor("w", onnx.TensorProto.STRING, [2], [b"a", b"b"])
        )
    )
    verify(model)
    assert model.graph.constants["w"].nbytes == 0
    assert list(model.graph.constants["w"].array()) in ([b"a", b"b"], ["a", "b"])


def test_what_no_pass_needs_is_kept(tmp_path: Path, same: Same) -> None:
    """Functions, metadata, documentation, sparse initializers, quantization annotations, training information."""
    proto = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20, "own" : 1], producer_name: "p", model_version: 7, doc_string: "d",
        metadata_props: ["k" : "v"]>
        g (float[4] x) => (float[4] y) { a = own.twice(x) y = Add(a, s) }
        <domain: "own", opset_import: ["" : 20]> twice (p) => (q) { q = Add(p, p) }"""
    )
    graph, node = proto.graph, proto.graph.node[1]
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="gk", value="gv")
    graph.value_info.append(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [4]))
    graph.quantization_annotation.add(tensor_name="a").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    graph.sparse_initializer.append(
        helper.make_sparse_tensor(floats("s", 1), helper.make_tensor("i", onnx.TensorProto.INT64, [1], [2]), [4])
    )
    node.doc_string, node.overload = "adds", "o"
    node.metadata_props.add(key="nk", value="nv")
    proto.training_info.add().algorithm.name = "t"
    model = read(proto)
    verify(model)
    assert same(to_proto(model), proto)
    assert model.graph.fresh("s") == "s_1"  # a sparse initializer's name is taken
    save(model, tmp_path / "m.onnx")
    assert same(onnx.load(tmp_path / "m.onnx"), proto)


def test_reading_does_not_change_the_given_model() -> None:
    before = EVERYTHING.SerializeToString(deterministic=True)
    model = read(EVERYTHING)
    Canonicalize().run(model)
    model.graph.constants["w"].replace(np.zeros((8, 8), np.float32))
    assert EVERYTHING.SerializeToString(deterministic=True) == before


def test_verify_error_lists_the_problems() -> None:
    proto = parse("g (float[4] x) => (float[4] y, float[4] q) { y = Add(x, nowhere) }")
    with pytest.raises(VerifyError) as caught:
        verify(read(proto))
    assert caught.value.problems == [
        "g/y: it reads 'nowhere', which nothing writes",
        "g: nothing writes the output 'q'",
    ]


def test_two_initializers_of_one_name() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = Add(x, w) }", floats("w", 2), floats("w", 2))
    with pytest.raises(ModelError, match="'w': there are two initializers"):
        read(proto)
