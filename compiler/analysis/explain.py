"""Where a compressed model's error comes from: which layer, and which part of what was done to it.

Each layer is put as it became into the original, alone: that is what it costs. The other way round, each is put back as it was into
the compressed model: that is what sparing it would bring. In between stand its weights with only the zeros they got (pruning); what the
shared values add to that is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from eie.runtime.format import decode
from eie.runtime.operators import DOMAIN
from eie.runtime.weight import Weight

from ..errors import ModelError
from ..ir.graph import Model
from .judge import Judge
from .layers import Layer
from .undo import undone

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Became:
    """What a layer became: its weight, and its bias where that was changed too (constant name -> values)."""

    weight: Weight
    bias: Mapping[str, Array]


@dataclass(frozen=True)
class Cause:
    """Attributes:
    layer, op: which.
    alone: error energy at the worst output by its own, with the layer as it became and all others as they were.
    pruning: the same with only the zeros it got; more than ``alone`` where the other weights make up for them.
    sharing: what its shared values add to that.
    spared: by how much the whole error falls when the layer is put back as it was.
    kept, bits: of its weights.
    """

    layer: str
    op: str
    alone: float
    pruning: float
    sharing: float
    spared: float
    kept: float
    bits: int

    def rule(self) -> str:
        """The recipe's lines that leave the layer as it is."""
        return f'[[rule]]\nmatch = "{self.layer}"\nskip = true'

    def json(self) -> dict[str, Any]:
        return {**self.__dict__, "rule": self.rule()}


def became(artifact: Model, layers: Sequence[Layer]) -> dict[str, Became]:
    """What an artifact holds for the layers of the model it was made from.

    Raises:
        ModelError: it holds nothing of them: it was made from another model.
    """
    if DOMAIN not in artifact.graph.opsets:
        raise ModelError("this is no artifact", where=artifact.path, hint="Give what `optimize` wrote, or a recipe.")
    found: dict[str, Became] = {}
    readers = {node.label: (graph, node) for graph, node in artifact.graph.walk() if node.domain == DOMAIN}
    for layer in layers:
        graph_node = readers.get(layer.node.label)
        if graph_node is None or layer.slot >= len(graph_node[1].inputs):
            continue
        held = graph_node[0].constant(graph_node[1].inputs[layer.slot])
        if held is None or held.data_type != onnx.TensorProto.UINT8:  # payloads are bytes
            continue
        weight = decode(held.array())
        if weight.shape != layer.shape:
            smaller = len(weight.shape) == len(layer.shape) and all(a <= b for a, b in zip(weight.shape, layer.shape, strict=True))
            if smaller:
                raise ModelError(
                    f"units of {layer.name} were folded away: of {list(layer.shape)} the artifact holds {list(weight.shape)}, and layers "
                    "can't be compared one by one", where=artifact.path, hint="Give the recipe, or compress without fold-units.",
                )  # fmt: skip
            raise ModelError(
                f"{layer.name} has the shape {list(layer.shape)}, and the artifact holds {list(weight.shape)}",
                where=artifact.path, hint="It was made from another model.",
            )  # fmt: skip
        bias: dict[str, Array] = {}
        slot = 3 if layer.op in {"LSTM", "GRU", "RNN"} else 2
        if slot < len(layer.node.inputs) and slot < len(graph_node[1].inputs):
            own = layer.graph.constant(layer.node.inputs[slot])
            other = graph_node[0].constant(graph_node[1].inputs[slot])
            if (
                own is not None
                and other is not None
                and own.elements == other.elements
                and other.data_type == own.data_type
            ):
                bias[own.name] = other.array().reshape(own.dims)
        found[layer.name] = Became(weight, bias)
    if not found:
        raise ModelError("holds no layer of this model", where=artifact.path, hint="It was made from another model.")
    return found


def changed(layers: Sequence[Layer]) -> dict[str, Became]:
    """What the passes made of the layers, in a model they were just run on."""
    found = {}
    for layer in layers:
        if layer.weight is None:
            continue
        slot = 3 if layer.op in {"LSTM", "GRU", "RNN"} else 2
        name = layer.node.inputs[slot] if slot < len(layer.node.inputs) else ""
        bias = layer.graph.constant(name) if name else None
        found[layer.name] = Became(layer.weight, {} if bias is None else {name: bias.array()})
    return found


def explain(
    model: Model,
    layers: Sequence[Layer],
    found: Mapping[str, Became],
    judge: Judge,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[float, list[Cause]]:
    """The whole error (energy at the worst output by its own), and each layer's part in it, the largest first.

    Args:
        model: the canonical original; as before afterwards.
        layers: of it.
        found: what became of them.
    """
    part = judge.check

    def error() -> float:
        noise, signal = judge.noise(model, part)
        if not np.isfinite(noise).all():
            return float("inf")
        return max(
            (
                float(n.sum() / s.sum()) if s.sum() > 0 else float(n.any())
                for n, s in zip(noise.T, signal.T, strict=True)
            ),
            default=0.0,
        )

    mine = [layer for layer in layers if layer.name in found]
    with undone(model):
        for layer in mine:
            _put(layer, found[layer.name])
        whole = error()
    causes = []
    for layer in mine:
        progress(layer.name)
        now = found[layer.name]
        with undone(model):
            layer.set_array(np.where(now.weight.codes != 0, layer.array(), 0))
            pruning = error()
        with undone(model):
            _put(layer, now)
            alone = error()
        with undone(model):
            for other in mine:
                if other is not layer:
                    _put(other, found[other.name])
            spared = whole - error()
        causes.append(
            Cause(layer.name, layer.op, alone, pruning, max(0.0, alone - pruning), spared, now.weight.density, now.weight.bits)
        )  # fmt: skip
    return whole, sorted(causes, key=lambda c: -c.alone)


def _put(layer: Layer, now: Became) -> None:
    layer.set_weight(now.weight)
    for name, values in now.bias.items():
        constant = layer.graph.constant(name)
        if constant is not None and constant.dims == values.shape:
            constant.replace(values.astype(constant.array().dtype))
