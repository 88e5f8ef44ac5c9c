"""What can be compressed: the weights of a model, each seen through the operator that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from eie.runtime.codec import MAX_RANK
from eie.runtime.weight import Pattern, Weight

from ..ir.graph import Constant, Graph, Model, Node
from .constants import designed

SLOTS: dict[str, tuple[int, ...]] = {  # operator -> the inputs that may be weights
    "Gemm": (1,),
    "MatMul": (1, 0),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Gather": (0,),
    "Einsum": (0, 1),
}
RECURRENT = {"LSTM", "GRU", "RNN"}
FEWEST = 64  # elements: below, a payload's header takes what coding wins
LISTED = 256  # elements from which a constant that is no weight is worth a line

_NOT_FINITE = "NaN or infinite values"
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_INTEGER_OPERATORS = {
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "QGemm",
    "QAttention",
    "MatMulNBits",
}


@dataclass(frozen=True)
class LeftAlone:
    """A constant that stays as it is: its layer's or its own name, the operator that reads it, why, its bytes.

    ``wanted`` says that it is a weight that should have been compressed: what --strict asks for.
    """

    name: str
    op: str
    why: str
    bytes: int
    wanted: bool = False


@dataclass(eq=False)
class Layer:
    """One weight, through the operator that uses it.

    Attributes:
        name: what recipes and reports call it: the operator's name; with ``.W`` or ``.R`` for recurrent operators.
        graph, node, slot: where it is read.
        constant: the tensor; operators that share it share the layer.
        transposed: the constant is the transpose of ``array()``.
        users: all operators that read the constant.
    """

    name: str
    graph: Graph
    node: Node
    slot: int
    constant: Constant
    transposed: bool
    users: list[Node] = field(default_factory=list)

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in] for matrices; kernels and recurrent weights as their operator has them."""
        return self.constant.dims[::-1] if self.transposed else self.constant.dims

    @property
    def size(self) -> int:
        return self.constant.elements

    @property
    def weight(self) -> Weight | None:
        return self.constant.weight

    def array(self) -> npt.NDArray[np.float32]:
        """The weight as float32, of ``shape``; a compressed one decoded."""
        if self.weight is not None and self.constant.transposed == self.transposed:
            return self.weight.dense()  # not rounded to the constant's type: payloads hold float32
        dense = np.asarray(self.constant.array(), np.float32)
        return np.ascontiguousarray(dense.T if self.transposed else dense)

    @property
    def pattern(self) -> Pattern:
        """How its zeros lie, as the pass that pruned it left them."""
        return self.constant.pattern

    def set_array(self, array: npt.NDArray[Any], pattern: Pattern = "unstructured") -> None:
        """Give the weight other values, [shape], whose zeros lie so."""
        dense = array.T if self.transposed else array
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.constant.data_type)
        values = np.ascontiguousarray(dense).reshape(self.constant.dims).astype(dtype)
        self.constant.replace(values, pattern=pattern)

    def set_weight(self, weight: Weight) -> None:
        """Give the weight a compressed form, codes of ``shape``."""
        assert weight.shape == self.shape
        self.constant.replace(weight, transposed=self.transposed)


def find_layers(model: Model, designed_too: Callable[[str], bool] = lambda name: False) -> tuple[list[Layer], list[LeftAlone]]:
    """All weights in the order they are used, bodies included, and the constants left alone, with the reasons.

    Args:
        designed_too: which constants that look designed (constants.py) are weights all the same, by the layer's name.
    """
    layers: dict[Constant, Layer] = {}
    refused: dict[Constant, LeftAlone] = {}
    names: dict[str, int] = {}
    outputs = {o.name for graph in model.graph.graphs() for o in graph.outputs}
    for graph, node in model.graph.walk():
        for slot, constant, transposed in _weights(graph, node):
            if constant in layers:
                layers[constant].users.append(node)
                continue
            if constant in refused:
                continue
            name = node.label + (f".{'_WR'[slot]}" if node.op in RECURRENT else "")
            why = _refusal(outputs, node, slot, constant, designed_too(name))
            if why is not None:
                refused[constant] = LeftAlone(name, node.op, why, constant.nbytes, wanted=why.endswith(_NOT_FINITE))
                continue
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:
                name = f"{name}#{names[name]}"
            layers[constant] = Layer(name, graph, node, slot, constant, transposed, [node])
    rest = [
        LeftAlone(name, reader.op if reader else "-", why, constant.nbytes)
        for name, constant, reader, why in _others(model, layers, refused)
    ]
    return list(layers.values()), [*refused.values(), *rest]


def _weights(graph: Graph, node: Node) -> Iterator[tuple[int, Constant, bool]]:
    if node.domain:
        return
    for slot in SLOTS.get(node.op, ()):
        constant = graph.constant(node.inputs[slot]) if slot < len(node.inputs) else None
        if constant is None or constant.data_type not in _FLOATS or len(constant.dims) < 2:
            continue
        matrix = len(constant.dims) == 2
        transposed = matrix and (
            (node.op == "Gemm" and not node.get("transB", 0)) or (node.op == "MatMul" and slot == 1)
        )
        yield slot, constant, transposed


def _refusal(outputs: Set[str], node: Node, slot: int, constant: Constant, designed_too: bool) -> str | None:
    if constant.name in outputs:
        return "it is also an output of the graph"
    if len(constant.dims) > MAX_RANK:
        return f"it has {len(constant.dims)} dimensions, and payloads hold up to {MAX_RANK}"
    if constant.elements < FEWEST:
        return f"{constant.elements} elements are too few to gain anything"
    with np.errstate(invalid="ignore"):
        array = np.asarray(constant.array(), np.float32)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        return f"it holds {bad:,} {_NOT_FINITE}"
    if node.op == "Gather" and node.get("axis", 0) != 0 and array.ndim < 2:
        return "a table of single numbers"
    return None if node.op in RECURRENT or designed_too else designed(array, node.op, slot)


def _others(
    model: Model, layers: dict[Constant, Layer], refused: dict[Constant, LeftAlone]
) -> Iterator[tuple[str, Constant, Node | None, str]]:
    for graph in model.graph.graphs():
        for name, constant in graph.constants.items():
            if (
                constant in layers
                or constant in refused
                or constant.elements < LISTED
                or constant.data_type == onnx.TensorProto.STRING
            ):
                continue
            reader = next(iter(graph.consumers(name)), None)
            kind = onnx.TensorProto.DataType.Name(constant.data_type).lower()
            if reader is not None and (reader.op in _INTEGER_OPERATORS or reader.op == "DequantizeLinear"):
                why = f"{reader.op} works on integers: its {kind} weights are stored as they are"
            elif constant.data_type == onnx.TensorProto.DOUBLE:
                why = "float64 is left as it is"
            elif constant.data_type not in _FLOATS:
                why = f"{kind} values are no weights"
            elif reader is not None and reader.op in SLOTS and not reader.domain:
                why = f"not the weight of {reader.op}: a bias, a state, or an operand"
            elif reader is not None and reader.domain:
                why = f"{reader.domain}.{reader.op} is no operator this toolchain knows"
            else:
                why = f"{reader.op if reader else 'nothing'} has no weights to compress"
            yield name, constant, reader, why
