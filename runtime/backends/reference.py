"""numpy, slow and plain: the specification of what compressed layers compute (docs/numerics.md).

f32 sums in float64 and rounds once. i16 and u8 sum exactly: as products of float64 matrices, which is exact while every
sum stays below 2^53 (a row of 2^25 weights, in i16).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import numerics
from ..errors import FormatError, InputError
from ..weight import Weight
from .base import Activations, Array, LayerSpec, Run, as_float32

Floats = npt.NDArray[np.float32]
_MOST = 1 << 25  # weights a row of an exact sum may have
_MOST_OUTPUTS = 1 << 28  # values a convolution may give: 2 GiB of sums


class ReferenceBackend:
    """Compiles layers to numpy."""

    name = "reference"

    def compile(self, spec: LayerSpec) -> Run:
        makers: dict[str, Callable[[LayerSpec], Run]] = {
            "Gemm": _gemm, "Conv": _conv, "ConvTranspose": _conv_transpose, "LSTM": _lstm, "GRU": _gru, "Gather": _gather,
        }  # fmt: skip
        return makers[spec.op](spec)


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

    def rows(self, first: int, last: int) -> Matrix:
        """Some of the rows, quantized as all of them."""
        part = object.__new__(Matrix)
        part.__dict__.update(self.__dict__)
        part.values = self.values[first:last]
        return part

    def __call__(self, x: Floats) -> Floats:
        """float32 [m, n] -> [m, rows]; each row of x is one vector."""
        if self.activations == "f32":
            with np.errstate(all="ignore"):
                return (x.astype(np.float64) @ self.values.T).astype(np.float32)
        if self.activations == "i16":
            q, exponent, finite = numerics.quantize_i16(x)
            sums = (q.astype(np.float64) @ self.values.T).astype(np.int64)
            y = numerics.scale_i16(sums, (exponent + self.unit)[:, None])
        else:
            q8, scale, zero, finite = numerics.quantize_u8(x)
            sums = (q8.astype(np.float64) @ self.values.T).astype(np.int64)
            row_sums = self.values.sum(1).astype(np.int64)
            y = numerics.scale_u8(sums - zero[:, None].astype(np.int64) * row_sums, (scale * self.unit)[:, None])
        y[~finite] = np.nan
        return y


def _where(spec: LayerSpec) -> str:
    return f"layer {spec.name!r} ({spec.op})"


def _first(inputs: Sequence[Array | None], where: str) -> Floats:
    if not inputs or inputs[0] is None:
        raise InputError("input X is missing", where=where)
    return as_float32(inputs[0], where)


def _optional(
    inputs: Sequence[Array | None], slot: int, name: str, shape: tuple[int, ...], where: str
) -> Floats | None:
    array = inputs[slot] if slot < len(inputs) else None
    if array is None:
        return None
    array = as_float32(array, where)
    if array.shape != shape:
        raise InputError(f"{name} has the shape {list(array.shape)} instead of {list(shape)}", where=where)
    return array


# -- Gemm, Gather --------------------------------------------------------------------------------------------------------------


def _gemm(spec: LayerSpec) -> Run:
    matrix, where = Matrix(spec.weights[0], spec.activations), _where(spec)
    out, inner = spec.weights[0].shape

    def run(inputs: Sequence[Array | None]) -> list[Array | None]:
        x = _first(inputs, where)
        if x.ndim < 1 or x.shape[-1] != inner:
            raise InputError(f"X has the shape {list(x.shape)}; its last dimension should be {inner}", where=where)
        bias = _optional(inputs, 1, "the bias", (out,), where)
        y = matrix(x.reshape(int(np.prod(x.shape[:-1], dtype=np.int64)), inner))
        return [(y if bias is None else y + bias).reshape(*x.shape[:-1], out)]

    return run


def _gather(spec: LayerSpec) -> Run:
    table, where = spec.weights[0], _where(spec)

    def run(inputs: Sequence[Array | None]) -> list[Array | None]:
        indices = inputs[0] if inputs else None
        if indices is None or indices.dtype not in (np.dtype(np.int64), np.dtype(np.int32)):
            raise InputError(
                f"the indices are {None if indices is None else indices.dtype} instead of int64 or int32", where=where
            )
        rows = table.shape[0]
        if indices.size and not (-rows <= indices.min() and indices.max() < rows):
            raise InputError(
                f"the indices go from {indices.min()} to {indices.max()}, the table has {rows} rows", where=where
            )
        return [table.codebook[table.codes[indices]]]

    return run


# -- convolutions -----------------------------------------------------------------------------------------------------------------


class _Geometry:
    """A convolution's attributes, ONNX's defaults filled in."""

    def __init__(self, spec: LayerSpec) -> None:
        a, self.kernel = spec.attributes, spec.weights[0].shape[2:]
        n = len(self.kernel)
        self.group = int(a.get("group", 1))
        self.strides = a.get("strides") or [1] * n
        self.dilations = a.get("dilations") or [1] * n
        self.pads = a.get("pads") or [0] * 2 * n
        self.auto_pad = a.get("auto_pad", "NOTSET")
        self.output_padding = a.get("output_padding") or [0] * n
        self.output_shape = a.get("output_shape") or []
        self.spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def share(self, total: int) -> tuple[int, int]:
        """Padding before and after."""
        small, large = total // 2, total - total // 2
        return (small, large) if self.auto_pad == "SAME_UPPER" else (large, small)

    def padding(self, axis: int) -> tuple[int, int]:
        if self.auto_pad == "VALID":
            return 0, 0
        return self.pads[axis], self.pads[axis + len(self.kernel)]


def _quantized(x: Floats, activations: Activations) -> tuple[npt.NDArray[np.float64], Array, npt.NDArray[np.bool_]]:
    """Each sample [c, ...] of x as one vector: numbers to sum (0 for an activation of 0, and so for padding), the scale or
    exponent, whether all is finite."""
    flat = x.reshape(len(x), int(np.prod(x.shape[1:], dtype=np.int64)))
    if activations == "u8":
        q8, scale, zero, finite = numerics.quantize_u8(flat)
        return (q8.astype(np.float64) - zero[:, None]).reshape(x.shape), scale, finite
    if activations == "i16":
        q, exponent, finite = numerics.quantize_i16(flat)
        return q.reshape(x.shape).astype(np.float64), exponent, finite
    return x.astype(np.float64), np.zeros(len(x)), np.ones(len(x), np.bool_)


class _Kernel:
    """A kernel's values as numbers to sum, and what makes outputs of the sums."""

    def __init__(self, weight: Weight, activations: Activations) -> None:
        self.activations = activations
        self.values, self.unit = _numbers(weight, activations)

    def finish(self, sums: npt.NDArray[np.float64], scale: Array, finite: npt.NDArray[np.bool_]) -> Floats:
        """sums [n, out, ...] of weights times activations, the zero point taken off these."""
        each = (slice(None), *(None,) * (sums.ndim - 1))
        if self.activations == "f32":
            return sums.astype(np.float32)
        if self.activations == "i16":
            y = numerics.scale_i16(sums.astype(np.int64), (scale + self.unit)[each])
        else:
            y = numerics.scale_u8(sums.astype(np.int64), (scale * self.unit)[each])
        y[~finite] = np.nan
        return y


