"""Changing a Graph: whatever is done to it, its edges stay what its operators read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from eie.compiler.ir.graph import Constant, Graph, Model, Node
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import problems
from eie.runtime.weight import Weight


def model(text: str, *initializers: onnx.TensorProto) -> Model:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.extend(initializers)
    return read(proto)


def floats(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def node(found: Model, op: str) -> Node:
    return next(n for _, n in found.graph.walk() if n.op == op)


def operators(graph: Graph) -> list[str]:
    return [f"{','.join(n.outputs)} = {n.op}({','.join(n.inputs)})" for n in graph.nodes]


CHOICE = """g (float[4] x, bool c) => (float[4] y) {
    a = Neg(x) b = Identity(a)
    y = If (c) <then_branch = yes () => (float[4] p) { p = Add(b, w) }, else_branch = no () => (float[4] b) { }> }"""


def test_order_of_the_file_breaks_ties() -> None:
    found = model("g (float[4] x) => (float[4] y) { b = Neg(x) a = Abs(x) y = Add(a, b) }")
    assert [n.op for n in found.graph.nodes] == ["Neg", "Abs", "Add"]
    made = found.graph.add(Node("Exp", ["x"], ["e"]), before=node(found, "Abs"))
    assert [n.op for n in found.graph.nodes] == ["Neg", "Exp", "Abs", "Add"]
    found.graph.set_input(node(found, "Neg"), 0, "e")
    assert found.graph.nodes[0] is made


def test_an_operator_may_come_before_what_writes_its_inputs() -> None:
    graph = Graph("g")
    graph.add(Node("Neg", ["a"], ["y"]))
    graph.add(Node("Abs", ["x"], ["a"]))
    assert [n.op for n in graph.nodes] == ["Abs", "Neg"]


def test_replace_uses_reaches_into_bodies() -> None:
    found = model(CHOICE, floats("w", 4))
    found.graph.replace_uses("b", "a")
    choice = node(found, "If")
    assert operators(choice.bodies["then_branch"][0]) == ["p = Add(a,w)"]
    assert choice.bodies["else_branch"][0].outputs[0].name == "a"
    assert found.graph.consumers("b") == []
    assert set(found.graph.consumers("a")) == {node(found, "Identity"), choice}
    assert list(problems(found)) == []


def test_replace_uses_stops_where_a_body_has_a_tensor_of_that_name() -> None:
    found = model(
        """g (float[4] x, bool c) => (float[4] y) { a = Neg(x)
        y = Loop( , c, x) <body = s (int64 i, bool g, float[4] a) => (bool g2, float[4] r) { g2 = Identity(g) r = Neg(a) }> }"""
    )
    found.graph.replace_uses("a", "x")
    assert "r = Neg(a)" in operators(node(found, "Loop").bodies["body"][0])


def test_bypass_in_the_middle() -> None:
    found = model(CHOICE, floats("w", 4))
    assert found.graph.bypass(node(found, "Identity"))
    assert operators(found.graph) == ["a = Neg(x)", "y = If(c)"]
    assert node(found, "If").bodies["then_branch"][0].captured() == {"a", "w"}
    assert list(problems(found)) == []


def test_bypass_before_an_output_renames_the_writer() -> None:
    found = model("g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) y = Identity(a) }")
    assert found.graph.bypass(node(found, "Identity"))
    assert operators(found.graph) == ["y = Neg(x)", "b = Abs(y)"]
    assert found.graph.producer("a") is None
    assert list(problems(found)) == []


@pytest.mark.parametrize(
    "text",
    [
        "g (float[4] x) => (float[4] y) { y = Identity(x) }",  # an input can't take the output's name
        "g (float[4] x) => (float[4] a, float[4] y) { a = Neg(x) y = Identity(a) }",  # nor another output
        "g () => (float[4] y) { y = Identity(w) }",  # nor a constant
    ],
)
def test_bypass_that_can_not_be(text: str) -> None:
    found = model(text, floats("w", 4))
    before = operators(found.graph)
    assert not found.graph.bypass(node(found, "Identity"))
    assert operators(found.graph) == before


def test_prune() -> None:
    found = model(
        """g (float[4] x, bool c, float[4] v) => (float[4] y) { a = Neg(x) dead = Abs(a) deader = Exp(dead)
        y = If (c) <then_branch = yes () => (float[4] p) { lost = Add(x, u) p = Add(a, w) },
                    else_branch = no () => (float[4] q) { q = Neg(x) }> }""",
        *(floats(n, 4) for n in "uvw"),
    )
    assert found.graph.prune() == 4  # Abs, Exp, Add, u
    assert operators(found.graph) == ["a = Neg(x)", "y = If(c)"]
    assert sorted(found.graph.constants) == ["v", "w"]  # v is an input too
    assert list(problems(found)) == []
    assert found.graph.prune() == 0


def test_fresh_names_are_free_everywhere() -> None:
    found = model(CHOICE, floats("w", 4))
    body = node(found, "If").bodies["then_branch"][0]
    assert [body.fresh(n) for n in ("new", "p", "x", "w", "y")] == ["new", "p_1", "x_1", "w_1", "y_1"]
    assert found.graph.add_constant("p", np.zeros(1)) == "p_1"
    assert found.graph.fresh("p") == "p_2"


def test_set_input_adds_and_drops_slots() -> None:
    found = model("g (float[4] x) => (float[4] y) { y = Clip(x) }", floats("w", 1))
    clip = node(found, "Clip")
    found.graph.set_input(clip, 2, "w")
    assert clip.inputs == ["x", "", "w"]
    found.graph.set_input(clip, 2, "")
    assert clip.inputs == ["x"]


def test_attributes_as_python_values() -> None:
    made = Node("X", [], [])
    for name, value in {"f": 0.5, "i": 3, "s": "text", "l": [1, 2]}.items():
        made.set(name, value)
    assert [made.get(n) for n in "fisl"] == [0.5, 3, "text", [1, 2]]
    assert made.get("none") is None
    assert made.get("none", 7) == 7


def test_label() -> None:
    assert Node("X", [], ["", "b"], name="n").label == "n"
    assert Node("X", [], ["", "b"]).label == "b"
    assert Node("X", [], [""]).label == "X"
    assert repr(Node("X", [], ["b"])) == "<X b>"


def test_constants() -> None:
    codes = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    weight = Weight(codes, np.array([0, -1, 2], np.float32))
    plain = Constant("w", np.zeros((3, 2), np.float16))
    plain.replace(weight, transposed=True)
    np.testing.assert_array_equal(plain.array(), [[0, 2], [-1, -1], [2, 0]])
    assert plain.array().dtype == np.float16
    assert (plain.weight, plain.transposed, plain.nbytes, plain.elements) == (weight, True, 12, 6)
    assert Constant("e", np.zeros((0, 7), np.float32)).nbytes == 0
    assert Constant("s", np.float64(1)[None]).data_type == onnx.TensorProto.DOUBLE
    assert Constant("i", helper.make_tensor("i", onnx.TensorProto.INT4, [3], [1, 2, 3])).nbytes == 2


# -- any sequence of changes ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_edges_after_any_changes(data: st.DataObject) -> None:
    """A random graph, with bodies that read outer tensors, is changed at random: the verifier finds nothing, and the
    graph is the one that reading its own operators afresh gives."""
    graph = Graph("g")
    found = Model(graph, 8, onnx.ModelProto())
    graph.opsets[""] = 17
    graph.inputs = [helper.make_tensor_value_info(n, 1, None) for n in ("x", "c")]
    tensors = ["x"]
    for i in range(data.draw(st.integers(2, 8))):
        read_ = [data.draw(st.sampled_from(tensors)) for _ in range(2)]
        if data.draw(st.booleans()):
            made = Node("Add", read_, [f"t{i}"])
        else:
            body = Graph("b", parent=graph)
            body.outputs = [helper.make_tensor_value_info(f"r{i}", 1, None)]
            body.add(Node("Add", read_, [f"r{i}"]))
            other = Graph("o", parent=graph)
            other.outputs = [helper.make_tensor_value_info(data.draw(st.sampled_from(tensors)), 1, None)]
            made = Node("If", ["c"], [f"t{i}"], bodies={"then_branch": [body], "else_branch": [other]})
        graph.add(made)
        tensors.append(f"t{i}")
    graph.outputs = [helper.make_tensor_value_info(tensors[-1], 1, None)]
    for _ in range(data.draw(st.integers(1, 6))):
        nodes = graph.nodes
        chosen = data.draw(st.sampled_from(nodes))
        what = data.draw(st.sampled_from(["identity", "bypass", "prune", "set", "constant"]))
        if what == "identity":
            name = graph.fresh("i")
            graph.add(Node("Identity", [chosen.outputs[0]], [name]))
            for reader in graph.consumers(chosen.outputs[0]):
                if reader.outputs[0] != name and reader.op == "Add":
                    graph.set_input(reader, 0, name)
        elif what == "bypass" and chosen.op == "Identity":
            graph.bypass(chosen)
        elif what == "prune":
            graph.prune()
        elif what == "set" and chosen.op == "Add":
            graph.set_input(chosen, 1, "x")
        elif what == "constant":
            graph.replace_uses("x", graph.add_constant("k", np.ones(2)))
        assert list(problems(found)) == []
    again = Graph("g", dict(graph.opsets))
    for made in graph.nodes:
        again.add(made)
    assert operators(again) == operators(graph)
    for tensor in graph.names() - {""}:
        assert set(again.consumers(tensor)) == set(graph.consumers(tensor)), tensor
