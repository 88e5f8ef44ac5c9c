"""Names and notes that nobody outside of a model sees: exporters make them long, and a small model's file then holds little else."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

from onnx import TensorProto

from eie.runtime.operators import DOMAIN

from ..ir.graph import Model

_EXPORTERS = ("pkg.torch.", "pkg.onnxscript.")  # keys of what exporters note for themselves
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def shorten(model: Model, keep: Collection[str] = ()) -> int:
    """Give tensors between operators, and constants, short names and take those of operators away, but for compressed layers', which
    recipes, reports and `eie explain` go by; returns the bytes of names saved. What was noted of operators and tensors (by exporters:
    where in which source they come from) goes. Inputs, outputs, and tensors of the model's own graph that are to be kept keep their
    names, and what the model as a whole says of itself stays."""
    _forget(model)
    if any(graph.extra.quantization_annotation for graph in model.graph.graphs()):
        return 0  # these go by tensors' names
    fresh = _short(model.graph.names())
    payloads = _payloads(model)
    saved = 0
    for graph in list(model.graph.graphs()):
        for name in [
            n
            for n in graph.constants
            if n not in keep and n not in payloads and not graph.is_input(n) and not graph.is_output(n)
        ]:
            if len(name) > 3:
                new = next(fresh)
                saved += (len(name) - len(new)) * (1 + len(graph.consumers(name)))
                graph.rename(name, new)
        for node in graph.nodes:
            if node.domain != DOMAIN and node.name:
                saved += len(node.name)
                node.name = ""
            for name in [o for o in node.outputs if o and o not in keep and not graph.is_output(o)]:
                if len(name) > 3:
                    new = next(fresh)
                    saved += (len(name) - len(new)) * (1 + len(graph.consumers(name)))
                    graph.rename(name, new)
    return saved


def _forget(model: Model) -> None:
    for graph in model.graph.graphs():
        graph.extra.ClearField("metadata_props")
        for node in graph.nodes:
            if node.proto is not None:
                node.proto.ClearField("metadata_props")
                node.proto.ClearField("doc_string")
        for info in graph.value_info.values():
            info.ClearField("metadata_props")
            info.ClearField("doc_string")
    kept = [p for p in model.extra.metadata_props if not p.key.startswith(_EXPORTERS)]
    del model.extra.metadata_props[:]
    model.extra.metadata_props.extend(kept)


def _payloads(model: Model) -> set[str]:
    """Names of payloads: errors go by them. A layer's other constants are of other types."""
    graphs = list(model.graph.graphs())
    read = {i for graph in graphs for node in graph.nodes if node.domain == DOMAIN for i in node.inputs}
    return {n for graph in graphs for n, c in graph.constants.items() if n in read and c.data_type == TensorProto.UINT8}


def _short(taken: set[str]) -> Iterator[str]:
    """Short names that are not in use, the shortest first."""
    for length in itertools.count(1):
        for letters in itertools.product(_DIGITS, repeat=length):
            name = "".join(letters)
            if not name[0].isdigit() and name not in taken:
                yield name
