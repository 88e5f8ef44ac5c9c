"""Units that compute nothing are taken away, and outputs stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from eie.compiler.ir.graph import Model
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import verify
from eie.compiler.ir.writer import to_proto
from eie.compiler.passes.cluster import Cluster
from eie.compiler.passes.fold_units import FoldUnits

Array = npt.NDArray[Any]


def net(body: str, shapes: dict[str, tuple[int, ...]], zeros: dict[str, Any]) -> Model:
    """A model with random weights, parts of them zero."""
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> main (float[N,2,8,8] x) => (float[N,5] y) {{{body}}}'
    )
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32)
        for index in zeros.get(name, ()):
            array[index] = 0
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return read(proto)


def answers(model: Model) -> Array:
    session = onnxruntime.InferenceSession(to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((3, 2, 8, 8)).astype(np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Weights' dimensions by name; in the orientation of the file."""
    return {name: c.dims for name, c in model.graph.constants.items() if len(c.dims) > 1}


CONVS = """[one] a = Conv<kernel_shape=[3,3], pads=PADS>(x, k1, b1) r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    [two] c = Conv<kernel_shape=[3,3]>(p, k2) t = Tanh(c) f = Flatten(t) [three] g = Gemm(f, m3) s = LeakyRelu(g)
    [four] y = Gemm<transB=1>(s, m4, b4)"""


@pytest.mark.parametrize("shared", [False, True])
def test_units_without_inputs_or_outputs_go_and_outputs_stay(shared: bool) -> None:
    zeros = {
        "k1": [1, 4],  # nothing enters
        "k2": [np.s_[:, 2], 3],  # nothing leaves channel 2 of the first; nothing enters 3 of the second
        "m3": [np.s_[:, 7]],
        "m4": [np.s_[:, 0], np.s_[:, 7]],
    }
    body = CONVS.replace("PADS", "[0,0,0,0]")
    shapes = {"k1": (6, 2, 3, 3), "b1": (6,), "k2": (7, 6, 2, 2), "m3": (7 * 2 * 2, 16), "m4": (5, 16), "b4": (5,)}
    model = net(body.replace("kernel_shape=[3,3]>(p", "kernel_shape=[2,2]>(p"), shapes, zeros)
    if shared:
        Cluster(bits=4).run(model)
    before = answers(model)
    result = FoldUnits().run(model)
    verify(model)
    assert result.changed
    assert shapes_of(model) == {"k1": (3, 2, 3, 3), "k2": (6, 3, 2, 2), "m3": (24, 14), "m4": (5, 14)}
    np.testing.assert_allclose(answers(model), before, rtol=1e-5, atol=1e-5)
    assert not FoldUnits().run(model).changed
    assert {c.name: c.stored for c in model.graph.constants.values()}["k1"] == 6 * 2 * 9 * 4


def test_what_dies_on_the_way_goes_too() -> None:
    # unit 2 of `three` has no reader, and channel 1 of `two` is read by it alone
    m3 = [np.s_[4:8, 0:2], np.s_[4:8, 3:16]]
    body = CONVS.replace("PADS", "[0,0,0,0]").replace("kernel_shape=[3,3]>(p", "kernel_shape=[2,2]>(p")
    shapes = {"k1": (6, 2, 3, 3), "b1": (6,), "k2": (7, 6, 2, 2), "m3": (28, 16), "m4": (5, 16), "b4": (5,)}
    model = net(body, shapes, {"m3": m3, "m4": [np.s_[:, 2]]})
    before = answers(model)
    FoldUnits().run(model)
    assert shapes_of(model)["k2"] == (6, 6, 2, 2)
    assert shapes_of(model)["m3"] == (24, 15)
    np.testing.assert_allclose(answers(model), before, rtol=1e-5, atol=1e-5)


def test_a_constant_that_padding_would_cut_stays() -> None:
    body = """[one] a = Conv<kernel_shape=[3,3]>(x, k1, b1) [two] c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(a, k2)
        f = GlobalAveragePool(c) g = Flatten(f) [three] y = Gemm<transB=1>(g, m3)"""
    shapes = {"k1": (4, 2, 3, 3), "b1": (4,), "k2": (16, 4, 3, 3), "m3": (5, 16)}
    model = net(body, shapes, {"k1": [1, 2], "b1": [2]})
    before = answers(model)
    FoldUnits().run(model)
    assert shapes_of(model)["k1"] == (3, 2, 3, 3)  # channel 2 is zero everywhere, channel 1 is not
    np.testing.assert_allclose(answers(model), before, rtol=1e-5, atol=1e-5)


def test_a_layer_that_is_read_twice_is_left_alone_and_says_why() -> None:
    body = """f = Flatten(x) [one] a = Gemm<transB=1>(f, m1) [two] b = Gemm<transB=1>(a, m2) [three] c = Gemm<transB=1>(a, m3)
        y = Add(b, c)"""
    model = net(body, {"m1": (16, 128), "m2": (5, 16), "m3": (5, 16)}, {"m1": [3]})
    result = FoldUnits().run(model)
    assert not result.changed
    assert all(entry.reason for entry in result.ledger)
    assert "more than one operator" in result.ledger[0].reason


def test_one_unit_is_left_where_all_are_dead() -> None:
    body = "f = Flatten(x) [one] a = Gemm<transB=1>(f, m1, b1) r = Sigmoid(a) [two] y = Gemm<transB=1>(r, m2)"
    model = net(body, {"m1": (16, 128), "b1": (16,), "m2": (5, 16)}, {"m2": [np.s_[:, 1:]], "m1": [0]})
    before = answers(model)
    FoldUnits().run(model)
    assert model.graph.constants["m1"].dims == (1, 128)
    np.testing.assert_allclose(answers(model), before, rtol=1e-5)
