"""The C kernels, each layer run from its packed form, through cffi."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._core import ffi, lib
from ..errors import FormatError, InputError, UserError
from ..followers import Follower, apply
from ..weight import Weight
from .base import ACTIVATIONS, Activations, Array, Compiled, LayerSpec
from .inputs import LayerInputs

_FORMATS: dict[str, int] = {"f32": lib.EIE_F32, "i16": lib.EIE_I16, "u8": lib.EIE_U8}
_AUTO_PAD = {"NOTSET": lib.EIE_PAD_EXPLICIT, "SAME_UPPER": lib.EIE_PAD_SAME_UPPER, "SAME_LOWER": lib.EIE_PAD_SAME_LOWER,
             "VALID": lib.EIE_PAD_VALID}  # fmt: skip
_STEP_NS = 25_000  # what it costs to leave ONNX Runtime for one layer and come back: Python, two cffi calls, views
_CONV_GAIN = 2.5  # the same for a convolution, whose size is not known at load: the least speed-up worth it
_FOLLOW = {"Add": lib.EIE_FOLLOW_ADD, "Add channel": lib.EIE_FOLLOW_ADD_CHANNEL, "Relu": lib.EIE_FOLLOW_RELU,
           "Clip": lib.EIE_FOLLOW_CLIP, "LeakyRelu": lib.EIE_FOLLOW_LEAKY}  # fmt: skip
_DIRECTIONS = {"forward": lib.EIE_FORWARD, "reverse": lib.EIE_REVERSE, "bidirectional": lib.EIE_BIDIRECTIONAL}


@dataclass(frozen=True)
class Verdict:
    """What should run a layer on this machine.

    Attributes:
        dense: the dense operator, on the weight decoded once at load, is expected to be faster.
        kernel: name of the kernel, or ``dense``.
        why: one sentence.
        speedup: how many times faster it is expected to be than the other way; 0 where there is no other.
        vector_ns: expected time, for one input vector of a matrix or one output position of a convolution; 0: not known.
    """

    dense: bool
    kernel: str
    why: str
    speedup: float = 0.0
    vector_ns: float = 0.0


def isa() -> str:
    """The instruction set in use."""
    return str(ffi.string(lib.eie_isa()).decode())


def isas() -> list[str]:
    """Those this build holds and this machine can run, best first."""
    found: list[str] = []
    while (name := lib.eie_isa_available(len(found))) != ffi.NULL:
        found.append(ffi.string(name).decode())
    return found


def verdict_of(op: str, attributes: Mapping[str, Any], weight: Weight, activations: Activations, *,
               step: bool = True) -> Verdict:  # fmt: skip
    """Sparse or dense for an ``ai.eie`` operator of ``op`` with ``weight`` (docs/decisions/0003).

    Args:
        step: running it packed means leaving ONNX Runtime for a step of its own, which has to be worth it.
    """
    verdict = ffi.new("eie_verdict *")
    if op in ("Conv", "ConvTranspose"):
        held = _weight(weight)
        lib.eie_conv_choose(
            held[0], _conv_params(op, attributes, weight.shape), weight.nonzeros, _FORMATS[activations], verdict
        )
        if step and activations == "f32" and not verdict.dense and verdict.speedup < _CONV_GAIN:
            why = f"{weight.density:.0%} kept: {verdict.speedup:.1f} times dense is not worth a step of its own"
            return Verdict(True, "dense", why, 1 / verdict.speedup, verdict.dense_ns)
    elif op in ("Gemm", "LSTM", "GRU"):
        out, inner = math.prod(weight.shape[:-1]), weight.shape[-1]
        lib.eie_gemm_choose(out, inner, weight.nonzeros, weight.codebook.size, _FORMATS[activations], verdict)
        saved = verdict.dense_ns - verdict.packed_ns
        if step and activations == "f32" and 0 <= saved < _STEP_NS:
            why = f"too small: the packed form would save {saved / 1000:.0f} us, and its own step costs {_STEP_NS / 1000:.0f} us"
            return Verdict(True, "dense", why, vector_ns=verdict.dense_ns)
    elif op == "Gather":
        return Verdict(False, "gather_f32_code256_scalar", "only the rows asked for are decoded")
    else:
        return Verdict(True, "dense", "decoded once at load: no compressed form of its reader")
    return Verdict(
        bool(verdict.dense),
        ffi.string(verdict.kernel).decode(),
        ffi.string(verdict.why).decode(),
        verdict.speedup,
        verdict.dense_ns if verdict.dense else verdict.packed_ns,
    )


def layer_verdict(spec: LayerSpec, *, step: bool = True) -> Verdict | None:
    """``verdict_of`` for a whole layer, dense where all its weights are; None where there is no choice."""
    if spec.op == "Gather" or spec.attributes.get("layout", 0):  # ONNX Runtime computes no batch-first recurrence
        return None
    verdicts = [verdict_of(spec.op, spec.attributes, w, spec.activations, step=step) for w in spec.weights]
    return next((v for v in verdicts if not v.dense), verdicts[0])


class CpuBackend:
    """Compiles layers for the C kernels; ``threads`` share the work of one call.

    Raises:
        UserError: a number of threads that is no positive number up to 256.
    """

    name = "cpu"
    formats = ACTIVATIONS

    def __init__(self, threads: int = 1) -> None:
        self._pool = ffi.NULL
        if threads > 1:
            made = ffi.new("eie_parallel **")
            status = lib.eie_pool_create(threads, made)
            if status != lib.EIE_OK:
                raise UserError(
                    f"can't start {threads} threads: {message(status)}", where="threads", hint="1 to 256 are possible"
                )
            self._pool = ffi.gc(made[0], lib.eie_pool_free)

    def compile(self, spec: LayerSpec) -> Compiled:
        """Pack a layer.

        Raises:
            FormatError: the weight and the attributes do not fit each other.
        """
        makers: dict[str, Callable[[LayerSpec, Any], _Layer]] = {
            "Gemm": _Gemm, "Conv": _Conv, "ConvTranspose": _Conv, "LSTM": _Recurrent, "GRU": _Recurrent, "Gather": _Gather,
        }  # fmt: skip
        layer = makers[spec.op](spec, self._pool)
        follow = partial(_Followed, layer) if isinstance(layer, _Gemm | _Conv) else None
        return Compiled(layer, layer.kernel, bytes=layer.bytes, follow=follow)

    def verdict(self, spec: LayerSpec) -> Verdict | None:
        """Sparse or dense for a layer; None where there is no choice."""
        return layer_verdict(spec)


def message(status: int) -> str:
    return str(ffi.string(lib.eie_status_message(status)).decode())


def _floats(array: Array | None) -> Any:
    return ffi.NULL if array is None else ffi.from_buffer("float[]", array)


def _weight(weight: Weight) -> tuple[Any, ...]:
    """An ``eie_weight *`` and what it points to, which must live as long."""
    codes, codebook = np.ascontiguousarray(weight.codes), np.ascontiguousarray(weight.codebook)
    dims = ffi.new("uint64_t[]", list(weight.shape))
    held = ffi.new("eie_weight *")
    held.codes = ffi.from_buffer("uint8_t[]", codes) if codes.size else ffi.NULL
    held.codebook = ffi.from_buffer("float[]", codebook)
    held.codebook_size, held.rank, held.dims = codebook.size, len(weight.shape), dims
    return held, codes, codebook, dims


def _conv_params(op: str, attributes: Mapping[str, Any], shape: Sequence[int]) -> Any:
    spatial = len(shape) - 2
    params = ffi.new("eie_conv_params *")
    params.spatial, params.transposed = spatial, op == "ConvTranspose"
    params.group = attributes.get("group", 1)
    params.auto_pad = _AUTO_PAD[attributes.get("auto_pad", "NOTSET")]
    for field, count, default in (("strides", spatial, 1), ("dilations", spatial, 1), ("pads", 2 * spatial, 0),
                                  ("output_padding", spatial, 0), ("output_shape", spatial, 0)):  # fmt: skip
        values = attributes.get(field) or [default] * count
        for i, value in enumerate(values):
            getattr(params, field)[i] = value
    return params


class _Layer(ABC):
    """A packed layer; calling it runs it."""

    def __init__(self, spec: LayerSpec, pool: Any) -> None:
        self.inputs = LayerInputs(spec)
        self.where = self.inputs.where
        self._pool = pool
        made = ffi.new("eie_layer **")
        status = self._create(spec, [_weight(w) for w in spec.weights], made)
        if status == lib.EIE_E_MEMORY:
            raise MemoryError(f"{self.where}: {message(status)}")
        if status != lib.EIE_OK:
            raise FormatError(message(status), where=self.where, hint="The artifact is damaged, or needs a newer eie")
        self._layer = ffi.gc(made[0], lib.eie_layer_free)
        self.kernel = str(ffi.string(lib.eie_layer_kernel(self._layer)).decode())

    @property
    def bytes(self) -> int:
        """What the layer holds by now: the first batch that it is given adds to it."""
        return int(lib.eie_layer_bytes(self._layer))

    @abstractmethod
    def _create(self, spec: LayerSpec, weights: Sequence[tuple[Any, ...]], made: Any) -> int: ...

    @abstractmethod
    def bind(self, inputs: Sequence[Array | None]) -> tuple[Callable[[], int], list[Array | None]]:
        """A call with everything in its place, which gives a status, and the outputs it writes each time."""

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        call, outputs = self.bind(inputs)
        self.check(call(), "can't run")
        return outputs

    def check(self, status: int, what: str) -> None:
        if status == lib.EIE_E_MEMORY:
            raise MemoryError(f"{self.where}: {message(status)}")
        if status != lib.EIE_OK:
            raise InputError(f"{what}: {message(status)}", where=self.where)


class _Product(_Layer):
    """A layer whose output pass takes followers."""

    axis: int  # of the channels, from the end

    @abstractmethod
    def bind(self, inputs: Sequence[Array | None],
             after: Callable[[tuple[int, ...]], tuple[Any, int]] = lambda shape: (ffi.NULL, 0),
             ) -> tuple[Callable[[], int], list[Array | None]]:  # fmt: skip
        """As of every layer; ``after`` gives the ``eie_follower *`` for an output of a shape, and how many there are."""


class _Followed:
    """A layer and what follows it, in one call."""

    def __init__(self, layer: _Product, followers: Sequence[Follower]) -> None:
        self._layer, self._followers = layer, tuple(followers)
        self._operands = sum(f.operand for f in followers)
        self._fixed = self._array([])

    def _array(self, operands: Sequence[Array]) -> Any:
        made, rest = ffi.new("eie_follower[]", len(self._followers)), iter(operands)
        for f, to in zip(self._followers, made, strict=True):
            to.kind = _FOLLOW["Add channel" if f.channels is not None else f.op]
            to.low, to.high = f.low, f.high
            if f.op == "Add" and (f.channels is not None or operands):
                to.operand = _floats(next(rest) if f.channels is None else f.channels)
        return made

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        layer, count = self._layer, len(self._followers)
        if not self._operands:
            call, outputs = layer.bind(inputs, lambda shape: (self._fixed, count))
            layer.check(call(), "can't run")
            return outputs
        operands = [layer.inputs.operand(a) for a in inputs[-self._operands :]]
        fits: list[bool] = []

        def after(shape: tuple[int, ...]) -> tuple[Any, int]:
            fits.append(all(a.shape == shape for a in operands))
            return (self._array(operands), count) if fits[0] else (ffi.NULL, 0)

        call, outputs = layer.bind(inputs[: -self._operands], after)
        layer.check(call(), "can't run")
        if fits[0] or outputs[0] is None:
            return outputs
        return [apply(self._followers, outputs[0], operands, axis=layer.axis)]  # shapes that broadcast


class _Gemm(_Product):
    axis = -1

    def _create(self, spec: LayerSpec, weights: Sequence[tuple[Any, ...]], made: Any) -> int:
        self.out = spec.weights[0].shape[0]
        return int(lib.eie_gemm_create(weights[0][0], _FORMATS[spec.activations], self._pool, made))

    def bind(self, inputs: Sequence[Array | None],
             after: Callable[[tuple[int, ...]], tuple[Any, int]] = lambda shape: (ffi.NULL, 0),
             ) -> tuple[Callable[[], int], list[Array | None]]:  # fmt: skip
        x, bias = self.inputs.gemm(inputs)
        y = np.empty((*x.shape[:-1], self.out), np.float32)
        batch = math.prod(x.shape[:-1])
        return partial(
            lib.eie_gemm_run_followed,
            self._layer,
            _floats(x),
            batch,
            _floats(bias),
            *after(y.shape),
            _floats(y),
            self._pool,
        ), [y]


class _Conv(_Product):
    def _create(self, spec: LayerSpec, weights: Sequence[tuple[Any, ...]], made: Any) -> int:
        shape = spec.weights[0].shape
        self.axis = 1 - len(shape)
        return int(
            lib.eie_conv_create(
                weights[0][0], _conv_params(spec.op, spec.attributes, shape), _FORMATS[spec.activations], made
            )
        )

    def bind(self, inputs: Sequence[Array | None],
             after: Callable[[tuple[int, ...]], tuple[Any, int]] = lambda shape: (ffi.NULL, 0),
             ) -> tuple[Callable[[], int], list[Array | None]]:  # fmt: skip
        x, bias = self.inputs.conv(inputs)
        sizes, found = ffi.new("int64_t[]", list(x.shape[1:])), ffi.new("int64_t[]", x.ndim - 1)
        self.check(lib.eie_conv_output_dims(self._layer, sizes, found), f"can't take X of shape {list(x.shape)}")
        y = np.empty((x.shape[0], *found), np.float32)
        n = x.shape[0]
        return partial(
            lib.eie_conv_run_followed,
            self._layer,
            _floats(x),
            n,
            sizes,
            _floats(bias),
            *after(y.shape),
            _floats(y),
            self._pool,
        ), [y]


class _Recurrent(_Layer):
    def _create(self, spec: LayerSpec, weights: Sequence[tuple[Any, ...]], made: Any) -> int:
        a, r = spec.attributes, spec.weights[1].shape
        params = ffi.new("eie_recurrent_params *")
        params.cell = lib.EIE_LSTM if spec.op == "LSTM" else lib.EIE_GRU
        params.direction = _DIRECTIONS[a.get("direction", "forward")]
        params.hidden, params.layout = r[2], a.get("layout", 0)
        params.input_forget = a.get("input_forget", 0)
        params.linear_before_reset = a.get("linear_before_reset", 0)
        params.clip = a.get("clip", 0.0)
        self.directions, self.hidden, self.layout = r[0], r[2], params.layout
        self.wanted = [*spec.outputs, False, False, False][: 3 if spec.op == "LSTM" else 2]
        return int(lib.eie_recurrent_create(weights[0][0], weights[1][0], params, _FORMATS[spec.activations], self._pool, made))

    def bind(self, inputs: Sequence[Array | None]) -> tuple[Callable[[], int], list[Array | None]]:
        given = self.inputs.recurrence(inputs)
        batch, time, d, h = given.batch, given.steps, self.directions, self.hidden
        state = (batch, d, h) if self.layout else (d, batch, h)
        full = (batch, time, d, h) if self.layout else (time, d, batch, h)
        outputs: list[Array | None] = [np.empty(shape, np.float32) if wanted else None
                                       for shape, wanted in zip((full, state, state), self.wanted, strict=False)]  # fmt: skip
        io = ffi.new("eie_recurrent_io *")
        io.x, io.time, io.batch = _floats(given.x), time, batch
        io.sequence_lengths = ffi.NULL if given.lengths is None else ffi.from_buffer("int32_t[]", given.lengths)
        io.bias, io.peephole = _floats(given.bias), _floats(given.peephole)
        io.initial_h, io.initial_c = _floats(given.initial_h), _floats(given.initial_c)
        io.y, io.y_h, io.y_c = (_floats(a) for a in [*outputs, None][:3])
        held = (given, *outputs)  # the structure holds addresses
        return lambda: int(lib.eie_recurrent_run(self._layer, io, self._pool)) if held else 0, outputs


class _Gather(_Layer):
    def _create(self, spec: LayerSpec, weights: Sequence[tuple[Any, ...]], made: Any) -> int:
        self.shape = spec.weights[0].shape[1:]
        return int(lib.eie_gather_create(weights[0][0], made))

    def bind(self, inputs: Sequence[Array | None]) -> tuple[Callable[[], int], list[Array | None]]:
        picked = self.inputs.indices(inputs)
        y = np.empty((*picked.shape, *self.shape), np.float32)
        return partial(
            lib.eie_gather_run, self._layer, ffi.from_buffer("int64_t[]", picked), picked.size, _floats(y)
        ), [y]
