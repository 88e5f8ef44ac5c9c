"""The text of a graph: one golden example that has everything, and the corners."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from eie.compiler.ir.graph import Graph, Node
from eie.compiler.ir.printer import to_text
from eie.compiler.ir.reader import read
from eie.runtime.weight import Weight

GOLDEN = """\
model ir 8, ai.onnx 17, own 1
main(%x: float[N, 4], %c: bool[], %s: int64[?]) -> (%y: float[N, 4], %f: float16[...], %l: sequence_type) {
  @w: float[4, 4] 1 bits, 25.0% kept, balanced, transposed
  @b: float[4]
  %a = Gemm(%x, @w, @b) {alpha=0.5, transB=1}
  %k, _, %h = LSTM(%a, @w, @w, _, _, @b) {activations=["Sigmoid", "Tanh"], hidden_size=4}
  %m = own.Special(%k) {pads=[1, 9223372036854775807], rates=[0.5, 2], table=int64[2], what="té\\x80"}
  %y = If(%c)
    then_branch:
      yes() -> (%p: float[N, 4]) {
        @v: int8[3]
        %p = MatMul(%a, @w)
      }
    else_branch:
      no() -> (%q: float[N, 4]) {
        %q = Neg(%a)
      }
}
"""


def test_golden() -> None:
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["own" : 1, "" : 17]>
        main (float[N,4] x, bool c, int64[1] s) => (float[N,4] y, float16[1] f, seq(float) l) {
        a = Gemm<transB=1, alpha=0.5>(x, w, b)
        k, , h = LSTM<hidden_size=4, activations=["Sigmoid", "Tanh"]>(a, w, w, , , b)
        m = own.Special<pads=[1, 9223372036854775807], rates=[0.5, 2.0], what="t", table=int64[2] {1, 2}>(k)
        y = If (c) <then_branch = yes () => (float[N,4] p) { p = MatMul(a, w) },
                    else_branch = no () => (float[N,4] q) { q = Neg(a) }> }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 4), np.float32), "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "b"))
    proto.graph.input[2].type.tensor_type.shape.dim[0].Clear()
    proto.graph.output[1].type.tensor_type.ClearField("shape")
    model = read(proto)
    special = next(n for n in model.graph.nodes if n.op == "Special")
    special.attributes["what"].s = "té".encode() + b"\x80"
    codes = np.eye(4, dtype=np.uint8)
    model.graph.constants["w"].replace(Weight(codes, np.array([0, 1], np.float32), "balanced"), transposed=True)
    body = next(n for n in model.graph.nodes if n.op == "If").bodies["then_branch"][0]
    body.add_constant("v", np.zeros(3, np.int8))
    assert to_text(model) == GOLDEN
    assert to_text(model.graph) == GOLDEN.split("\n", 1)[1]


def test_a_graph_without_a_name_or_a_type() -> None:
    graph = Graph("")
    graph.inputs.append(onnx.ValueInfoProto(name="x"))
    graph.outputs.append(helper.make_tensor_value_info("y", 99, [0]))
    graph.add(Node("Neg", ["x"], ["y"]))
    assert to_text(graph) == "graph(%x: ?) -> (%y: type99[0]) {\n  %y = Neg(%x)\n}\n"
