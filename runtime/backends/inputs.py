"""A layer's inputs, checked: backends compute in their own ways, and refuse in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .base import Array, LayerSpec

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Recurrence:
    """What an LSTM or GRU is given, as ONNX names it.

    Attributes:
        x: float32 [steps, batch, input], or [batch, steps, input] with layout 1.
        steps, batch: of it.
        bias: B [directions, 2 * gates * hidden].
        lengths: int32 [batch], each 0 to steps.
        initial_h, initial_c: [directions, batch, hidden], or [batch, directions, hidden] with layout 1.
        peephole: P [directions, 3 * hidden].
    """

    x: Floats
    steps: int
    batch: int
    bias: Floats | None
    lengths: npt.NDArray[np.int32] | None
    initial_h: Floats | None
    initial_c: Floats | None
    peephole: Floats | None


class LayerInputs:
    """Checks the inputs of one layer; arrays come back C-contiguous.

    Raises (every method):
        InputError: one is missing, or of another type or shape; names the layer.
    """

    def __init__(self, spec: LayerSpec) -> None:
        self.spec, self.where = spec, f"layer {spec.name!r} ({spec.op})"

    def _fail(self, what: str) -> InputError:
        return InputError(what, where=self.where)

    def _floats(self, array: Array) -> Floats:
        if array.dtype != np.float32:
            raise self._fail(f"expected float32, got {array.dtype}")
        return np.ascontiguousarray(array)

    def _first(self, inputs: Sequence[Array | None]) -> Floats:
        if not inputs or inputs[0] is None:
            raise self._fail("input X is missing")
        return self._floats(inputs[0])

    def _optional(self, inputs: Sequence[Array | None], slot: int, name: str, shape: tuple[int, ...]) -> Floats | None:
        array = inputs[slot] if slot < len(inputs) else None
        if array is None:
            return None
        array = self._floats(array)
        if array.shape != shape:
            raise self._fail(f"{name} has the shape {list(array.shape)} instead of {list(shape)}")
        return array

    def gemm(self, inputs: Sequence[Array | None]) -> tuple[Floats, Floats | None]:
        """X [..., in] and the bias [out]."""
        (out, inner), x = self.spec.weights[0].shape, self._first(inputs)
        if x.ndim < 1 or x.shape[-1] != inner:
            raise self._fail(f"X has the shape {list(x.shape)}; its last dimension should be {inner}")
        return x, self._optional(inputs, 1, "the bias", (out,))

    def conv(self, inputs: Sequence[Array | None]) -> tuple[Floats, Floats | None]:
        """X [n, in, ...] and the bias [out]."""
        shape, group = self.spec.weights[0].shape, int(self.spec.attributes.get("group", 1))
        inner, out = (shape[0], shape[1] * group) if self.spec.op == "ConvTranspose" else (shape[1] * group, shape[0])
        x = self._first(inputs)
        if x.ndim != len(shape) or x.shape[1] != inner or 0 in x.shape[2:]:
            raise self._fail(
                f"X has the shape {list(x.shape)}; it should have {len(shape)} dimensions and {inner} channels"
            )
        return x, self._optional(inputs, 1, "the bias", (out,))

    def operand(self, given: Array | None) -> Floats:
        """What is added to the output behind the layer."""
        if given is None:
            raise self._fail("an operand of an operator behind it is missing")
        return self._floats(given)

    def indices(self, inputs: Sequence[Array | None]) -> npt.NDArray[np.int64]:
        """Rows of a table, negative ones from its end."""
        given: Any = inputs[0] if inputs else None
        if given is None or given.dtype not in (np.dtype(np.int64), np.dtype(np.int32)):
            raise self._fail(f"the indices are {None if given is None else given.dtype} instead of int64 or int32")
        rows = self.spec.weights[0].shape[0]
        if given.size and not (-rows <= given.min() and given.max() < rows):
            raise self._fail(f"the indices go from {given.min()} to {given.max()}, the table has {rows} rows")
        return (
            np.array(given, np.int64, order="C", copy=None)
            if given.ndim == 0
            else np.ascontiguousarray(given, np.int64)
        )

    def recurrence(self, inputs: Sequence[Array | None]) -> Recurrence:
        """Everything an LSTM or GRU takes."""
        w, r = (weight.shape for weight in self.spec.weights)
        directions, hidden, layout = r[0], r[2], self.spec.attributes.get("layout", 0)
        x = self._first(inputs)
        if x.ndim != 3 or x.shape[2] != w[2]:
            raise self._fail(f"X has the shape {list(x.shape)}; it should be [steps, batch, {w[2]}]")
        batch, steps = x.shape[:2] if layout else x.shape[1::-1]
        state = (batch, directions, hidden) if layout else (directions, batch, hidden)
        lstm = self.spec.op == "LSTM"
        return Recurrence(
            x, steps, batch, self._optional(inputs, 1, "B", (directions, 2 * r[1])), self._lengths(inputs, batch, steps),
            self._optional(inputs, 3, "initial_h", state), self._optional(inputs, 4, "initial_c", state) if lstm else None,
            self._optional(inputs, 5, "P", (directions, 3 * hidden)) if lstm else None,
        )  # fmt: skip

    def _lengths(self, inputs: Sequence[Array | None], batch: int, steps: int) -> npt.NDArray[np.int32] | None:
        lengths: Any = inputs[2] if len(inputs) > 2 else None
        if lengths is None:
            return None
        if lengths.dtype != np.int32 or lengths.shape != (batch,):
            raise self._fail(f"sequence_lens is {lengths.dtype} {list(lengths.shape)} instead of int32 [{batch}]")
        if lengths.size and (lengths.min() < 0 or lengths.max() > steps):
            raise self._fail(f"sequence_lens has {lengths.min()} to {lengths.max()}, X has {steps} steps")
        return np.ascontiguousarray(lengths)
