"""The registry of operators: ONNX's meaning of each, in torch, by name.

A function takes the call (the node, the version of the operator set, attributes) and the node's inputs, None for one left
out, and gives one tensor, or a tuple of them. Differences between versions of an operator are settled inside of its function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx
import torch
from torch import Tensor as Tensor

from ...errors import ModelError
from ...ir.graph import Graph, Node

Value = Any  # Tensor, a list of tensors (a sequence), or None

_DTYPES = {
    "FLOAT": torch.float32,
    "DOUBLE": torch.float64,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    # torch has no arithmetic for these: numbers of the next wider type
    "UINT16": torch.int32,
    "UINT32": torch.int64,
    "UINT64": torch.int64,
    "INT4": torch.int8,
    "UINT4": torch.uint8,
}
NARROW_FLOATS = (torch.float16, torch.bfloat16)


class Host(Protocol):
    """What an operator with bodies asks the network for."""

    widen: bool
    batched: bool
    device: torch.device

    def run_body(self, graph: Graph, values: Sequence[Value], scope: Scope) -> list[Value]: ...
    def constant(self, graph: Graph, name: str) -> Tensor: ...


class Scope:
    """The tensors of one run of a graph by name; a body sees those of the graphs around it."""

    def __init__(self, graph: Graph, host: Host, parent: Scope | None = None) -> None:
        self.graph, self.host, self.parent = graph, host, parent
        self.values: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            if name in scope.graph.constants:
                return scope.host.constant(scope.graph, name)
            scope = scope.parent
        raise ModelError("a tensor that nothing computes", where=name)


@dataclass
class Call:
    """One operator about to run."""

    node: Node
    opset: int
    scope: Scope

    def get(self, attribute: str, default: Any = None) -> Any:
        return self.node.get(attribute, default)

    def ints(self, attribute: str, given: Tensor | None = None) -> list[int] | None:
        """A list of whole numbers that is an input in newer versions and was an attribute before."""
        if given is not None:
            return whole(given)
        found = self.get(attribute)
        return None if found is None else [int(v) for v in found]

    @property
    def device(self) -> torch.device:
        return self.scope.host.device

    def refuse(self, what: str) -> ModelError:
        """The error for an option that is not computed here."""
        return ModelError(f"{self.node.op}: training does not know {what}", where=self.node.label)


Function = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """An operator's meaning, and whether gradients pass through it from its first input to its first output."""

    run: Function
    gradient: Callable[[Node], bool]


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, gradient: bool | Callable[[Node], bool] = True) -> Callable[[Function], Function]:
    """Registers a function under operator names."""

    def register(function: Function) -> Function:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = Operator(function, gradient if callable(gradient) else lambda node: gradient)
        return function

    return register


def dtype_of(data_type: int, widen: bool) -> torch.dtype:
    """The torch type an ONNX type is computed in; ``widen``: floats of 16 bits as float32.

    Raises:
        ModelError: torch has no such type.
    """
    name = onnx.TensorProto.DataType.Name(data_type)
    if name not in _DTYPES:
        raise ModelError(f"training does not know tensors of {name.lower()}")
    found = _DTYPES[name]
    return torch.float32 if widen and found in NARROW_FLOATS else found


def whole(tensor: Tensor) -> list[int]:
    """The values of a tensor of whole numbers."""
    return [int(v) for v in tensor.reshape(-1).tolist()]


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis
