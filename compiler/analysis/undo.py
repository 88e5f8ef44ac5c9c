"""Trying things out on a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..ir.graph import Model


@contextmanager
def undone(model: Model) -> Iterator[None]:
    """Whatever is done to a model's constants, and to which of them operators read, is undone at the end."""
    held = [
        (
            graph,
            {n: (c, c.content, c.transposed) for n, c in graph.constants.items()},
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
            for constant, content, transposed in constants.values():
                constant.replace(content, transposed=transposed)
