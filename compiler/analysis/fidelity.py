"""How far a changed model's outputs are from the original's, on given feeds. ONNX Runtime computes both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from eie.runtime.errors import InputError
from eie.runtime.segments import has_recurrent, refuse_empty

from ..data import Feeds, let_go
from ..errors import ModelError
from ..ir.graph import Model
from ..ir.writer import save, to_proto

Array = npt.NDArray[Any]
INLINE_LIMIT = 1_500_000_000  # bytes of constants above which a model goes to ONNX Runtime through a file


class Runner:
    """A model in ONNX Runtime, with tensors of one's choice as outputs.

    Args:
        model: what to run; compressed constants are decoded.
        tensors: names of the model's own graph; the graph's outputs when left out.

    Raises:
        ModelError: ONNX Runtime does not take the model.
    """

    def __init__(self, model: Model, tensors: Sequence[str] | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        self._recurrent = any(node.op in ("LSTM", "GRU") for _, node in model.graph.walk()) or any(
            has_recurrent(function.node) for function in model.extra.functions
        )
        self.names = list(tensors) if tensors is not None else [o.name for o in model.graph.outputs]
        try:
            with outputs_of(model, self.names):
                if sum(c.nbytes for c in model.graph.constants.values()) > INLINE_LIMIT:
                    with tempfile.TemporaryDirectory() as folder:
                        path = Path(folder) / "model.onnx"
                        save(model, path)
                        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                else:
                    content = _needed(to_proto(model)).SerializeToString()
                    self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except _ort_errors() as error:
            raise ModelError(
                f"ONNX Runtime does not take this model: {_first_line(error)}", where=model.path
            ) from error

    def run(self, feeds: Feeds) -> list[Array]:
        """The tensors for one set of feeds.

        Raises:
            ModelError: the model does not run on them.
        """
        try:
            if self._recurrent:
                refuse_empty(feeds)
            found = list(self.session.run(self.names, feeds))
            let_go(feeds)
            return found
        except _refusals() as error:
            raise ModelError(f"the model does not run on this input: {_first_line(error)}") from error


def _needed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without operators that no output depends on: ONNX Runtime would run them."""
    wanted = {o.name for o in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_read_by(node))
    if len(kept) < len(proto.graph.node):
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(kept)]
        del proto.graph.node[:]
        proto.graph.node.extend(kept)
        constants = [t for t in proto.graph.initializer if t.name in wanted]
        if len(constants) < len(proto.graph.initializer):
            constants = [onnx.TensorProto.FromString(t.SerializeToString()) for t in constants]
            del proto.graph.initializer[:]
            proto.graph.initializer.extend(constants)
    return proto


def _read_by(node: onnx.NodeProto) -> set[str]:
    """What an operator reads, in its bodies too (names of a body's own among them)."""
    found = set(node.input)
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            found.update(o.name for o in body.output)
            for inner in body.node:
                found |= _read_by(inner)
    return found


@contextmanager
def outputs_of(model: Model, tensors: Sequence[str]) -> Iterator[None]:
    """While it lasts, ``tensors`` of the model's own graph are its outputs."""
    own = model.graph.outputs
    known = {**model.graph.value_info, **{o.name: o for o in own}}
    model.graph.outputs = [known.get(n, onnx.ValueInfoProto(name=n)) for n in dict.fromkeys(tensors)]
    try:
        yield
    finally:
        model.graph.outputs = own


def _ort_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def _refusals() -> tuple[type[Exception], ...]:
    return (InputError, ValueError, TypeError, RuntimeError, *_ort_errors())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def judged_tensors(model: Model) -> list[str]:
    """What outputs are compared on: each output, or the floats it was rounded from where it holds whole numbers."""
    found = []
    for output in model.graph.outputs:
        name = output.name
        while True:
            node = model.graph.producer(name)
            if node is None or node.op not in {
                "QuantizeLinear",
                "ArgMax",
                "Cast",
                "Identity",
                "Reshape",
                "Squeeze",
                "Unsqueeze",
            }:
                break
            if node.op not in {"QuantizeLinear", "ArgMax", "Cast"} and not _whole(output):
                break
            name = node.inputs[0]
        found.append(name if _whole(output) else output.name)
    return list(dict.fromkeys(found))


