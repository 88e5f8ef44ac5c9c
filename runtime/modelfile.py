"""Reads a model file for running: parsed, checked to be one this library knows, local functions inlined.

Files come from strangers, so nothing is believed before it is looked at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FormatError, ModelError
from .operators import DOMAIN, VERSION

if TYPE_CHECKING:
    import onnx

    Bodies = list[tuple[str, onnx.GraphProto]]

Source = str | os.PathLike[str] | bytes
PROGRAM = b"EIEP"
"""What a program of the accelerator begins with (hardware/program.py)."""
MOST_NODES = 1_000_000
"""Of a model, its functions inlined: a few hundred bytes of functions that call each other can come to any number."""


def describe(source: Source) -> str:
    """What errors call a source."""
    return f"a model of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def load_model(source: Source) -> onnx.ModelProto:
    """Read a model or artifact. External data stays where it is (``Tensors`` reads it).

    Model-local functions that hold compressed layers are inlined, so that every such layer stands in a graph.

    Raises:
        ModelError: no file, no ONNX, damaged.
        FormatError: an artifact newer than this library.
    """
    import onnx
    from google.protobuf.message import DecodeError

    where = describe(source)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except IsADirectoryError:
        raise ModelError("this is a directory", where=where, hint="Give the .onnx file inside it") from None
    except OSError as error:
        raise ModelError(f"can't be read: {error.strerror or error}", where=where) from error
    except ValueError as error:  # a path with a zero byte
        raise ModelError(f"not a path: {error}", where=repr(source)) from error
    if not content:
        raise ModelError("the file is empty", where=where, hint="It was perhaps not written or downloaded completely")
    check_no_program(content, where)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError("not an ONNX model, or cut short", where=where,
                         hint="Write or download the file again") from error  # fmt: skip
    if not model.ir_version or not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("not an ONNX model: it holds no graph", where=where)
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ModelError("holds a name that is no UTF-8", where=where, hint="The file is damaged")
    check_functions(model, where)
    _check_version(model, where)
    return _inline_functions(model, where)


def check_no_program(content: bytes, where: str) -> None:
    """Raises ModelError for a program of the accelerator: what it computes between its layers is not in it."""
    if content.startswith(PROGRAM):
        raise ModelError("is an accelerator program, no model", where=where,
                         hint="Give the artifact it was made from; `eie disasm` shows the program")  # fmt: skip


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every name in a model; protobuf gives bytes for one that is damaged."""
    yield from (o.domain for o in model.opset_import)
    yield from _graph_texts(model.graph)
    for function in model.functions:
        yield from (function.domain, function.name, *function.input, *function.output)
        yield from (o.domain for o in function.opset_import)
        yield from _node_texts(function.node)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[object]:
    yield graph.name
    for info in (*graph.input, *graph.output):
        yield info.name
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer)):
        yield tensor.name
        yield from (text for e in tensor.external_data for text in (e.key, e.value))
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for _, body in bodies_of(node):
            yield from _graph_texts(body)


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Domain -> version the model imports; ``ai.onnx`` is the domain ``""``."""
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}


def _check_version(model: onnx.ModelProto, where: str) -> None:
    imported = opset_versions(model).get(DOMAIN)
    if imported is None and (
        has_layers(model.graph) or any(n.domain == DOMAIN for f in model.functions for n in f.node)
    ):
        raise FormatError(f"uses operators of {DOMAIN} without saying of which version", where=where,
                          hint="The file was not written by this project, or was changed after")  # fmt: skip
    if imported is not None and not 1 <= imported <= VERSION:
        raise FormatError(f"needs version {imported} of {DOMAIN}, and this library knows up to {VERSION}",
                          where=where, hint="Install a newer eie")  # fmt: skip


def _inline_functions(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    from onnx import inliner

    holders: set[tuple[str, str]] = set()
    while True:  # a function that calls one that holds a layer holds it too
        more = {
            (f.domain, f.name)
            for f in model.functions
            if any(n.domain == DOMAIN or (n.domain, n.op_type) in holders for n in _walk_nodes(f.node))
        }
        if more == holders:
            break
        holders = more
    if not holders:
        return model
    try:
        return inliner.inline_selected_functions(model, sorted(holders))
    except (RuntimeError, ValueError, TypeError) as error:  # what the C++ inliner raises, by version
        raise ModelError(f"its functions can't be inlined: {error}", where=where) from error


def check_functions(model: onnx.ModelProto, where: str) -> None:
    """What inlines the model's functions, as ONNX Runtime does with every model, comes to an end.

    Raises:
        ModelError: a function calls itself, or the calls come to more than ``MOST_NODES`` nodes.
    """
    calls = {(f.domain, f.name, f.overload): Counter((n.domain, n.op_type, n.overload) for n in _walk_nodes(f.node))
             for f in model.functions}  # fmt: skip
    nodes: dict[tuple[str, str, str], int] = {}  # with everything they call
    while calls:
        leaves = [name for name, called in calls.items() if called.keys().isdisjoint(calls)]
        if not leaves:
            raise ModelError(f"its function {next(iter(calls))[1]!r} calls itself", where=where)
        for name in leaves:
            nodes[name] = sum(count * (1 + nodes.get(called, 0)) for called, count in calls.pop(name).items())
    total = sum(1 + nodes.get((n.domain, n.op_type, n.overload), 0) for n in _walk_nodes(model.graph.node))
    if nodes and total > MOST_NODES:
        raise ModelError(f"its functions come to {total:.3g} nodes, and more than {MOST_NODES:,} are not read",
                         where=where, hint="This file may not be trustworthy")  # fmt: skip


# -- graphs ------------------------------------------------------------------------------------------------------------


def bodies_of(node: onnx.NodeProto) -> Bodies:
    """The graphs among a node's attributes, with the attribute's name."""
    found: Bodies = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append((attribute.name, attribute.g))
        found.extend((attribute.name, graph) for graph in attribute.graphs)
    return found


def _walk_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for _, body in bodies_of(node):
            yield from _walk_nodes(body.node)


def has_layers(graph: onnx.GraphProto) -> bool:
    """Whether a graph or one of its bodies holds a compressed layer."""
    return any(node.domain == DOMAIN for node in _walk_nodes(graph.node))


def label(node: onnx.NodeProto) -> str:
    """What people call a node: its name, or its first output where it has none."""
    return node.name or next((o for o in node.output if o), node.op_type)
