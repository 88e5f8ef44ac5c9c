"""Bring a model into the one form that the other passes and the lowering know; its meaning stays.

In this order: initializers stop being inputs; Constant nodes and expressions of constants become constants (so that a weight
that is reshaped, sliced or dequantized on its way to its operator is seen as the weight it is); equal constants become one;
Identity and Dropout go; BatchNormalization is folded into the operator before it:

    s = scale / sqrt(var + eps)     W' = W s (an output's row)     b' = (b - mean) s + bias

an Add of a constant to a Conv's channels becomes its bias, and MatMul + Add of matrices becomes Gemm.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ..analysis.layers import SLOTS
from ..errors import ModelError
from ..ir.graph import Constant, Graph, Model, Node
from ..ir.writer import to_proto
from .base import Layers, Pass, PassResult, Select, every

Array = npt.NDArray[Any]

_GROWTH = 4096  # bytes an expression of constants may be larger than what it is made from
_COMPARED = 64  # elements from which equal constants are looked for
_EVALUATED = {"DequantizeLinear": 19}  # first version the reference evaluator has; earlier ones are special cases of it
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_FOLDED = {
    "Add",
    "Cast",
    "Concat",
    "DequantizeLinear",
    "Div",
    "Gather",
    "Identity",
    "Mul",
    "Neg",
    "Reshape",
    "Slice",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
}


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Fold what is known, drop what does nothing. Works on the whole model; layers can't be excluded."""

    name: ClassVar[str] = "canonicalize"
    ensures: ClassVar[frozenset[str]] = frozenset({"canonical"})

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        steps: tuple[Callable[[Model], bool], ...] = (
            _own_initializers,
            _fold_constants,
            _drop_idle,
            _fold_batch_norm,
            _fold_conv_bias,
            _matmul_add,
            _share_equal,
        )
        changed = False
        with np.errstate(all="ignore"):  # constants may hold anything; what is not finite is not folded
            for step in steps:
                changed = step(model) or changed
        if changed:
            _refresh(model.graph)
            model.graph.prune()
        return PassResult(changed)


def _own_initializers(model: Model) -> bool:
    """An initializer listed as input is a default that a caller may override; exporters list weights so out of habit."""
    graph = model.graph
    kept = [i for i in graph.inputs if i.name not in graph.constants]
    changed = len(kept) != len(graph.inputs)
    graph.inputs = kept
    if changed:
        model.ir_version = max(4, model.ir_version)  # before version 4 every initializer had to be an input
    return changed


# -- constants ---------------------------------------------------------------------------------------------------------------


def _fold_constants(model: Model) -> bool:
    changed = False
    for graph, node in list(model.graph.walk()):
        if node.op == "Constant" and not node.domain:
            changed = _constant_node(graph, node) or changed
        elif node.op in _FOLDED and not node.domain and len(node.outputs) == 1 and node.inputs:
            changed = _expression(model, graph, node) or changed
    return changed


def _constant_node(graph: Graph, node: Node) -> bool:
    name = node.outputs[0]
    if graph.is_output(name):
        return False
    value = node.get("value")
    if value is None:
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        given = next(((k, node.get(k)) for k in kinds if k in node.attributes), None)
        if given is None:  # strings, sparse tensors
            return False
        value = numpy_helper.from_array(np.asarray(given[1], kinds[given[0]]), name)
    graph.remove(node)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(value)
    tensor.name = name
    graph.constants[name] = Constant(name, tensor)
    return True