def _whole(info: onnx.ValueInfoProto) -> bool:
    return info.type.tensor_type.elem_type not in {
        0,
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }


@dataclass(frozen=True)
class Fidelity:
    """Attributes:
    sqnr_db: 10 log10(|y|^2 / |y - y'|^2) in dB, that three quarters of the samples reach, of the output that is worst. (A
        mean would be set by one sample that hardly changes, or by one on the edge of a decision.) Infinity: equal; minus
        infinity: a value that was finite is not, or the other way round.
    worst: the output that sets it.
    top1_agreement: share of samples whose largest element of the first output is the same; None where no output
        holds two or more values a sample.
    samples: how many feeds were compared.
    """

    sqnr_db: float
    worst: str
    top1_agreement: float | None
    samples: int


def decibels(ratio: float) -> float:
    """-10 log10 of a noise-to-signal ratio; infinity for 0."""
    return float("inf") if ratio == 0 else float(-10 * np.log10(ratio)) if np.isfinite(ratio) else float("-inf")


def noise_ratio(original: Array, changed: Array) -> float:
    """|y - y'|^2 / |y|^2 in float64; non-finite elements count only where they differ, as infinitely wrong.
    Noise on outputs that were all zero counts as much as a signal."""
    if original.dtype == object or original.dtype.kind in "USb" or original.shape != changed.shape:
        return 0.0 if original.shape == changed.shape and bool((original == changed).all()) else float("inf")
    y, z = original.astype(np.float64), changed.astype(np.float64)
    finite = np.isfinite(y)
    if not np.array_equal(finite, np.isfinite(z)):
        return float("inf")
    y, z = y[finite], z[finite]
    signal, noise = float(np.square(y).sum()), float(np.square(y - z).sum())
    return 0.0 if noise == 0 else noise / signal if signal > 0 else 1.0


def energies(original: Array, changed: Array) -> tuple[float, float]:
    """|y - y'|^2 and |y|^2 in float64, as ``noise_ratio`` has them; infinite noise where values are finite in one only."""
    ratio = noise_ratio(original, changed)
    if original.dtype == object or original.dtype.kind in "USb" or original.shape != changed.shape:
        return ratio, 1.0
    y = original.astype(np.float64)
    signal = float(np.square(y[np.isfinite(y)]).sum())
    if not np.isfinite(ratio):
        return ratio, signal
    z = changed.astype(np.float64)
    return float(np.square((y - z)[np.isfinite(y)]).sum()), signal


def compare(names: Sequence[str], original: Iterable[Sequence[Array]], changed: Iterable[Sequence[Array]]) -> Fidelity:
    """Fidelity of ``changed`` outputs against ``original`` ones: an item a sample, each a list of arrays named ``names``."""
    ratios: list[list[float]] = []
    agree: list[bool] = []
    for ys, zs in zip(original, changed, strict=True):
        ratios.append([noise_ratio(np.asarray(y), np.asarray(z)) for y, z in zip(ys, zs, strict=True)])
        agree += agreement(np.asarray(ys[0]), np.asarray(zs[0])) if ys else []
    if not ratios or not names:
        return Fidelity(float("inf"), "", None, len(ratios))
    by_output = [_lower_quartile(np.array(column)) for column in zip(*ratios, strict=True)]
    worst = int(np.argmin(by_output))
    return Fidelity(by_output[worst], names[worst], float(np.mean(agree)) if agree else None, len(ratios))


def _lower_quartile(ratios: Array) -> float:
    if not np.isfinite(ratios).all():
        return float("-inf")
    return decibels(float(np.quantile(ratios, 0.75, method="higher")))


def agreement(y: Array, z: Array) -> list[bool]:
    """Same place of the largest element, a truth a sample: for outputs [samples, classes] but for axes of size 1, or
    [classes]. Others hold no classes."""
    if y.shape != z.shape or y.dtype.kind not in "fiu":
        return []
    axes = [a for a, n in enumerate(y.shape) if n > 1 and (a or y.ndim == 1)]
    return list((y.argmax(axes[0]) == z.argmax(axes[0])).reshape(-1)) if len(axes) == 1 else []
