"""numpy, slow and plain: the specification of what compressed layers compute (docs/numerics.md).

f32 sums in float64 and rounds once. i16 and u8 sum exactly: as products of float64 matrices, which is exact while every
sum stays below 2^53 (a row of 2^25 weights, in i16).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import numerics
from ..errors import FormatError, InputError
from ..weight import Weight
from .base import ACTIVATIONS, Activations, Array, Compiled, LayerSpec, Run
from .inputs import LayerInputs

Floats = npt.NDArray[np.float32]
_MOST = 1 << 25  # weights a row of an exact sum may have
_MOST_OUTPUTS = 1 << 28  # values a convolution may give: 2 GiB of sums


class ReferenceBackend:
    """Compiles layers to numpy. What sums the products may be another (backends/hardware.py); all else is computed here."""

    name = "reference"
    formats: tuple[Activations, ...] = ACTIVATIONS

    def compile(self, spec: LayerSpec) -> Compiled:
        makers: dict[str, Callable[[LayerSpec, ReferenceBackend], Run]] = {
            "Gemm": _gemm, "Conv": Convolution, "ConvTranspose": Convolution, "LSTM": _Lstm, "GRU": _Gru, "Gather": _gather,
        }  # fmt: skip
        return Compiled(makers[spec.op](spec, self), self.name)

    def matrix(self, spec: LayerSpec, weight: Weight) -> Matrix:
        """A layer's matrix, or one of several."""
        return Matrix(weight, spec.activations)

    def taps(self, spec: LayerSpec) -> Taps:
        """A convolution's kernel."""
        return Taps(spec)


def _numbers(weight: Weight, activations: Activations) -> tuple[npt.NDArray[np.float64], Any]:
    """A weight's values as numbers to sum, and what they count: an exponent (i16) or a step (u8)."""
    if activations == "f32":
        return weight.codebook.astype(np.float64)[weight.codes], None
    book, unit = (
        numerics.codebook_i16(weight.codebook) if activations == "i16" else numerics.codebook_u8(weight.codebook)
    )
    return book.astype(np.float64)[weight.codes], unit


class Matrix:
    """A compressed matrix, and its product with vectors in an activation format.

    Args:
        weight: codes [..., n]; leading axes are rows.
        activations: the format.
    """

    def __init__(self, weight: Weight, activations: Activations) -> None:
        if activations != "f32" and weight.shape[-1] > _MOST:
            raise FormatError(f"{weight.shape[-1]} weights a row are too many to sum exactly")
        self.activations = activations
        values, self.unit = _numbers(weight, activations)
        self.values = values.reshape(int(np.prod(weight.shape[:-1], dtype=np.int64)), weight.shape[-1])

    def sums(self, q: Array) -> Array:
        """Activations as numbers [m, n] -> [m, rows]: exact in the integer formats."""
        with np.errstate(all="ignore"):
            return q.astype(np.float64) @ self.values.T

    def __call__(self, x: Floats) -> Floats:
        """float32 [m, n] -> [m, rows]; each row of x is one vector."""
        q, scale, finite = _quantized(x, self.activations)
        return _finished(self.sums(q), self.activations, scale, self.unit, finite)


def _quantized(x: Floats, activations: Activations) -> tuple[npt.NDArray[np.float64], Array, npt.NDArray[np.bool_]]:
    """Each sample of x as one vector: numbers to sum (0 for an activation of 0, and so for padding), the scale or exponent,
    whether all is finite."""
    flat = x.reshape(len(x), int(np.prod(x.shape[1:], dtype=np.int64)))
    if activations == "u8":
        q8, scale, zero, finite = numerics.quantize_u8(flat)
        return (q8.astype(np.float64) - zero[:, None]).reshape(x.shape), scale, finite
    if activations == "i16":
        q, exponent, finite = numerics.quantize_i16(flat)
        return q.reshape(x.shape).astype(np.float64), exponent, finite
    return x.astype(np.float64), np.zeros(len(x)), np.ones(len(x), np.bool_)