def _expression(model: Model, graph: Graph, node: Node) -> bool:
    """Compute an operator whose inputs are all constants."""
    read = [graph.constant(t) if t else None for t in node.inputs]
    if any(t and c is None for t, c in zip(node.inputs, read, strict=True)) or graph.is_output(node.outputs[0]):
        return False
    given = [c for c in read if c is not None]
    if any(c.data_type == onnx.TensorProto.STRING for c in given):
        return False
    if node.op == "DequantizeLinear" and not _feeds_weight(graph, node.outputs[0]):
        return False  # integers are smaller; only a weight gains from being seen as numbers
    if node.op != "DequantizeLinear" and any(c.nbytes > _GROWTH and _shared(graph, c.name) for c in given):
        return False  # a weight with other readers (tied embeddings, say) would be there twice
    most = math.inf if node.op == "DequantizeLinear" else sum(c.nbytes for c in given) + _GROWTH
    if _least_elements(node, given) > most:  # at least a byte each
        return False
    value = _evaluate(node, {c.name: c.array() for c in given}, model.graph.opsets.get("", 1))
    if value is None or value.dtype == object or value.nbytes > most:
        return False
    graph.remove(node)
    folded = graph.constants[node.outputs[0]] = Constant(node.outputs[0], np.ascontiguousarray(value))
    if node.op == "DequantizeLinear" or any(c.folded_from is not None for c in given):
        folded.folded_from = sum(c.stored for c in given)
    return True


def _shared(graph: Graph, constant: str) -> bool:
    owner: Graph | None = graph
    while owner is not None and constant not in owner.constants:
        owner = owner.parent
    return owner is not None and len(owner.consumers(constant)) > 1


def _least_elements(node: Node, given: list[Constant]) -> int:
    """How many elements an operator that may make more of less makes at least; 0 where it can't, or is wrong."""
    first, last = given[0], given[-1]
    if node.op in {"Add", "Sub", "Mul", "Div"}:
        try:
            return math.prod(np.broadcast_shapes(first.dims, last.dims))
        except ValueError:
            return 0
    axis = int(node.get("axis", 0))
    if node.op == "Gather" and -len(first.dims) <= axis < len(first.dims):
        return first.elements // max(1, first.dims[axis]) * last.elements
    return 0


def _feeds_weight(graph: Graph, tensor: str) -> bool:
    """Every reader takes the tensor as a weight, if need be through operators that only move values."""
    pending = [tensor]
    while pending:
        tensor = pending.pop()
        readers = graph.consumers(tensor)
        for reader in readers:
            if reader.op in {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"} and reader.inputs[0] == tensor:
                pending.append(reader.outputs[0])
            elif reader.domain or not any(
                s < len(reader.inputs) and reader.inputs[s] == tensor for s in SLOTS.get(reader.op, ())
            ):
                return False
        if not readers:
            return False
    return True


def _evaluate(node: Node, values: dict[str, Array], opset: int) -> Array | None:
    """The output of one operator; None where the reference evaluator can't compute it."""
    proto = onnx.helper.make_node(node.op, node.inputs, node.outputs)
    proto.attribute.extend(node.attributes.values())
    inputs = [onnx.ValueInfoProto(name=n) for n in values]
    graph = onnx.helper.make_graph([proto], "fold", inputs, [onnx.ValueInfoProto(name=node.outputs[0])])
    opset = max(opset, _EVALUATED.get(node.op, 1))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        return np.asarray(cast(list[Any], ReferenceEvaluator(model).run(None, values))[0])
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError, NotImplementedError):
        return None  # it stays an operator, and ONNX Runtime says what is wrong with it, if anything


def _share_equal(model: Model) -> bool:
    """Constants of equal content become one, in the outermost graph."""
    top, first, changed = model.graph, {}, False
    for graph in list(top.graphs()):
        for name, constant in list(graph.constants.items()):
            if constant.elements < _COMPARED or constant.data_type not in _FLOATS or graph.is_output(name):
                continue
            array = np.ascontiguousarray(constant.array())
            key = (constant.data_type, constant.dims, hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest())
            if key not in first:
                first[key] = (graph, name)
                continue
            home, kept = first[key]
            if home is not top:
                moved = top.fresh(kept)
                content = home.constants.pop(kept)
                content.name = moved
                top.constants[moved] = content
                home.replace_uses(kept, moved)
                first[key], kept = (top, moved), moved
            graph.replace_uses(name, kept)
            del graph.constants[name]
            changed = True
    return changed


