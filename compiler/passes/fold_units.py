"""Take units away that compute nothing: exact, and what is left is a smaller model.

Pruning leaves units (a matrix's rows, a convolution's channels) that nothing enters or nothing leaves. One that nothing enters is
the constant a(b), its bias through the activation a; what the next layer makes of it is a part of that layer's bias:

    W2 a(W1 x + b1) + b2,  row u of W1 zero   =   W2' a(W1' x + b1') + (b2 + W2[:, u] a(b1[u]))

with row u, entry u and column u left out. One that nothing leaves is left out with its row. Deep Compression's pruning
(Han et al., NIPS 2015, section 3.4) lets such neurons die and takes their weights away; here their biases and their places in
the index go too. Chains of Gemm and Conv are followed through activations, pooling and flattening.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eie.runtime.weight import Weight

from ..analysis.layers import Layer
from ..ir.graph import Constant, Graph, Model, Node
from .base import Layers, LedgerEntry, Pass, PassResult, Select, all_layers, every

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_ACTIVATIONS: dict[str, Callable[[Node, Array], Array]] = {
    "Identity": lambda node, x: x,
    "Relu": lambda node, x: np.maximum(x, 0),
    "LeakyRelu": lambda node, x: np.where(x < 0, node.get("alpha", 0.01) * x, x),
    "Sigmoid": lambda node, x: 1 / (1 + np.exp(-x)),
    "Tanh": lambda node, x: np.tanh(x),
}
_POOLING = {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}


@dataclass(frozen=True)
class FoldUnits(Pass):
    """Remove units without inputs or without outputs, constants folded into the next bias. Exact up to rounding."""

    name: ClassVar[str] = "fold-units"
    reshapes: ClassVar[bool] = True

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        chosen = [*filter(select, all_layers(model, layers))]
        units = {la.name: la.shape[0] for la in chosen}
        by_node = {id(la.node): la for la in chosen if len(la.users) == 1}
        reasons: dict[str, str] = {}
        changed, again = False, True
        while again:  # what goes from one layer may leave a unit of another without a reader
            again = False
            for layer in chosen:
                found = _follow(layer, by_node)
                if isinstance(found, str):
                    reasons[layer.name] = found
                else:
                    again = _Pair(layer, found).fold() or again
            changed = changed or again
        if changed:
            model.graph.prune()
        entries = []
        for la in chosen:
            gone = units[la.name] - la.shape[0]
            why = reasons.get(la.name) or "all its units are in use"
            kept = float((la.array() != 0).mean())
            entry = LedgerEntry(la.name, f"{gone} of {units[la.name]} units folded away", kept=kept)
            entries.append(entry if gone else LedgerEntry(la.name, reason=why, kept=kept))
        return PassResult(changed, tuple(entries))


@dataclass(frozen=True)
class _Way:
    """What lies between a layer and the next: operators, and the next layer."""

    between: tuple[Node, ...]
    after: Layer
    flat: bool


def _follow(layer: Layer, by_node: dict[int, Layer]) -> _Way | str:
    """The way from a layer to the only one that reads it, or why there is none that this pass knows."""
    graph, node = layer.graph, layer.node
    refused = _unfit(layer)
    if refused:
        return refused
    between: list[Node] = []
    flat = False
    while True:
        tensor = node.outputs[0]
        readers = graph.consumers(tensor)
        if graph.is_output(tensor) or len(readers) != 1 or len([o for o in node.outputs if o]) != 1:
            return "its output is the model's, or more than one operator reads it"
        node = readers[0]
        if id(node) in by_node and by_node[id(node)] is not layer:
            after = by_node[id(node)]
            why = _unfit(after) or ("" if node.inputs[0] == tensor else "it is read as a weight")
            return why or _Way(tuple(between), after, flat)
        if node.domain or not _passes(graph, node, flat):
            return f"{node.op} ({node.label}) follows, which mixes units"
        flat = flat or node.op in ("Flatten", "Reshape")
        between.append(node)


def _passes(graph: Graph, node: Node, flat: bool) -> bool:
    """Whether an operator hands every unit on by itself."""
    if node.op == "Flatten":
        return int(node.get("axis", 1)) == 1
    if node.op == "Reshape":
        shape = graph.constant(node.inputs[1])
        return shape is not None and np.asarray(shape.array()).tolist() == [0, -1]
    return node.op in _ACTIVATIONS or (node.op in _POOLING and not flat)


def _unfit(layer: Layer) -> str:
    """Why a layer's rows and columns can't be taken away; "" where they can."""
    node = layer.node
    if node.op == "Conv":
        fit = int(node.get("group", 1)) == 1
    else:
        plain = all(node.get(k, d) == d for k, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)))
        fit = node.op == "Gemm" and plain and node.inputs[0] != layer.constant.name
    if not fit or len(layer.users) != 1:
        return "only plain Gemm and Conv have units that can be taken away"
    if layer.pattern != "unstructured":
        return f"taking rows away would break its {layer.pattern} pattern"
    bias = _bias(layer)
    if len(node.inputs) > 2 and node.inputs[2]:
        read_once = bias is not None and len(layer.graph.consumers(node.inputs[2])) == 1
        if bias is None or not read_once or bias.elements != layer.shape[0] or layer.graph.is_output(node.inputs[2]):
            return "its bias is computed, shared, or not one number a unit"
    return ""


def _bias(layer: Layer) -> Constant | None:
    inputs = layer.node.inputs
    return layer.graph.constants.get(inputs[2]) if len(inputs) > 2 and inputs[2] else None


class _Pair:
    """A layer and the one that reads it."""

    def __init__(self, layer: Layer, way: _Way) -> None:
        self.layer, self.way, self.after = layer, way, way.after
        self.rows = layer.array()
        self.columns = self._by_unit(self.after.array())

    def _by_unit(self, weight: Array) -> Array:
        """The next layer's weight as [out, units, places of a unit]."""
        return weight.reshape(len(weight), self.layer.shape[0], -1)

    def fold(self) -> bool:
        """Whether units were taken away."""
        if self.after.shape[1] % self.layer.shape[0] or (
            not self.way.flat and self.after.shape[1] != self.layer.shape[0]
        ):
            return False
        values = self._values()
        silent = ~(self.rows.reshape(len(self.rows), -1) != 0).any(1) & self._reaches_whole(values)
        unread = ~(self.columns != 0).any((0, 2))
        gone = silent | unread
        if gone.all():
            gone[0] = False  # an operator needs a dimension that is not zero
        if not gone.any():
            return False
        moved = np.where(gone & ~unread, values, 0)
        if moved.any():
            self._add_to_bias(self.columns.astype(np.float64).sum(2) @ moved)
        self._shrink(~gone)
        return True

    def _values(self) -> Array:
        """What each unit is when nothing enters it, float64 [units]."""
        bias = _bias(self.layer)
        x = np.zeros(len(self.rows)) if bias is None else np.asarray(bias.array(), np.float64).reshape(-1)
        for node in self.way.between:
            x = _ACTIVATIONS[node.op](node, x) if node.op in _ACTIVATIONS else x
        return x

    def _reaches_whole(self, values: Array) -> Mask:
        """Units whose constant is the same everywhere the next layer looks: padding with zeros would show, unless it is zero."""
        padded = [n for n in (*self.way.between, self.after.node) if n.op in ("AveragePool", "Conv") and _padded(n)]
        return np.asarray((values == 0) | (not padded))

    def _add_to_bias(self, more: Array) -> None:
        bias, graph, node = _bias(self.after), self.after.graph, self.after.node
        if bias is None:
            graph.set_input(node, 2, graph.add_constant(f"{self.after.name}.bias", more.astype(np.float32)))
            return
        old = np.asarray(bias.array())
        bias.replace((old.astype(np.float64) + more.reshape(old.shape)).astype(old.dtype))

    def _shrink(self, kept: Mask) -> None:
        bias = _bias(self.layer)
        if bias is not None:
            old = np.asarray(bias.array())
            part = old.reshape(-1)[kept]
            _resize(bias, part.shape if old.ndim == 1 else (1, part.size), part)
        _take(self.layer, lambda a: a[kept])
        columns = np.repeat(kept, self.columns.shape[2]) if self.way.flat else kept
        _take(self.after, lambda a: a[:, columns])
        for node in (self.layer.node, *self.way.between):
            for tensor in node.outputs:
                self.layer.graph.value_info.pop(tensor, None)


def _padded(node: Node) -> bool:
    return node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(node.get("pads", []) or [])


def _take(layer: Layer, part: Callable[[Array], Array]) -> None:
    """Keep a part of a layer's weight."""
    constant, weight = layer.constant, layer.weight
    original = constant.stored
    if weight is not None and constant.transposed == layer.transposed:
        codes = np.ascontiguousarray(part(weight.codes))
        constant.dims = codes.shape[::-1] if layer.transposed else codes.shape
        layer.set_weight(Weight(codes, weight.codebook, weight.pattern))
    else:
        array = np.ascontiguousarray(part(layer.array()))
        constant.dims = array.shape[::-1] if layer.transposed else array.shape
        layer.set_array(array)
    constant.folded_from = original


def _resize(constant: Constant, dims: tuple[int, ...], array: Array) -> None:
    original = constant.stored
    constant.dims = dims
    constant.replace(array.reshape(dims))
    constant.folded_from = original