def _with_bias(y: Floats, bias: Floats | None) -> Floats:
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * (y.ndim - 2))


def _checked(inputs: Sequence[Array | None], spec: LayerSpec, channels: int) -> Floats:
    x, rank = _first(inputs, _where(spec)), len(spec.weights[0].shape)
    if x.ndim != rank or x.shape[1] != channels or 0 in x.shape[2:]:
        raise InputError(
            f"X has the shape {list(x.shape)}; it should have {rank} dimensions and {channels} channels",
            where=_where(spec),
        )
    return x


def _sums(shape: tuple[int, ...], where: str) -> npt.NDArray[np.float64]:
    if math.prod(shape) > _MOST_OUTPUTS:
        raise InputError(f"the output would have the shape {list(shape)}, more values than backend reference holds",
                         where=where, hint="Run it on cpu, or look at the layer's strides and pads")  # fmt: skip
    return np.zeros(shape)


def _reached(size: int, stride: int, shift: int, other: int) -> tuple[slice, slice]:
    """Which of ``size`` places i land in another axis, at i * stride + shift in [0, other): both as slices."""
    first = max(0, -(shift // stride))
    last = min(size - 1, (other - 1 - shift) // stride)
    begin = first * stride + shift
    return slice(first, max(first, last + 1)), slice(begin, max(begin, last * stride + shift + 1), stride)


def _conv(spec: LayerSpec) -> Run:
    g, kernel = _Geometry(spec), _Kernel(spec.weights[0], spec.activations)
    out, inner = spec.weights[0].shape[:2]

    def run(inputs: Sequence[Array | None]) -> list[Array | None]:
        x = _checked(inputs, spec, inner * g.group)
        bias = _optional(inputs, 1, "the bias", (out,), _where(spec))
        begins, sizes = [], []
        for axis, n in enumerate(x.shape[2:]):
            pad = g.padding(axis)
            if g.auto_pad.startswith("SAME"):
                pad = g.share(max(0, (-(-n // g.strides[axis]) - 1) * g.strides[axis] + g.spans[axis] - n))
            room = n + sum(pad) - g.spans[axis]
            if room < 0:
                raise InputError(
                    f"can't take X of shape {list(x.shape)}: the kernel is larger than the padded input",
                    where=_where(spec),
                )
            begins.append(pad[0])
            sizes.append(room // g.strides[axis] + 1)
        sums = _sums((len(x), out, *sizes), _where(spec))
        q, scale, finite = _quantized(x, spec.activations)
        for tap in itertools.product(*map(range, g.kernel)):
            places = [_reached(size, s, t * d - begin, n)
                      for size, s, t, d, begin, n in zip(sizes, g.strides, tap, g.dilations, begins, x.shape[2:],
                                                         strict=True)]  # fmt: skip
            to, of = (tuple(part) for part in zip(*places, strict=True))
            for group in range(g.group):
                rows = slice(group * (out // g.group), (group + 1) * (out // g.group))
                here: tuple[Any, ...] = (rows, slice(None), *tap)
                part = q[(slice(None), slice(group * inner, (group + 1) * inner), *of)]
                sums[(slice(None), rows, *to)] += np.einsum("oc,nc...->no...", kernel.values[here], part)
        return [_with_bias(kernel.finish(sums, scale, finite), bias)]

    return run


def _conv_transpose(spec: LayerSpec) -> Run:
    g, kernel = _Geometry(spec), _Kernel(spec.weights[0], spec.activations)
    inner, out = spec.weights[0].shape[0], spec.weights[0].shape[1] * g.group

    def run(inputs: Sequence[Array | None]) -> list[Array | None]:
        x = _checked(inputs, spec, inner)
        bias = _optional(inputs, 1, "the bias", (out,), _where(spec))
        begins, sizes = [], []
        for axis, n in enumerate(x.shape[2:]):
            reach = (n - 1) * g.strides[axis] + g.spans[axis] + g.output_padding[axis]
            begin, end = g.padding(axis)
            size = reach - begin - end
            if g.output_shape or g.auto_pad.startswith("SAME"):
                size = g.output_shape[axis] if g.output_shape else min(reach, n * g.strides[axis])
                begin, _ = g.share(max(0, reach - size))
            if size < 1:
                raise InputError(
                    f"can't take X of shape {list(x.shape)}: the output would be empty", where=_where(spec)
                )
            begins.append(begin)
            sizes.append(size)
        sums = _sums((len(x), out, *sizes), _where(spec))
        q, scale, finite = _quantized(x, spec.activations)
        for tap in itertools.product(*map(range, g.kernel)):
            places = [_reached(n, s, t * d - begin, size)
                      for n, s, t, d, begin, size in zip(x.shape[2:], g.strides, tap, g.dilations, begins, sizes,
                                                         strict=True)]  # fmt: skip
            of, to = (tuple(part) for part in zip(*places, strict=True))
            for group in range(g.group):
                rows = slice(group * (out // g.group), (group + 1) * (out // g.group))
                channels = slice(group * (inner // g.group), (group + 1) * (inner // g.group))
                here: tuple[Any, ...] = (channels, slice(None), *tap)
                part = q[(slice(None), channels, *of)]
                sums[(slice(None), rows, *to)] += np.einsum("co,nc...->no...", kernel.values[here], part)
        return [_with_bias(kernel.finish(sums, scale, finite), bias)]

    return run


# -- LSTM, GRU ------------------------------------------------------------------------------------------------------------------------


class _Recurrent(ABC):
    """What LSTM and GRU share: directions, layouts, sequence lengths. ``step`` is the cell."""

    gates: int

    def __init__(self, spec: LayerSpec) -> None:
        a = spec.attributes
        self.spec, self.where = spec, _where(spec)
        w, r = spec.weights
        self.directions, self.hidden, self.inner = r.shape[0], r.shape[2], w.shape[2]
        self.reverse = [a.get("direction", "forward") == "reverse", True][: self.directions]
        if self.directions == 2:
            self.reverse = [False, True]
        self.layout, self.clip = int(a.get("layout", 0)), np.float32(a.get("clip", 0.0))
        rows = self.gates * self.hidden
        whole = [Matrix(part, spec.activations) for part in (w, r)]
        self.matrices = [tuple(m.rows(d * rows, (d + 1) * rows) for m in whole) for d in range(self.directions)]

    def clipped(self, g: Floats) -> Floats:
        return np.clip(g, -self.clip, self.clip) if self.clip > 0 else g

    @abstractmethod
    def step(
        self, d: int, x: Floats, h: Floats, c: Floats, bias: Floats, peephole: Floats | None
    ) -> tuple[Floats, Floats]:
        """One step of all sequences that still run: x [batch, input], h and c [batch, hidden], bias [2 * gates * hidden]."""

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        x = _first(inputs, self.where)
        if x.ndim != 3 or x.shape[2] != self.inner:
            raise InputError(
                f"X has the shape {list(x.shape)}; it should be [steps, batch, {self.inner}]", where=self.where
            )
        x = x.swapaxes(0, 1) if self.layout else x
        time, batch, d, n = x.shape[0], x.shape[1], self.directions, self.hidden
        state = (batch, d, n) if self.layout else (d, batch, n)
        bias = _optional(inputs, 1, "B", (d, 2 * self.gates * n), self.where)
        lengths = self._lengths(inputs, batch, time)
        h, c = (self._state(inputs, slot, name, state) for slot, name in ((3, "initial_h"), (4, "initial_c")))
        peephole = _optional(inputs, 5, "P", (d, 3 * n), self.where) if self.gates == 4 else None
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

    def _state(self, inputs: Sequence[Array | None], slot: int, name: str, shape: tuple[int, ...]) -> Floats:
        given = _optional(inputs, slot, name, shape, self.where) if slot < 4 or self.gates == 4 else None
        if given is None:
            given = np.zeros(shape, np.float32)
        return np.array(given.swapaxes(0, 1) if self.layout else given, np.float32)

    def _lengths(self, inputs: Sequence[Array | None], batch: int, time: int) -> npt.NDArray[np.int64]:
        lengths = inputs[2] if len(inputs) > 2 else None
        if lengths is None:
            return np.full(batch, time, np.int64)
        if lengths.dtype != np.int32 or lengths.shape != (batch,):
            raise InputError(
                f"sequence_lens is {lengths.dtype} {list(lengths.shape)} instead of int32 [{batch}]", where=self.where
            )
        if lengths.size and (lengths.min() < 0 or lengths.max() > time):
            raise InputError(
                f"sequence_lens has {lengths.min()} to {lengths.max()}, X has {time} steps", where=self.where
            )
        return lengths.astype(np.int64)


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

    def step(
        self, d: int, x: Floats, h: Floats, c: Floats, bias: Floats, peephole: Floats | None
    ) -> tuple[Floats, Floats]:
        n, (w, r) = self.hidden, self.matrices[d]
        wx, wb, rb = w(x), bias[: 3 * n], bias[3 * n :]
        g = (wx[:, : 2 * n] + r.rows(0, 2 * n)(h)) + (wb[: 2 * n] + rb[: 2 * n])
        gates = numerics.sigmoid(self.clipped(g))
        z, reset = gates[:, :n], gates[:, n:]
        candidate = r.rows(2 * n, 3 * n)
        if self.spec.attributes.get("linear_before_reset", 0):
            gh = (wx[:, 2 * n :] + reset * (candidate(h) + rb[2 * n :])) + wb[2 * n :]
        else:
            gh = (wx[:, 2 * n :] + candidate(reset * h)) + (wb[2 * n :] + rb[2 * n :])
        return (np.float32(1) - z) * numerics.tanh(self.clipped(gh)) + z * h, c


def _lstm(spec: LayerSpec) -> Run:
    return _Lstm(spec)


def _gru(spec: LayerSpec) -> Run:
    return _Gru(spec)