def _finished(sums: Array, activations: Activations, scale: Array, unit: Any, finite: npt.NDArray[np.bool_]) -> Floats:
    """Outputs of sums [m, ...] of weights times activations; scale and finite [m]."""
    each = (slice(None), *(None,) * (sums.ndim - 1))
    if activations == "f32":
        return sums.astype(np.float32)
    if activations == "i16":
        y = numerics.scale_i16(sums.astype(np.int64), (scale + unit)[each])
    else:
        y = numerics.scale_u8(sums.astype(np.int64), (scale * unit)[each])
    y[~finite] = np.nan
    return y


# -- Gemm, Gather --------------------------------------------------------------------------------------------------------------


def _gemm(spec: LayerSpec, backend: ReferenceBackend) -> Run:
    matrix, given = backend.matrix(spec, spec.weights[0]), LayerInputs(spec)
    out, inner = spec.weights[0].shape

    def run(inputs: Sequence[Array | None]) -> list[Array | None]:
        x, bias = given.gemm(inputs)
        y = matrix(x.reshape(int(np.prod(x.shape[:-1], dtype=np.int64)), inner))
        with np.errstate(invalid="ignore", over="ignore"):  # a damaged bias may hold anything
            return [(y if bias is None else y + bias).reshape(*x.shape[:-1], out)]

    return run


def _gather(spec: LayerSpec, backend: ReferenceBackend) -> Run:
    table, given = spec.weights[0], LayerInputs(spec)

    def run(inputs: Sequence[Array | None]) -> list[Array | None]:
        return [table.codebook[table.codes[given.indices(inputs)]]]

    return run


# -- convolutions -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What one tap of a kernel does: from which places of the input to which of the output, a slice an axis."""

    tap: tuple[int, ...]
    to: tuple[slice, ...]
    of: tuple[slice, ...]


class Taps:
    """A kernel's values as numbers to sum."""

    def __init__(self, spec: LayerSpec) -> None:
        self.group, self.transposed = int(spec.attributes.get("group", 1)), spec.op == "ConvTranspose"
        self.values, self.unit = _numbers(spec.weights[0], spec.activations)

    def sums(self, q: Array, sizes: Sequence[int], places: Sequence[Place], out: int) -> Array:
        """Activations as numbers [n, in, ...] -> [n, out, *sizes]: exact in the integer formats."""
        sums = np.zeros((len(q), out, *sizes))
        inner, own = q.shape[1] // self.group, out // self.group
        for place in places:
            for k in range(self.group):
                rows, channels = slice(k * own, (k + 1) * own), slice(k * inner, (k + 1) * inner)
                first = channels if self.transposed else rows
                here: tuple[Any, ...] = (first, slice(None), *place.tap)
                with np.errstate(all="ignore"):
                    sums[(slice(None), rows, *place.to)] += np.einsum(
                        "co,nc...->no..." if self.transposed else "oc,nc...->no...",
                        self.values[here], q[(slice(None), channels, *place.of)])  # fmt: skip
        return sums


