"""Tensors of one's choice as outputs of a model, those inside of bodies too.

ONNX lets nobody read what a body computes. While ``exposed`` lasts, a tensor in a branch of an If is one more output of both
branches (the other one gives an empty tensor), a tensor in a Scan or a Loop one more scan output, stacked over the iterations,
and so on outwards until it is an output of the model. Afterwards the model is as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import onnx

from ..ir.graph import Graph, Model, Node
from .fidelity import outputs_of


@dataclass(frozen=True)
class Place:
    """A tensor somewhere in a model.

    Attributes:
        graph: where it is known.
        tensor: its name there; "" for an output of ``node`` that nobody reads.
        data_type: of ONNX, of its elements.
        node, slot: the operator and the output that an empty ``tensor`` stands for.
    """

    graph: Graph
    tensor: str
    data_type: int = onnx.TensorProto.FLOAT
    node: Node | None = None
    slot: int = 0


@dataclass(frozen=True)
class Exposed:
    """Attributes:
    name: of the model's output.
    stacked: how many leading axes count iterations of Scan and Loop.
    """

    name: str
    stacked: int


@contextmanager
def exposed(model: Model, places: Sequence[Place]) -> Iterator[list[Exposed | None]]:
    """While it lasts, the model's outputs are the ``places``; None stands for one that can't be read from outside."""
    owners = {
        body: (graph, node, attribute)
        for graph in model.graph.graphs()
        for node in graph.structure
        for attribute, bodies in node.bodies.items()
        for body in bodies
    }
    with ExitStack() as undo:
        found = [_expose(model.graph, place, owners, undo) for place in places]
        undo.enter_context(outputs_of(model, [e.name for e in found if e is not None]))
        yield found


def _expose(top: Graph, place: Place, owners: dict[Graph, tuple[Graph, Node, str]], undo: ExitStack) -> Exposed | None:
    graph, tensor = place.graph, place.tensor
    if not tensor:
        if place.node is None:
            return None
        tensor = top.fresh("exposed")
        _with_output(place.node, place.slot, tensor, undo)
    stacked, inside = 0, graph is not top
    while graph is not top:
        outer, node, _ = owners[graph]
        if node.domain or node.op not in {"If", "Scan", "Loop"}:
            return None
        if inside:  # a body's own input can't be its output
            copy = Node("Identity", [tensor], [top.fresh("exposed")])
            graph.add(copy)
            undo.callback(graph.remove, copy)
            tensor, inside = copy.outputs[0], False
        for bodies in node.bodies.values():
            for body in bodies:
                name = tensor
                if body is not graph:  # the branch that was not taken gives nothing
                    name = body.add_constant("nothing", _empty(place.data_type))
                    undo.callback(_forget, body, name)
                body.outputs.append(onnx.helper.make_tensor_value_info(name, place.data_type, None))
                undo.callback(body.outputs.pop)
        if node.op == "Scan" and "scan_output_axes" in node.attributes:
            _longer(node, "scan_output_axes", undo)
        if node.op == "Scan" and "scan_output_directions" in node.attributes:
            _longer(node, "scan_output_directions", undo)
        stacked += node.op != "If"
        tensor = top.fresh("exposed")
        _with_output(node, len(node.outputs), tensor, undo)
        graph = outer
    return Exposed(tensor, stacked)


def _with_output(node: Node, slot: int, name: str, undo: ExitStack) -> None:
    before = node.outputs
    node.outputs = [*before, *[""] * (slot + 1 - len(before))]
    node.outputs[slot] = name
    undo.callback(_set_outputs, node, before)


def _set_outputs(node: Node, outputs: list[str]) -> None:
    node.outputs = outputs


def _longer(node: Node, attribute: str, undo: ExitStack) -> None:
    before = node.attributes[attribute]
    node.set(attribute, [*node.get(attribute), 0])
    restore: Callable[..., None] = node.attributes.__setitem__
    undo.callback(restore, attribute, before)


def _forget(body: Graph, name: str) -> None:
    del body.constants[name]


def _empty(data_type: int) -> np.ndarray:
    return np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(data_type))
