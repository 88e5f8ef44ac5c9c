"""If, Loop and Scan whose bodies hold compressed layers, run step by step as ONNX defines them.

Where the standard leaves room ONNX Runtime is followed: the condition a Loop's body gives counts even where the Loop
was given none, and the unknown dimensions of a scan output that never was written are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import valueinfo
from .errors import InputError
from .program import Program, Values

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]


def _around(program: Program, values: Values) -> dict[str, Any]:
    return {name: values[name] for name in program.captures}


def _number(value: Any, where: str, what: str) -> int:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biu":
        raise InputError(f"its {what} is neither a boolean nor an integer", where=where)
    if value.size != 1:
        raise InputError(f"its {what} has the shape {list(value.shape)} instead of one element", where=where)
    return int(value.reshape(()).item())


def _captures(*programs: Program) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for p in programs for name in p.captures))


@dataclass
class If:
    """ONNX If."""

    where: str
    condition: str
    then_branch: Program
    else_branch: Program
    writes: tuple[str, ...]
    passes_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.reads = (self.condition, *_captures(self.then_branch, self.else_branch))
        self.types: dict[str, onnx.TypeProto] = {
            name: valueinfo.without_shape(kind)
            for name, kind in zip(self.writes, self.then_branch.output_types, strict=False) if name
        }  # fmt: skip

    def run(self, values: Values) -> Sequence[Any]:
        chosen = self.then_branch if _number(values[self.condition], self.where, "condition") else self.else_branch
        return chosen.run({}, _around(chosen, values))


@dataclass
class Loop:
    """ONNX Loop. ``inputs`` as the node has them: trip count, condition ("" for none), values carried along."""

    where: str
    inputs: tuple[str, ...]
    body: Program
    writes: tuple[str, ...]
    counter_shape: tuple[int, ...] = ()
    condition_shape: tuple[int, ...] = ()
    passes_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.reads = tuple(dict.fromkeys([*(n for n in self.inputs if n), *self.body.captures]))
        self.carried = len(self.inputs) - 2
        kinds = self.body.output_types[1:]
        self.types: dict[str, onnx.TypeProto] = {
            n: valueinfo.without_shape(k) for n, k in zip(self.writes, kinds, strict=False) if n
        }

    def run(self, values: Values) -> Sequence[Any]:
        limit, condition = (values[n] if n else None for n in self.inputs[:2])
        trips = None if limit is None else _number(limit, self.where, "trip count")
        go = True if condition is None else bool(_number(condition, self.where, "condition"))
        around = _around(self.body, values)
        state: list[Any] = [values[n] if n else None for n in self.inputs[2:]]
        rows: list[list[Any]] = [[] for _ in self.body.outputs[1 + self.carried :]]
        done = 0
        while go and (trips is None or done < trips):
            fixed = [np.full(self.counter_shape, done, np.int64), np.full(self.condition_shape, go, np.bool_)]
            given = self.body.run(dict(zip(self.body.inputs, [*fixed, *state], strict=True)), around)
            go = bool(_number(given[0], self.where, "condition"))
            state = given[1 : 1 + self.carried]
            for row, value in zip(rows, given[1 + self.carried :], strict=True):
                row.append(value)
            done += 1
        kinds = self.body.output_types[1 + self.carried :]
        return [*state, *(stack(r, k, 0, self.where) for r, k in zip(rows, kinds, strict=True))]


@dataclass
class Scan:
    """ONNX Scan from opset 9 on. ``inputs``: the states, then the sequences to walk along."""

    where: str
    inputs: tuple[str, ...]
    body: Program
    writes: tuple[str, ...]
    sequences: int
    input_axes: Sequence[int]
    input_directions: Sequence[int]
    output_axes: Sequence[int]
    output_directions: Sequence[int]
    passes_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.reads = tuple(dict.fromkeys([*self.inputs, *self.body.captures]))
        self.states = len(self.inputs) - self.sequences
        self.types: dict[str, onnx.TypeProto] = {
            n: valueinfo.without_shape(k) for n, k in zip(self.writes, self.body.output_types, strict=False) if n
        }

    def run(self, values: Values) -> Sequence[Any]:
        around = _around(self.body, values)
        state = [values[n] for n in self.inputs[: self.states]]
        walked = [self._walked(values[n], i) for i, n in enumerate(self.inputs[self.states :])]
        lengths = {len(w) for w in walked}
        if len(lengths) != 1:
            raise InputError(f"its sequences have the different lengths {sorted(lengths)}", where=self.where)
        rows: list[list[Any]] = [[] for _ in self.body.outputs[self.states :]]
        for i in range(lengths.pop()):
            slices = [w[i, ...] for w in walked]
            given = self.body.run(dict(zip(self.body.inputs, [*state, *slices], strict=True)), around)
            state = given[: self.states]
            for row, value in zip(rows, given[self.states :], strict=True):
                row.append(value)
        stacked = []
        for i, (row, kind) in enumerate(zip(rows, self.body.output_types[self.states :], strict=True)):
            ordered = row[::-1] if self.output_directions[i] else row
            stacked.append(stack(ordered, kind, self.output_axes[i], self.where))
        return [*state, *stacked]

    def _walked(self, value: Array, i: int) -> Array:
        """The sequence with the axis to walk along first, in the order it is walked."""
        axis = self.input_axes[i]
        if not -value.ndim <= axis < value.ndim:
            raise InputError(f"walks along axis {axis} of a value of shape {list(value.shape)}", where=self.where)
        moved = np.moveaxis(value, axis, 0)
        return np.ascontiguousarray(moved[::-1] if self.input_directions[i] else moved)


def stack(rows: Sequence[Array], kind: onnx.TypeProto, axis: int, where: str) -> Array:
    """What the iterations gave, along a new axis."""
    if rows:
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            raise InputError(f"an output has different shapes in its iterations: {sorted(shapes)}", where=where)
        rank = rows[0].ndim
        if not -rank - 1 <= axis <= rank:
            raise InputError(f"stacks an output of {rank} dimensions along axis {axis}", where=where)
        return np.stack(rows, axis)
    inner = [d if isinstance(d, int) else 0 for d in valueinfo.shape_of(kind) or []]
    axis = min(max(axis + len(inner) + 1 if axis < 0 else axis, 0), len(inner))
    return np.zeros([*inner[:axis], 0, *inner[axis:]], valueinfo.numpy_type(kind) or np.dtype(np.float32))