def _reached(size: int, stride: int, shift: int, other: int) -> tuple[slice, slice]:
    """Which of ``size`` places i land in another axis, at i * stride + shift in [0, other): both as slices."""
    first = max(0, -(shift // stride))
    last = min(size - 1, (other - 1 - shift) // stride)
    begin = first * stride + shift
    return slice(first, max(first, last + 1)), slice(begin, max(begin, last * stride + shift + 1), stride)


class Convolution:
    """Conv and ConvTranspose, ONNX's defaults filled in."""

    def __init__(self, spec: LayerSpec, backend: ReferenceBackend) -> None:
        a, shape = spec.attributes, spec.weights[0].shape
        self.spec, self.kernel, self.transposed = spec, shape[2:], spec.op == "ConvTranspose"
        self.given = LayerInputs(spec)
        n = len(self.kernel)
        group = int(a.get("group", 1))
        self.out = shape[1] * group if self.transposed else shape[0]
        self.strides = a.get("strides") or [1] * n
        self.dilations = a.get("dilations") or [1] * n
        self.pads = a.get("pads") or [0] * 2 * n
        self.auto_pad = a.get("auto_pad", "NOTSET")
        self.output_padding = a.get("output_padding") or [0] * n
        self.output_shape = a.get("output_shape") or []
        self.taps = backend.taps(spec)

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        x, bias = self.given.conv(inputs)
        axes = [self._axis(axis, n, list(x.shape)) for axis, n in enumerate(x.shape[2:])]
        sizes = [size for size, _ in axes]
        whole = (len(x), self.out, *sizes)
        if math.prod(whole) > _MOST_OUTPUTS:
            raise InputError(f"the output would have the shape {list(whole)}, more values than backend reference holds",
                             where=self.given.where, hint="Run it on cpu, or look at the layer's strides and pads")  # fmt: skip
        q, scale, finite = _quantized(x, self.spec.activations)
        sums = self.taps.sums(q, sizes, list(self._places(x.shape[2:], axes)), self.out)
        y = _finished(sums, self.spec.activations, scale, self.taps.unit, finite)
        return [y if bias is None else y + bias.reshape(1, -1, *(1,) * len(sizes))]

    def _axis(self, axis: int, n: int, shape: list[int]) -> tuple[int, int]:
        """The output's size along an axis of n places, and the padding before."""
        stride, span = self.strides[axis], self.dilations[axis] * (self.kernel[axis] - 1) + 1
        begin, end = (0, 0) if self.auto_pad == "VALID" else (self.pads[axis], self.pads[axis + len(self.kernel)])
        same = self.auto_pad.startswith("SAME")
        if self.transposed:
            reach = (n - 1) * stride + span + self.output_padding[axis]
            size = reach - begin - end
            if self.output_shape or same:
                size = self.output_shape[axis] if self.output_shape else min(reach, n * stride)
                begin, _ = self._share(max(0, reach - size))
            if size < 1:
                raise InputError(f"can't take X of shape {shape}: the output would be empty", where=self.given.where)
            return size, begin
        if same:
            begin, end = self._share(max(0, (-(-n // stride) - 1) * stride + span - n))
        if n + begin + end < span:
            raise InputError(f"can't take X of shape {shape}: the kernel is larger than the padded input",
                             where=self.given.where)  # fmt: skip
        return (n + begin + end - span) // stride + 1, begin

    def _share(self, total: int) -> tuple[int, int]:
        """Padding before and after."""
        small, large = total // 2, total - total // 2
        return (small, large) if self.auto_pad == "SAME_UPPER" else (large, small)

    def _places(self, shape: Sequence[int], axes: Sequence[tuple[int, int]]) -> Iterator[Place]:
        for tap in itertools.product(*map(range, self.kernel)):
            found = []
            for t, stride, dilation, n, (size, begin) in zip(
                tap, self.strides, self.dilations, shape, axes, strict=True
            ):
                shift = t * dilation - begin
                found.append(
                    _reached(n, stride, shift, size)[::-1] if self.transposed else _reached(size, stride, shift, n)
                )
            yield Place(tap, tuple(to for to, _ in found), tuple(of for _, of in found))


# -- LSTM, GRU ------------------------------------------------------------------------------------------------------------------------


class _Recurrent(ABC):
    """What LSTM and GRU share: directions, layouts, sequence lengths. ``step`` is the cell."""

    gates: int
    apart: tuple[int, ...] = ()
    """Gates whose part of R begins a matrix of its own."""

    def __init__(self, spec: LayerSpec, backend: ReferenceBackend) -> None:
        a = spec.attributes
        self.spec, self.given = spec, LayerInputs(spec)
        w, r = spec.weights
        self.directions, self.hidden, self.inner = r.shape[0], r.shape[2], w.shape[2]
        self.reverse = [a.get("direction", "forward") == "reverse", True][: self.directions]
        if self.directions == 2:
            self.reverse = [False, True]
        self.layout, self.clip = int(a.get("layout", 0)), np.float32(a.get("clip", 0.0))
        n = self.hidden
        self.matrices = [  # of each direction: W, and R in the parts that are multiplied apart
            [backend.matrix(spec, Weight(part, weight.codebook)) for weight, parts in (
                (w, [w.codes[d]]), (r, np.split(r.codes[d], [k * n for k in self.apart]))) for part in parts]
            for d in range(self.directions)
        ]  # fmt: skip

    def clipped(self, g: Floats) -> Floats:
        return np.clip(g, -self.clip, self.clip) if self.clip > 0 else g

    @abstractmethod
    def step(
        self, d: int, x: Floats, h: Floats, c: Floats, bias: Floats, peephole: Floats | None
    ) -> tuple[Floats, Floats]:
        """One step of all sequences that still run: x [batch, input], h and c [batch, hidden], bias [2 * gates * hidden]."""

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        given = self.given.recurrence(inputs)
        x = given.x.swapaxes(0, 1) if self.layout else given.x
        time, batch, d, n = given.steps, given.batch, self.directions, self.hidden
        lengths = np.full(batch, time) if given.lengths is None else given.lengths.astype(np.int64)
        h, c = (self._state(initial, (d, batch, n)) for initial in (given.initial_h, given.initial_c))
        bias, peephole = given.bias, given.peephole
        y = np.zeros((time, d, batch, n), np.float32)
        for k in range(d):
            held = np.zeros(2 * self.gates * n, np.float32) if bias is None else bias[k]
            for step in range(time):
                live = np.flatnonzero(step < lengths)
                if not live.size:
                    break
                at = lengths[live] - 1 - step if self.reverse[k] else np.full(live.size, step)
                with np.errstate(all="ignore"):
                    h[k, live], c[k, live] = self.step(
                        k, x[at, live], h[k, live], c[k, live], held, None if peephole is None else peephole[k]
                    )
                y[at, k, live] = h[k, live]
        outputs = [y.transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)] if self.layout else [y, h, c]
        wanted = [*self.spec.outputs, False, False, False]
        return [
            np.ascontiguousarray(o) if w else None
            for o, w in zip(outputs[: 3 if self.gates == 4 else 2], wanted, strict=False)
        ]

    def _state(self, given: Floats | None, shape: tuple[int, ...]) -> Floats:
        if given is None:
            return np.zeros(shape, np.float32)
        return np.array(given.swapaxes(0, 1) if self.layout else given)


class _Lstm(_Recurrent):
    gates = 4

    def step(
        self, d: int, x: Floats, h: Floats, c: Floats, bias: Floats, peephole: Floats | None
    ) -> tuple[Floats, Floats]:
        n, (w, r) = self.hidden, self.matrices[d]
        g = (w(x) + r(h)) + (bias[: 4 * n] + bias[4 * n :])
        gi, go, gf, gc = (g[:, k * n : (k + 1) * n] for k in range(4))
        if peephole is not None:
            gi, gf = gi + peephole[:n] * c, gf + peephole[2 * n :] * c
        i = numerics.sigmoid(self.clipped(gi))
        f = np.float32(1) - i if self.spec.attributes.get("input_forget", 0) else numerics.sigmoid(self.clipped(gf))
        c = f * c + i * numerics.tanh(self.clipped(gc))
        if peephole is not None:
            go = go + peephole[n : 2 * n] * c
        return numerics.sigmoid(self.clipped(go)) * numerics.tanh(c), c


class _Gru(_Recurrent):
    gates = 3
    apart = (2,)

    def step(
        self, d: int, x: Floats, h: Floats, c: Floats, bias: Floats, peephole: Floats | None
    ) -> tuple[Floats, Floats]:
        n, (w, r, candidate) = self.hidden, self.matrices[d]
        wx, wb, rb = w(x), bias[: 3 * n], bias[3 * n :]
        g = (wx[:, : 2 * n] + r(h)) + (wb[: 2 * n] + rb[: 2 * n])
        gates = numerics.sigmoid(self.clipped(g))
        z, reset = gates[:, :n], gates[:, n:]
        if self.spec.attributes.get("linear_before_reset", 0):
            gh = (wx[:, 2 * n :] + reset * (candidate(h) + rb[2 * n :])) + wb[2 * n :]
        else:
            gh = (wx[:, 2 * n :] + candidate(reset * h)) + (wb[2 * n :] + rb[2 * n :])
        return (np.float32(1) - z) * numerics.tanh(self.clipped(gh)) + z * h, c