def _refresh(graph: Graph) -> None:
    """Bring the edges of all operators with bodies up to date, the innermost first."""
    for node in graph.nodes:
        for bodies in node.bodies.values():
            for body in bodies:
                _refresh(body)
        if node.bodies:
            graph.refresh(node)


# -- operators ----------------------------------------------------------------------------------------------------------------


def _drop_idle(model: Model) -> bool:
    changed = False
    for graph, node in list(model.graph.walk()):
        if node.domain:
            continue
        if node.op == "Identity" or (node.op == "Dropout" and _inference_dropout(graph, node)):
            changed = graph.bypass(node) or changed
    return changed


def _inference_dropout(graph: Graph, node: Node) -> bool:
    mask_read = (
        len(node.outputs) > 1
        and node.outputs[1]
        and (graph.consumers(node.outputs[1]) or graph.is_output(node.outputs[1]))
    )
    if mask_read:
        return False
    if len(node.inputs) > 2 and node.inputs[2]:
        training = graph.constant(node.inputs[2])
        return training is not None and not bool(training.array().any())
    return True


def _only_reader(graph: Graph, tensor: str) -> Node | None:
    readers = graph.consumers(tensor)
    if len(readers) != 1 or graph.is_output(tensor):
        return None
    return readers[0] if readers[0].inputs.count(tensor) == 1 else None


def _floats(graph: Graph, tensor: str) -> Array | None:
    """A constant as float32."""
    constant = graph.constant(tensor) if tensor else None
    return np.asarray(constant.array(), np.float32) if constant is not None and constant.data_type in _FLOATS else None


def _fold_batch_norm(model: Model) -> bool:
    changed = False
    for graph, node in list(model.graph.walk()):
        if node.domain or node.op not in {"Conv", "ConvTranspose", "Gemm"}:
            continue
        norm = _only_reader(graph, node.outputs[0])
        if norm is None or norm.op != "BatchNormalization" or norm.inputs[0] != node.outputs[0]:
            continue
        if norm.get("training_mode", 0) or not norm.get("spatial", 1) or any(norm.outputs[1:]):
            continue
        weight = _floats(graph, node.inputs[1])
        parameters = [_floats(graph, t) for t in norm.inputs[1:5]]
        bias = _floats(graph, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1, np.float32)
        if weight is None or bias is None or len(parameters) != 4 or any(p is None for p in parameters):
            continue
        if node.op == "Gemm" and (node.get("alpha", 1.0) != 1.0 or node.get("beta", 1.0) != 1.0 or bias.ndim > 1):
            continue
        scale, shift, mean, variance = (np.asarray(p, np.float64) for p in parameters)
        axis, groups = _output_axis(node)
        channels = weight.shape[axis] * groups if weight.ndim >= 2 else 0
        fits = all(p.shape == (channels,) for p in (scale, shift, mean, variance)) and bias.size in (1, channels)
        if not fits or not 1 <= groups <= weight.shape[0] or weight.shape[0] % groups:
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.constant(node.inputs[1]).data_type)  # type: ignore[union-attr]
        factor = scale / np.sqrt(variance + norm.get("epsilon", 1e-5))
        scaled = _scale_outputs(weight, factor, axis, groups).astype(dtype)
        moved = ((bias - mean) * factor + shift).astype(dtype)
        if not (np.isfinite(scaled.astype(np.float32)).all() and np.isfinite(moved.astype(np.float32)).all()):
            continue
        _set_weight(graph, node, scaled)
        graph.set_input(node, 2, graph.add_constant(f"{node.label}.bias", moved))
        graph.bypass(norm)
        changed = True
    return changed


def _output_axis(node: Node) -> tuple[int, int]:
    """The weight's axis that counts outputs, and how many groups repeat it."""
    if node.op == "ConvTranspose":
        return 1, int(node.get("group", 1))
    return (0 if node.op == "Conv" or node.get("transB", 0) else 1), 1


