"""Says what is broken in a Graph, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import networkx as nx
import onnx

from ..errors import VerifyError
from .graph import Graph, Model, Node

_BODY_INPUTS = {"then_branch": 0, "else_branch": 0}


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
        cycle = next(iter(nx.simple_cycles(nx.DiGraph(graph.structure))))
        yield f"{path}: operators read each other in a circle: {' -> '.join(n.label for n in cycle[:6])}"
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
        if constant.data_type not in onnx.TensorProto.DataType.values() or constant.data_type == 0:
            yield f"{path}: the constant {name!r} is of no type ONNX knows ({constant.data_type})"
        elif any(d < 0 for d in constant.dims):
            yield f"{path}: the constant {name!r} has a negative dimension"
        else:
            yield from _content(constant.content, constant, path)


def _content(content: object, constant: object, path: str) -> Iterator[str]:
    from .graph import Constant

    assert isinstance(constant, Constant)
    if not isinstance(content, onnx.TensorProto):
        size = getattr(content, "size", 0)
        if size != constant.elements:
            yield f"{path}: the constant {constant.name!r} holds {size:,} elements, its shape is {list(constant.dims)}"
    elif content.HasField("raw_data") and len(content.raw_data) != constant.nbytes:
        yield f"{path}: the constant {constant.name!r} holds {len(content.raw_data):,} bytes, its shape and type take {constant.nbytes:,}"
    elif not content.HasField("raw_data"):
        try:
            onnx.numpy_helper.to_array(content)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            yield f"{path}: the constant {constant.name!r} can't be read: {error}"


def _node(graph: Graph, node: Node, path: str, known: set[str], domains: set[str]) -> Iterator[str]:
    if not node.op:
        yield f"{path}: an operator without a type"
    if node.domain not in domains:
        yield f"{path}: {node.op} is of the domain {node.domain!r}, which the model imports no version of"
    for tensor in node.inputs:
        if tensor and tensor not in known:
            yield f"{path}: it reads {tensor!r}, which nothing writes"
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
