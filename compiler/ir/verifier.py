"""Says what is broken in a Graph, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import networkx as nx
import onnx

from ..errors import VerifyError
from .graph import Constant, Graph, Model, Node

_BODY_INPUTS = {"then_branch": 0, "else_branch": 0}
_KIND = onnx.AttributeProto


def verify(model: Model) -> None:
    """Raises VerifyError that lists what is broken in ``model`` and where; quiet where nothing is."""
    found = list(problems(model))
    if found:
        raise VerifyError(found, model.path)


def problems(model: Model) -> Iterator[str]:
    """Every problem as ``path: what``; a path reads like ``main/If_3/then_branch``."""
    domains = set(model.graph.opsets)
    for function in model.extra.functions:
        domains.add(function.domain)
    yield from _graph(model.graph, model.graph.name or "main", set(), domains)


def _graph(graph: Graph, path: str, outer: set[str], domains: set[str]) -> Iterator[str]:
    if not nx.is_directed_acyclic_graph(graph.structure):
        cycle = [edge[0].label for edge in nx.find_cycle(graph.structure)]
        yield f"{path}: operators read each other in a circle: {' -> '.join(cycle[:6])}"
        return
    nodes = graph.nodes
    sparse = {s.values.name for s in graph.extra.sparse_initializer}
    own = [i.name for i in graph.inputs]
    for name, count in Counter(own).items():
        if count > 1:
            yield f"{path}: the input {name!r} stands {count} times"
    written = Counter(o for n in nodes for o in n.outputs if o)
    fed = set(own) | set(graph.constants) | sparse
    for name, count in written.items():
        if count > 1 or name in fed:
            yield f"{path}: the tensor {name!r} is written more than once"
    known = outer | fed | set(written)
    for node in nodes:
        yield from _node(graph, node, f"{path}/{node.label}", known, domains)
    for output in graph.outputs:
        if output.name not in known:
            yield f"{path}: nothing writes the output {output.name!r}"
    for name, constant in graph.constants.items():
        if name != constant.name:
            yield f"{path}: the constant {name!r} calls itself {constant.name!r}"
        yield from _constant(constant, path)


def _constant(constant: Constant, path: str) -> Iterator[str]:
    content, what = constant.content, f"{path}: the constant {constant.name!r}"
    if constant.data_type not in onnx.TensorProto.DataType.values() or constant.data_type == 0:
        yield f"{what} is of no type ONNX knows ({constant.data_type})"
    elif any(d < 0 for d in constant.dims):
        yield f"{what} has a negative dimension"
    elif not isinstance(content, onnx.TensorProto):
        if content.size != constant.elements:
            yield f"{what} holds {content.size:,} elements, its shape is {list(constant.dims)}"
    elif content.HasField("raw_data"):
        if constant.data_type == onnx.TensorProto.STRING:
            yield f"{what} holds strings as bytes"
        elif len(content.raw_data) != constant.nbytes:
            yield f"{what} holds {len(content.raw_data):,} bytes, its shape and type take {constant.nbytes:,}"
    else:
        try:
            onnx.numpy_helper.to_array(content)
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
            yield f"{what} can't be read: {error}"


def _node(graph: Graph, node: Node, path: str, known: set[str], domains: set[str]) -> Iterator[str]:
    if not node.op:
        yield f"{path}: an operator without a type"
    if node.domain not in domains:
        yield f"{path}: {node.op} is of the domain {node.domain!r}, which the model imports no version of"
    for tensor in node.inputs:
        if tensor and tensor not in known:
            yield f"{path}: it reads {tensor!r}, which nothing writes"
    yield from _signature(graph, node, path)
    for held in node.attributes.values():
        if held.ref_attr_name:
            yield f"{path}: its attribute {held.name!r} names one of a function, and this is none"
        for tensor in [held.t] * (held.type == _KIND.TENSOR) + list(held.tensors):
            yield from _constant(Constant(tensor.name or held.name, tensor), path)
    edges = {
        (k, d["tensor"]) for _, _, k, d in graph.structure.in_edges(node, keys=True, data=True) if isinstance(k, int)
    }
    expected = {(slot, t) for slot, t in enumerate(node.inputs) if t and graph.producer(t) is not None}
    if edges != expected:
        yield f"{path}: its edges are not what it reads"
    for attribute, bodies in node.bodies.items():
        for body in bodies:
            if len(body.inputs) != _BODY_INPUTS.get(attribute, len(body.inputs)):
                yield f"{path}/{attribute}: a branch of If takes no inputs, this one takes {len(body.inputs)}"
            yield from _graph(body, f"{path}/{attribute}", known, domains)


def _signature(graph: Graph, node: Node, path: str) -> Iterator[str]:
    """What ONNX says of an operator's inputs, outputs and attributes; nothing of operators it does not know."""
    try:
        schema = onnx.defs.get_schema(node.op, graph.opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return
    for what, tensors, least, most, formal in (
        ("inputs", node.inputs, schema.min_input, schema.max_input, schema.inputs),
        ("outputs", node.outputs, schema.min_output, schema.max_output, schema.outputs),
    ):
        if not least <= len(tensors) <= most:
            yield f"{path}: {node.op} has {least} to {most} {what}, this one has {len(tensors)}"
        for parameter, tensor in zip(formal, tensors, strict=False):
            if not tensor and parameter.option == onnx.defs.OpSchema.FormalParameterOption.Single:
                yield f"{path}: {node.op} can't do without {parameter.name}, one of its {what}"
    for name, known in schema.attributes.items():
        wanted = known.type.value  # type: ignore[attr-defined]
        if name in node.attributes or name in node.bodies:
            kind = _kind(node, name)
            if kind != wanted:
                yield f"{path}: its attribute {name!r} is {_spell(kind)}, {node.op} wants {_spell(wanted)}"
        elif known.required:
            yield f"{path}: {node.op} can't do without its attribute {name!r}"


def _kind(node: Node, name: str) -> int:
    """The type of an attribute; where it is a body, how many there are says which."""
    if name in node.attributes:
        return int(node.attributes[name].type)
    return int(_KIND.GRAPH)


def _spell(kind: int) -> str:
    return _KIND.AttributeType.Name(kind) if kind in _KIND.AttributeType.values() else f"of type {kind}"
