"""The verifier: each of its checks on a graph that is broken in that way, and the place it names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from eie.compiler.errors import VerifyError
from eie.compiler.ir.graph import Constant, Graph, Model, Node
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import problems, verify
from eie.runtime.weight import Weight

W = numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w")


def model(text: str, *initializers: onnx.TensorProto) -> Model:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.extend(initializers)
    return read(proto)


def sound() -> Model:
    return model(
        """main (float[N,4] x, bool c) => (float[N,4] y) {
        a = MatMul(x, w)
        [pick] y = If (c) <then_branch = yes () => (float[N,4] p) { p = Neg(a) },
                          else_branch = no () => (float[N,4] q) { q = MatMul(a, w) }> }""",
        W,
    )


def node(found: Model, op: str) -> Node:
    return next(n for _, n in found.graph.walk() if n.op == op)


def branch(found: Model, name: str) -> Graph:
    return node(found, "If").bodies[name][0]


def test_a_sound_graph() -> None:
    assert list(problems(sound())) == []
    verify(sound())


# -- each check ----------------------------------------------------------------------------------------------------------------


def _circle(found: Model) -> None:
    found.graph.set_input(node(found, "MatMul"), 0, "y")


def _input_twice(found: Model) -> None:
    found.graph.inputs.append(found.graph.inputs[0])


def _written_twice(found: Model) -> None:
    found.graph.add(Node("Abs", ["x"], ["a"]))


def _writes_an_input(found: Model) -> None:
    found.graph.add(Node("Abs", ["w"], ["x"]))


def _writes_a_constant(found: Model) -> None:
    found.graph.add(Node("Abs", ["x"], ["w"]))


def _output_of_nothing(found: Model) -> None:
    found.graph.outputs.append(helper.make_tensor_value_info("z", 1, None))


def _body_output_of_nothing(found: Model) -> None:
    branch(found, "else_branch").outputs[0].name = "r"


def _renamed_constant(found: Model) -> None:
    found.graph.constants["w"].name = "v"


def _untyped(found: Model) -> None:
    found.graph.constants["w"].data_type = 0


def _of_a_strange_type(found: Model) -> None:
    found.graph.constants["w"].data_type = 99


def _negative(found: Model) -> None:
    found.graph.constants["w"].dims = (-4, -4)


def _short_array(found: Model) -> None:
    found.graph.constants["w"].replace(np.zeros((4, 3), np.float32))


def _short_weight(found: Model) -> None:
    weight = Weight(np.zeros((4, 3), np.uint8), np.array([0, 1], np.float32))
    found.graph.constants["w"].replace(weight)


def _short_bytes(found: Model) -> None:
    tensor = onnx.TensorProto()
    tensor.CopyFrom(W)
    tensor.raw_data = tensor.raw_data[:-1]
    found.graph.constants["w"] = Constant("w", tensor)


def _short_field(found: Model) -> None:
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 2], [1, 2, 3, 4])
    tensor.dims[:] = [4, 4]
    found.graph.constants["w"] = Constant("w", tensor)


def _overflowing(found: Model) -> None:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2**32, 2**32], raw_data=b"")
    found.graph.constants["w"] = Constant("w", tensor)


def _strings_as_bytes(found: Model) -> None:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.STRING, dims=[4, 4], raw_data=b"")
    found.graph.constants["w"] = Constant("w", tensor)


def _no_type(found: Model) -> None:
    node(found, "Neg").op = ""


def _unknown_domain(found: Model) -> None:
    node(found, "Neg").domain = "com.example"


def _reads_nothing(found: Model) -> None:
    branch(found, "then_branch").set_input(node(found, "Neg"), 0, "lost")


def _stale_edges(found: Model) -> None:
    found.graph.structure.remove_edges_from(list(found.graph.structure.in_edges(node(found, "If"), keys=True)))
    branch(found, "else_branch").add(Node("Abs", ["q"], ["r"])).inputs[0] = "p"


def _fed_branch(found: Model) -> None:
    branch(found, "then_branch").inputs.append(helper.make_tensor_value_info("f", 1, None))


def _too_few_inputs(found: Model) -> None:
    found.graph.set_input(node(found, "MatMul"), 1, "")


def _too_many_inputs(found: Model) -> None:
    branch(found, "then_branch").set_input(node(found, "Neg"), 1, "w")


def _too_many_outputs(found: Model) -> None:
    node(found, "Neg").outputs.append("more")


def _first_left_out(found: Model) -> None:
    matmul = node(found, "MatMul")
    found.graph.set_input(matmul, 0, "")
    matmul.inputs[:] = ["", "w"]


def _wrong_kind(found: Model) -> None:
    found.graph.add(Node("Softmax", ["x"], ["s"])).set("axis", 1.5)


def _missing_attribute(found: Model) -> None:
    found.graph.add(Node("Concat", ["x", "x"], ["s"]))


def _missing_body(found: Model) -> None:
    del node(found, "If").bodies["else_branch"]


def _body_that_is_a_number(found: Model) -> None:
    pick = node(found, "If")
    del pick.bodies["else_branch"]
    pick.set("else_branch", 3)


def _function_attribute(found: Model) -> None:
    made = found.graph.add(Node("Softmax", ["x"], ["s"]))
    made.attributes["axis"] = onnx.AttributeProto(name="axis", type=onnx.AttributeProto.INT, ref_attr_name="outer")


def _broken_attribute_tensor(found: Model) -> None:
    tensor = onnx.TensorProto(name="v", data_type=onnx.TensorProto.FLOAT, dims=[2], raw_data=b"\0")
    found.graph.add(Node("Constant", [], ["s"])).set("value", tensor)


@pytest.mark.parametrize(
    "damage, said",
    [
        (_circle, "main: operators read each other in a circle: "),
        (_input_twice, "main: the input 'x' stands 2 times"),
        (_written_twice, "main: the tensor 'a' is written more than once"),
        (_writes_an_input, "main: the tensor 'x' is written more than once"),
        (_writes_a_constant, "main: the tensor 'w' is written more than once"),
        (_output_of_nothing, "main: nothing writes the output 'z'"),
        (_body_output_of_nothing, "main/pick/else_branch: nothing writes the output 'r'"),
        (_renamed_constant, "main: the constant 'w' calls itself 'v'"),
        (_untyped, "main: the constant 'w' is of no type ONNX knows (0)"),
        (_of_a_strange_type, "main: the constant 'w' is of no type ONNX knows (99)"),
        (_negative, "main: the constant 'w' has a negative dimension"),
        (_short_array, "main: the constant 'w' holds 12 elements, its shape is [4, 4]"),
        (_short_weight, "main: the constant 'w' holds 12 elements, its shape is [4, 4]"),
        (_short_bytes, "main: the constant 'w' holds 63 bytes, its shape and type take 64"),
        (_short_field, "main: the constant 'w' can't be read: "),
        (_overflowing, "main: the constant 'w' holds 0 bytes, its shape and type take 73,786,976,294,838,206,464"),
        (_strings_as_bytes, "main: the constant 'w' holds strings as bytes"),
        (_no_type, "main/pick/then_branch/p: an operator without a type"),
        (
            _unknown_domain,
            "main/pick/then_branch/p: Neg is of the domain 'com.example', which the model imports no version of",
        ),
        (_reads_nothing, "main/pick/then_branch/p: it reads 'lost', which nothing writes"),
        (_stale_edges, "main/pick/else_branch/r: its edges are not what it reads"),
        (_fed_branch, "main/pick/then_branch: a branch of If takes no inputs, this one takes 1"),
        (_too_few_inputs, "main/a: MatMul has 2 to 2 inputs, this one has 1"),
        (_too_many_inputs, "main/pick/then_branch/p: Neg has 1 to 1 inputs, this one has 2"),
        (_too_many_outputs, "main/pick/then_branch/p: Neg has 1 to 1 outputs, this one has 2"),
        (_first_left_out, "main/a: MatMul can't do without A, one of its inputs"),
        (_wrong_kind, "main/s: its attribute 'axis' is FLOAT, Softmax wants INT"),
        (_missing_attribute, "main/s: Concat can't do without its attribute 'axis'"),
        (_missing_body, "main/pick: If can't do without its attribute 'else_branch'"),
        (_body_that_is_a_number, "main/pick: its attribute 'else_branch' is INT, If wants GRAPH"),
        (_function_attribute, "main/s: its attribute 'axis' names one of a function, and this is none"),
        (_broken_attribute_tensor, "main/s: the constant 'v' holds 1 bytes, its shape and type take 8"),
    ],
)
def test_damage(damage: Callable[[Model], None], said: str) -> None:
    found = sound()
    damage(found)
    assert any(p.startswith(said) for p in problems(found)), list(problems(found))
    with pytest.raises(VerifyError, match="the graph is not valid"):
        verify(found)


def test_the_error_shows_five_problems_and_keeps_all() -> None:
    found = sound()
    for i in range(7):
        found.graph.outputs.append(helper.make_tensor_value_info(f"z{i}", 1, None))
    with pytest.raises(VerifyError, match="z4'; and 2 more") as caught:
        verify(found)
    assert len(caught.value.problems) == 7


def test_what_is_no_problem() -> None:
    """Operators of a model's own functions, operators ONNX does not know, inputs left out, names free in each branch."""
    found = read(
        parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 17, "own" : 1, "com.microsoft" : 1]>
            g (float[4] x, bool c) => (float[4] y) {
            a = own.twice(x) b = com.microsoft.Gelu(a) d = Clip(b, , m) m = Constant<value_float=1.0>()
            y = If (c) <then_branch = yes () => (float[4] p) { t = Neg(d) p = Abs(t) },
                        else_branch = no () => (float[4] q) { t = Abs(d) q = Neg(t) }> }
            <domain: "own", opset_import: ["" : 17]> twice (p) => (q) { q = Add(p, p) }"""
        )
    )
    assert list(problems(found)) == []
