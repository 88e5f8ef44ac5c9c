"""Trying things out on a model: what is done to it while it lasts is undone at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..ir.graph import Constant, Held, Model


@contextmanager
def undone(model: Model) -> Iterator[None]:
    """Whatever is done to a model's constants, and to which of them operators read, is undone at the end."""
    held = [
        (
            graph,
            {n: (c, c.held) for n, c in graph.constants.items()},
            {n: list(n.inputs) for n in graph.structure},
        )
        for graph in model.graph.graphs()
    ]
    try:
        yield
    finally:
        for graph, constants, inputs in held:
            for node, names in inputs.items():
                if node.inputs != names:
                    for slot, name in enumerate(names):
                        graph.set_input(node, slot, name)
            for name in list(graph.constants):
                if name not in constants:
                    del graph.constants[name]
            for constant, content in constants.values():
                constant.put_back(content)


@contextmanager
def restored(contents: Mapping[Constant, Held]) -> Iterator[None]:
    """While it lasts, constants hold other contents (``Constant.held``)."""
    kept = {constant: constant.held for constant in contents}
    try:
        for constant, held in contents.items():
            constant.put_back(held)
        yield
    finally:
        for constant, held in kept.items():
            constant.put_back(held)
