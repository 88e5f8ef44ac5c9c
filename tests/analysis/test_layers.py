"""Which constants are weights: of every kind of operator, wherever they stand; and of real models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from eie.compiler.analysis.layers import Layer, LeftAlone, find_layers
from eie.compiler.ir.reader import read
from eie.compiler.passes.canonicalize import Canonicalize
from eie.runtime.weight import Weight

Array = npt.NDArray[Any]
RNG = np.random.default_rng(8)


def floats(*shape: int, dtype: Any = np.float32) -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def look(text: str, constants: Mapping[str, Array], *, opset: int = 17) -> tuple[list[Layer], list[LeftAlone]]:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "own" : 1]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return find_layers(read(proto))


@pytest.mark.parametrize(
    "operator, shape, seen",
    [
        ("Gemm(x, w)", (8, 12), (12, 8)),
        ("Gemm<transB=1>(x, w)", (12, 8), (12, 8)),
        ("Gemm<transA=1, alpha=2.0>(x, w)", (8, 12), (12, 8)),
        ("MatMul(x, w)", (8, 12), (12, 8)),
        ("MatMul(w, x)", (12, 8), (12, 8)),
        ("MatMul(x, w)", (4, 8, 12), (4, 8, 12)),
        ("Conv(x, w)", (16, 8, 3), (16, 8, 3)),
        ("Conv(x, w)", (16, 8, 3, 3), (16, 8, 3, 3)),
        ("Conv(x, w)", (8, 4, 2, 2, 2), (8, 4, 2, 2, 2)),
        ("Conv<group=2>(x, w)", (16, 8, 3, 3), (16, 8, 3, 3)),
        ("Conv<group=16>(x, w)", (16, 1, 3, 3), (16, 1, 3, 3)),
        ("Conv<dilations=[2, 2]>(x, w)", (16, 8, 3, 3), (16, 8, 3, 3)),
        ("Conv(x, w)", (16, 8, 1, 1), (16, 8, 1, 1)),
        ("ConvTranspose(x, w)", (8, 16, 2, 2), (8, 16, 2, 2)),
        ("Gather(w, i)", (100, 16), (100, 16)),
        ("Gather<axis=1>(w, i)", (100, 16), (100, 16)),
        ('Einsum<equation="ij,jk">(x, w)', (8, 12), (8, 12)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bfloat16"])
def test_every_kind_of_operator(operator: str, shape: tuple[int, ...], seen: tuple[int, ...], dtype: Any) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16) if dtype == "bfloat16" else dtype
    w = floats(*shape, dtype=dtype)
    layers, rest = look(f"g (float[8] x, int64[3] i) => (float[8] y) {{ [name] y = {operator} }}", {"w": w})
    assert rest == []
    (layer,) = layers
    assert (layer.name, layer.op, layer.shape, layer.size) == (
        "name",
        operator.split("<")[0].split("(")[0],
        seen,
        w.size,
    )
    array = layer.array()
    assert (array.dtype, array.shape) == (np.float32, seen)
    np.testing.assert_array_equal(array.T if layer.transposed else array, w.astype(np.float32))
    layer.set_array(array * 2)
    assert layer.constant.array().dtype == dtype
    np.testing.assert_array_equal(layer.constant.array(), w * np.asarray(2, dtype))
    codes = (np.arange(w.size) % 3).astype(np.uint8).reshape(seen)
    layer.set_weight(Weight(codes, np.float32([0, 1, 2])))
    np.testing.assert_array_equal(layer.array(), codes)
    np.testing.assert_array_equal(layer.constant.array(), (codes.T if layer.transposed else codes).astype(dtype))


@pytest.mark.parametrize("op, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent(op: str, gates: int, directions: int) -> None:
    shapes = {"w": (directions, gates * 16, 8), "r": (directions, gates * 16, 16), "b": (directions, gates * 32)}
    direction = "bidirectional" if directions == 2 else "reverse"
    layers, rest = look(
        f'g (float[5,N,8] x) => (float[5,1,N,16] y) {{ [cell] y = {op}<hidden_size=16, direction="{direction}">(x, w, r, b) }}',
        {n: floats(*s) for n, s in shapes.items()},
    )
    assert [(layer.name, layer.shape) for layer in layers] == [("cell.W", shapes["w"]), ("cell.R", shapes["r"])]
    assert all("a bias, a state, or an operand" in r.why for r in rest)


def test_two_weights_of_one_operator() -> None:
    layers, _ = look("g () => (float[8,9] y) { [both] y = MatMul(a, b) }", {"a": floats(8, 16), "b": floats(16, 9)})
    assert [(layer.name, layer.shape) for layer in layers] == [("both", (9, 16)), ("both#2", (8, 16))]


def test_operators_of_one_name() -> None:
    layers, _ = look(
        "g (float[8] x) => (float[8] y) { [n] a = MatMul(x, v) [n] b = MatMul(a, w) [n] y = MatMul(b, u) }",
        {n: floats(8, 8) for n in "uvw"},
    )
    assert [layer.name for layer in layers] == ["n", "n#2", "n#3"]


def test_inside_bodies_at_any_depth() -> None:
    text = """g (float[N,8] x, bool c, int64 n) => (float[N,8] y) {
        [outside] a = MatMul(x, w)
        [loop] y = Loop(n, c, a) <body = b (int64 i, bool go, float[N,8] s) => (bool go2, float[N,8] s2) {
            go2 = Identity(go) [inside] t = MatMul(s, w)
            [choice] s2 = If(go) <then_branch = yes () => (float[N,8] p) { [deep] p = Gemm(t, u) },
                                  else_branch = no () => (float[N,8] q) { [deep] q = MatMul(t, v) }> }> }"""
    layers, rest = look(text, {n: floats(8, 8) for n in "uvw"})
    assert [(layer.name, [u.label for u in layer.users]) for layer in layers] == [
        ("outside", ["outside", "inside"]), ("deep", ["deep"]), ("deep#2", ["deep"])
    ]  # fmt: skip
    assert rest == []


def test_a_weight_shared_in_two_orientations_is_one_layer() -> None:
    layers, _ = look(
        "g (float[N,8] x) => (float[N,8] y) { [a] m = MatMul(x, w) [b] y = Gemm<transB=1>(m, w) }", {"w": floats(8, 8)}
    )
    assert [(layer.name, layer.transposed, len(layer.users)) for layer in layers] == [("a", True, 2)]


@pytest.mark.parametrize(
    "text, constants, op, why",
    [
        ("y = MatMul(x, w)", {"w": floats(7, 9)}, "MatMul", "63 elements are too few"),
        ("y = MatMul(x, w)", {"w": np.full((8, 9), np.nan, np.float32)}, "MatMul", "holds 72 NaN or infinite values"),
        ("y = MatMul(x, w)", {"w": np.eye(16, dtype=np.float32)}, "MatMul", "a mask or a selection"),
        ("y = MatMul(x, w)", {"w": floats(16, 16, dtype=np.float64)}, "MatMul", "float64 is left as it is"),
        ("y = MatMulInteger(x, w)", {"w": np.ones((32, 32), np.int8)}, "MatMulInteger", "works on integers: its int8 weights"),
        ("d = DequantizeLinear(w, s) y = Add(x, d)", {"w": np.ones((32, 32), np.int8), "s": np.float32(1)}, "DequantizeLinear",
         "works on integers"),
        ("y = Gather(w, x)", {"w": np.arange(300)}, "Gather", "int64 values are no weights"),
        ("y = Add(x, w)", {"w": floats(300)}, "Add", "Add has no weights to compress"),
        ("y = Conv(x, v, w)", {"w": floats(300)}, "Conv", "not the weight of Conv: a bias"),
        ("y = own.Magic(x, w)", {"w": floats(30, 30)}, "Magic", "own.Magic is no operator this toolchain knows"),
        ("y = Neg(x)", {"w": floats(30, 30)}, "-", "nothing has no weights to compress"),
    ],
)  # fmt: skip
def test_left_alone(text: str, constants: Mapping[str, Array], op: str, why: str) -> None:
    layers, rest = look(f"g (float[8] x, float[4] v) => (float[8] y) {{ {text} }}", constants)
    assert layers == []
    (item,) = rest
    assert item.op == op
    assert why in item.why
    assert item.bytes == constants["w"].nbytes


def test_small_constants_that_are_no_weights_are_not_listed() -> None:
    assert look("g (float[8] x) => (float[8] y) { y = Add(x, w) }", {"w": floats(255)}) == ([], [])


def test_a_weight_that_is_an_output() -> None:
    layers, rest = look("g (float[8] x) => (float[8] y, float[8,9] w) { y = MatMul(x, w) }", {"w": floats(8, 9)})
    assert layers == []
    assert "also an output" in rest[0].why


def test_a_fed_weight_is_none() -> None:
    assert look("g (float[8] x, float[8,9] w) => (float[9] y) { y = MatMul(x, w) }", {}) == ([], [])


def test_weights_behind_integers_are_seen_once_canonical() -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[N,16] x) => (float[N,16] y) { d = DequantizeLinear(q, s) [m] y = MatMul(x, d) }'
    )
    proto.graph.initializer.append(numpy_helper.from_array(RNG.integers(-99, 99, (16, 16)).astype(np.int8), "q"))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "s"))
    model = read(proto)
    assert find_layers(model)[0] == []
    Canonicalize().run(model)
    assert [layer.name for layer in find_layers(model)[0]] == ["m"]


# -- real models ------------------------------------------------------------------------------------------------------------------

# model -> how many weights each operator has, decided by looking at each; and what is left alone though an operator with weights reads it
REAL: dict[str, tuple[dict[str, int], dict[str, str]]] = {
    "armkws-dnn-l": ({"Gemm": 4}, {}),
    "armkws-gru-s": ({"Gemm": 3}, {}),
    "basic-pitch": ({"Conv": 6}, {"cq_t2010v2_1/conv1d": "filter bank", "conv1d_1": "filter bank", "conv1d_2": "filter bank"}),
    "cifar-cnn": ({"Conv": 4, "Gemm": 1}, {}),
    "dtln-1": ({"LSTM": 4, "MatMul": 1}, {}),
    "espcn": ({"Conv": 4}, {}),
    "kws-ds-cnn": ({"Conv": 9, "Gemm": 1}, {}),
    "lenet-300-100": ({"Gemm": 3}, {}),
    "lenet-5": ({"Conv": 2, "Gemm": 2}, {}),
    "mnist-cntk": ({"Conv": 2, "Gemm": 1}, {}),
    "mobilenet-v1-0.25-128": ({"Conv": 28}, {}),
    "silero-vad-16k": ({"Conv": 5, "LSTM": 2}, {"/model/stft/Conv": "filter bank"}),
    "squeezenet-1.1-fp16": ({"Conv": 26}, {}),
    "ultraface-slim-320": ({"Conv": 42}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_models(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    model = read(path)
    Canonicalize().run(model)
    layers, rest = find_layers(model)
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.op] = counts.get(layer.op, 0) + 1
    wanted, refused = REAL[name]
    assert counts == wanted
    for part, why in refused.items():
        assert any(item.name.endswith(part) and why in item.why for item in rest), part
    # nothing else that an operator with weights reads is left alone, but for biases
    others = [r for r in rest if not any(r.name.endswith(p) for p in refused) and "bias" not in r.why]
    assert all("has no weights to compress" in r.why for r in others), others
    total = sum(c.nbytes for g in model.graph.graphs() for c in g.constants.values())
    found = sum(layer.constant.nbytes for layer in layers) + sum(r.bytes for r in rest)
    assert found > 0.9 * total, (found, total)


def test_more_dimensions_than_a_payload_holds_are_left_alone() -> None:
    weight = numpy_helper.from_array(
        np.random.default_rng(0).standard_normal((2,) * 7 + (4, 4)).astype(np.float32), "w"
    )
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,2,2,2,2,2,2,3,4] x) => (y) { y = MatMul(x, w) }'
    )
    proto.graph.initializer.append(weight)
    layers, alone = find_layers(read(proto))
    assert not layers
    assert "9 dimensions" in alone[0].why
