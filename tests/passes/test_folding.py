"""What canonicalize computes ahead of time, against ONNX's own cases."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test import loader

from eie.compiler.ir.reader import read
from eie.compiler.passes import canonicalize


def test_folding_computes_what_onnx_says() -> None:
    """Every backend test of an operator that is folded, its inputs made constants: the constant is the expected output."""
    checked = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases compute what they expect
        cases = loader.load_model_tests(kind="node")
    for case in cases:
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].domain or nodes[0].op_type not in canonicalize._FOLDED:
            continue
        inputs, outputs = case.data_sets[0]
        if len(outputs) != 1 or not all(
            isinstance(a, np.ndarray | np.generic | onnx.TensorProto) for a in [*inputs, *outputs]
        ):
            continue
        proto = onnx.ModelProto()
        proto.CopyFrom(case.model)
        output = proto.graph.output[0].name
        for info, value in zip(case.model.graph.input, inputs, strict=False):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(
                value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value))
            )
            tensor.name = info.name
            proto.graph.initializer.append(tensor)
        del proto.graph.input[:], proto.graph.output[:]
        reader = "MatMul" if nodes[0].op_type == "DequantizeLinear" else "Shape"
        proto.graph.node.add(op_type=reader, input=[output, output][: 1 + (reader == "MatMul")], output=["out"])
        proto.graph.output.add(name="out")
        found = read(proto)
        with np.errstate(all="ignore"):
            assert canonicalize._fold_constants(found)
        constant = found.graph.constant(output)
        assert constant is not None, case.name
        wanted = outputs[0]
        wanted = numpy_helper.to_array(wanted) if isinstance(wanted, onnx.TensorProto) else np.asarray(wanted)
        assert (constant.array().dtype, constant.dims) == (wanted.dtype, wanted.shape), case.name
        np.testing.assert_allclose(
            constant.array().astype(np.float64), wanted.astype(np.float64), rtol=1e-6, err_msg=case.name
        )
        checked += 1
    assert checked > 100
