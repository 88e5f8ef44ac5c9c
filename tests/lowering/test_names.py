"""What is left of the names and notes that exporters put into a model."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from eie.compiler.ir.reader import read
from eie.compiler.ir.writer import to_proto
from eie.compiler.lowering.names import shorten


def test_what_exporters_note_goes_and_what_the_model_says_stays() -> None:
    x, w = helper.make_tensor_value_info("x", 1, ["N", 16]), numpy_helper.from_array(np.ones((16, 8), np.float32), "w")
    between = helper.make_tensor_value_info("h", 1, ["N", 8])
    node, relu = helper.make_node("MatMul", ["x", "w"], ["h"], name="m"), helper.make_node("Relu", ["h"], ["y"])
    graph = helper.make_graph([node, relu], "g", [x], [helper.make_tensor_value_info("y", 1, ["N", 8])], [w], value_info=[between])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    for of, key in ((proto.graph.node[0], "pkg.torch.onnx.stack_trace"), (proto.graph, "pkg.torch.x"), (proto.graph.value_info[0], "a")):
        of.metadata_props.add(key=key, value="somebody.py, line 7")
    proto.metadata_props.add(key="pkg.torch.export.signature", value="long")
    proto.metadata_props.add(key="names", value="cat, dog")
    proto.graph.node[0].doc_string = "where it comes from"
    proto.doc_string = "what it is for"
    model = read(proto)
    shorten(model)
    found = to_proto(model)
    assert [(p.key, p.value) for p in found.metadata_props] == [("names", "cat, dog")]
    assert found.doc_string == "what it is for"
    assert b"somebody" not in found.SerializeToString() and b"where it comes from" not in found.SerializeToString()