def _scale_outputs(weight: Array, factor: Array, axis: int, groups: int) -> Array:
    """Each output's weights times its factor, in float64."""
    if groups > 1:  # [in, out/group, ...]: a group's inputs lie together along axis 0
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).astype(np.float64)
        shape = [groups, 1, weight.shape[1]] + [1] * (weight.ndim - 2)
        return (grouped * factor.reshape(shape)).reshape(weight.shape)
    shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
    return np.asarray(weight.astype(np.float64) * factor.reshape(shape))


def _set_weight(graph: Graph, node: Node, value: Array) -> None:
    """Give an operator its own new weight, under the old name where nobody else reads it."""
    name = node.inputs[1]
    if (
        name in graph.constants
        and graph.consumers(name) == [node]
        and node.inputs.count(name) == 1
        and not graph.is_output(name)
    ):
        graph.constants[name].replace(value)
    else:
        graph.set_input(node, 1, graph.add_constant(name, value))


def _fold_conv_bias(model: Model) -> bool:
    changed = False
    for graph, node in list(model.graph.walk()):
        if node.domain or node.op not in {"Conv", "ConvTranspose"} or (len(node.inputs) > 2 and node.inputs[2]):
            continue
        add, weight = _only_reader(graph, node.outputs[0]), graph.constant(node.inputs[1])
        if add is None or add.domain or add.op != "Add" or weight is None:
            continue
        other = add.inputs[1 - add.inputs.index(node.outputs[0])]
        constant = graph.constant(other)
        axis, groups = _output_axis(node)
        channels = weight.dims[axis] * groups if len(weight.dims) >= 2 else 0
        if constant is None or constant.data_type != weight.data_type or constant.elements != channels:
            continue
        dims = (1,) * (len(weight.dims) - len(constant.dims)) + constant.dims
        if len(dims) != len(weight.dims) or dims[1] != channels:
            continue
        graph.set_input(node, 2, graph.add_constant(f"{node.label}.bias", constant.array().reshape(-1)))
        graph.bypass(add, add.inputs.index(node.outputs[0]))
        changed = True
    return changed


def _matmul_add(model: Model) -> bool:
    candidates = []
    for node in model.graph.nodes:  # ranks are known in the model's own graph only
        if node.op == "MatMul" and not node.domain:
            add, weight = _only_reader(model.graph, node.outputs[0]), model.graph.constant(node.inputs[1])
            if add is not None and add.op == "Add" and not add.domain and weight is not None and len(weight.dims) == 2:
                candidates.append((node, add, weight))
    ranks = _ranks(model) if candidates else {}
    changed = False
    for node, add, weight in candidates:
        slot = add.inputs.index(node.outputs[0])
        bias = model.graph.constant(add.inputs[1 - slot])
        if (
            ranks.get(node.inputs[0]) != 2
            or bias is None
            or bias.data_type != weight.data_type
            or weight.data_type not in _FLOATS
        ):
            continue
        if bias.elements != weight.dims[1] or bias.dims[-1:] != weight.dims[1:] or len(bias.dims) > 2:
            continue
        name = (
            model.graph.add_constant(f"{node.label}.bias", bias.array().reshape(-1))
            if len(bias.dims) == 2
            else bias.name
        )
        gemm = Node("Gemm", [*node.inputs, name], list(add.outputs), name=node.name, proto=node.proto)
        model.graph.add(gemm, before=add)
        model.graph.remove(add)
        model.graph.remove(node)
        model.graph.value_info.pop(node.outputs[0], None)
        changed = True
    return changed


def _ranks(model: Model) -> dict[str, int]:
    """Ranks of the tensors whose shape can be inferred."""
    try:
        inferred = onnx.shape_inference.infer_shapes(to_proto(model)).graph
    except (ModelError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    found = [*inferred.value_info, *inferred.input, *inferred.output]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in found if v.type.tensor_type.HasField("shape")}
