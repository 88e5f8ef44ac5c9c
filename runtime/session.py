"""An artifact, or any ONNX model, ready to run: takes the place of ``onnxruntime.InferenceSession``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import valueinfo
from .artifact import eie_nodes
from .backends import registry
from .backends.base import ACTIVATIONS, Activations, Backend, InsideBackend
from .errors import InputError, ModelError, UserError, nearest
from .executor import Executor, LayerReport
from .modelfile import Source, describe, load_model
from .segments import (
    Segment,
    direct_run,
    has_recurrent,
    inference_session,
    ort_errors,
    refuse_empty,
    run_ort,
    session_options,
    translated,
)
from .tensors import Tensors
from .valueinfo import NodeArg

if TYPE_CHECKING:
    import onnx


class Session:
    """A loaded model. ``run`` may be called from several threads at once.

    Args:
        path: ``model.eie.onnx``, any ``model.onnx``, or the bytes of one.
        backend: ``cpu`` (C kernels), ``ort`` (the same inside ONNX Runtime), ``reference`` (numpy), ``hardware`` (the
            accelerator's cycle model, in i16), or one that was made. A model without compressed layers runs in ONNX Runtime
            whatever is named here; ``note`` says so.
        threads: for the compressed layers and for ONNX Runtime.
        activations: the format compressed layers compute in, instead of the one the artifact asks for.

    Attributes:
        backend: what runs the compressed layers; ``ort`` where there are none.
        note: a sentence on how the model runs.
        engine: the backend itself; None where nothing is compressed.

    Raises:
        ModelError: the file can't be read, or is no model that can be run.
        FormatError: the artifact is damaged, or newer than this library.
        UserError: no such backend or format.
    """

    backend: str
    note: str
    engine: Backend | InsideBackend | None = None

    def __init__(self, path: Source, backend: str | Backend | InsideBackend = "cpu", threads: int = 1,
                 activations: Activations | None = None) -> None:  # fmt: skip
        engine = None
        if isinstance(backend, Backend | InsideBackend):
            engine, backend = backend, backend.name
        else:
            registry.find(backend)
        _check_options(threads, activations)
        if not isinstance(path, bytes):
            path = os.fspath(path)
        self._where = describe(path)
        model = load_model(path)
        self._inputs = {i.name: _Expected.of(i) for i in model.graph.input}
        self._optional = {t.name for t in model.graph.initializer}
        self._fixed: set[str] = set()
        self._executor: Executor | None = None
        self._session: Any = None
        compressed = list(eie_nodes(model))
        if not compressed:
            nodes = (model.graph.node, *(f.node for f in model.functions))
            self._recurrent = any(map(has_recurrent, nodes))
            self._open_plain(path, backend, threads, activations)
        else:
            self.backend = backend
            tensors = Tensors(None if isinstance(path, bytes) else Path(path).parent)
            engine = engine or registry.load(backend, threads)
            self.engine = engine
            activations = _format(
                engine, activations, {layer.activations for layer in compressed if layer.operator.computes}
            )
            del compressed
            self._executor = Executor(model, tensors, engine, threads=threads, activations=activations)
            self._fixed = self._executor.payload_names
            self._layers = self._executor.layers
            self._formats = self._executor.formats
            self.note = f"{len(self._layers)} compressed layers run on {backend}, the rest in ONNX Runtime"
            if backend == "ort":
                self.note = (
                    "compressed layers run inside ONNX Runtime, as custom operators or as its own, whichever is faster"
                )
        self._args_in, self._args_out = self._describe(model)
        self._outputs = tuple(a.name for a in self._args_out)
        self._seen: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._direct, self._fetch = self._find_direct(), list(self._outputs)

    def _find_direct(self) -> Callable[[list[str], dict[str, Any], None], list[Any]] | None:
        """ONNX Runtime's own function, where all of the model is one piece that it runs; its scalars come as numpy's."""
        if not all(a.type.startswith("tensor") and a.shape for a in self._args_out):
            return None
        if self._executor is None:
            return direct_run(self._session)
        program = self._executor.program
        steps = program.steps
        if len(steps) != 1 or not isinstance(steps[0], Segment) or program.defaults or program.captures:
            return None
        alike = set(steps[0].reads) == {a.name for a in self._args_in} and set(self._outputs) <= set(steps[0].writes)
        return steps[0].direct() if alike else None

    def _open_plain(self, path: str | bytes, backend: str, threads: int, activations: Activations | None) -> None:
        if activations not in (None, "f32"):
            raise UserError(f"activations {activations!r} need compressed layers, and this model has none",
                            where=self._where, hint="Compress it first, or leave activations out")  # fmt: skip
        self.backend, self._layers, self._formats = "ort", [], set()
        self.note = f"nothing is compressed: all of it runs in ONNX Runtime, whatever the backend ({backend})"
        with translated(ModelError, self._where, "ONNX Runtime does not accept it"):
            self._session = inference_session(path, session_options(threads))

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def activations(self) -> Activations | Literal["mixed"]:
        """The format the compressed layers compute in; ``mixed`` where they differ."""
        return "mixed" if len(self._formats) > 1 else next(iter(self._formats), "f32")

    def layers(self) -> list[LayerReport]:
        """What runs each compressed layer, and why."""
        return list(self._layers)

    def get_inputs(self) -> list[NodeArg]:
        """Inputs that must be fed."""
        return list(self._args_in)

    def get_outputs(self) -> list[NodeArg]:
        return list(self._args_out)

    def _describe(self, model: onnx.ModelProto) -> tuple[list[NodeArg], list[NodeArg]]:
        if self._session is not None:
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            return ([NodeArg(a.name, a.type, list(a.shape)) for a in inputs],
                    [NodeArg(a.name, a.type, list(a.shape)) for a in outputs])  # fmt: skip
        assert self._executor is not None
        program = self._executor.program
        found = []
        for info, kind in zip(model.graph.output, program.output_types, strict=True):
            declared = valueinfo.shape_of(info.type)
            shape = declared if declared is not None else valueinfo.shape_of(kind)
            found.append(NodeArg(info.name, valueinfo.type_string(kind), list(shape or [])))
        return [valueinfo.node_arg(i) for i in model.graph.input if i.name not in self._optional], found

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Run the model.

        Args:
            output_names: which outputs, in which order; None for all.
            feeds: an array for each input (a list of arrays for a sequence).

        Returns:
            One array (or list, for a sequence) for each output.

        Raises:
            InputError: a name, type or shape does not fit; says which, what was expected, and what came.
        """
        if (
            self._direct is not None
            and output_names is None
            and type(feeds) is dict
            and len(feeds) == len(self._args_in)
        ):
            for value in feeds.values():
                # empty ones are looked at below; of the order of bytes ONNX Runtime takes no notice
                if type(value) is not np.ndarray or not value.size or not value.dtype.isnative:
                    break
            else:
                try:
                    return self._direct(self._fetch, feeds, None)
                except ort_errors():
                    pass  # the checks below say what does not fit, and a run that fails again says why
        wanted = self._outputs if output_names is None or not len(output_names) else tuple(output_names)
        for name in wanted if wanted is not self._outputs else ():
            if name not in self._outputs:
                raise InputError(
                    f"the model has no output {name!r}", where="output_names", hint=nearest(name, self._outputs)
                )
        if self._checked_before(feeds):
            values: Mapping[str, Any] = feeds
        else:
            values = self._checked(feeds)
            plain = all(
                type(v) is np.ndarray and v is feeds[n] and v.dtype.kind not in "OUST" for n, v in values.items()
            )
            self._seen = {n: (v.dtype, v.shape) for n, v in values.items()} if plain else {}
        if self._executor is not None:
            return self._executor.program.answer(values, wanted)
        if self._recurrent:
            refuse_empty(values)
        return run_ort(self._session, wanted, values, self._where)

    def _checked_before(self, feeds: Mapping[str, Any]) -> bool:
        """Whether the last feeds that were checked had these names, types and shapes: all that the checks look at."""
        seen = self._seen
        if type(feeds) is not dict or len(feeds) != len(seen) or not seen:
            return False
        for name, value in feeds.items():
            known = seen.get(name)
            if known is None or type(value) is not np.ndarray or value.dtype is not known[0] or value.shape != known[1]:
                return False
        return True

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(feeds, Mapping):
            raise InputError(f"is a {type(feeds).__name__} instead of a dict of arrays by input name", where="feeds")
        needed = [a.name for a in self._args_in]
        missing = [n for n in needed if n not in feeds]
        for name in feeds:
            if name not in self._inputs or (name in self._fixed and name in self._optional):
                hint = nearest(name, missing or needed)
                raise InputError(f"the model has no input {name!r}", where="feeds", hint=hint)
        if missing:
            raise InputError(f"has no value for {', '.join(map(repr, missing))}", where="feeds",
                             hint=f"The model takes {', '.join(map(repr, needed))}")  # fmt: skip
        checked = {name: _fitting(self._inputs[name], value) for name, value in feeds.items()}
        if self._executor is not None:  # bfloat16 and its like travel as float32 there
            for name, value in checked.items():
                if isinstance(value, np.ndarray) and self._inputs[name].dtype is None:
                    checked[name] = value.astype(np.float32)
        return checked


def _check_options(threads: int, activations: str | None) -> None:
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise UserError(f"must be a number from 1 to 1024, not {threads!r}", where="threads")
    if activations is not None and activations not in ACTIVATIONS:
        raise UserError(f"must be one of {', '.join(ACTIVATIONS)}, not {activations!r}", where="activations")


def _format(engine: Backend | InsideBackend, asked: Activations | None, own: set[Activations]) -> Activations | None:
    """The format to override the artifact's with, if any."""
    if asked is not None and asked not in engine.formats:
        raise UserError(
            f"backend {engine.name} computes in {', '.join(engine.formats)}, not {asked}", where="activations"
        )
    return asked if asked is not None or own <= set(engine.formats) else engine.formats[0]


@dataclass(frozen=True)
class _Expected:
    """What an input takes, read once.

    Attributes:
        name: of the input.
        type: as ONNX Runtime spells it.
        tensor, sequence: what kind of value it is; neither: a map or an optional.
        dtype: of the array; None where numpy has no such type, or it is no tensor.
        shape: None for an unknown rank; a dimension is a number, a name or None.
    """

    name: str
    type: str
    tensor: bool
    sequence: bool
    dtype: np.dtype[Any] | None
    shape: Sequence[int | str | None] | None

    @classmethod
    def of(cls, info: onnx.ValueInfoProto) -> _Expected:
        kind = info.type
        tensor = kind.HasField("tensor_type")
        return cls(info.name, valueinfo.type_string(kind), tensor, kind.HasField("sequence_type"),
                   valueinfo.numpy_type(kind) if tensor else None, valueinfo.shape_of(kind) if tensor else None)  # fmt: skip


def _fitting(kind: _Expected, value: Any) -> Any:
    """A fed value, checked against the input's declared type: what ONNX Runtime can't take is an error here."""
    where, expected, dtype, shape = f"input {kind.name!r}", kind.type, kind.dtype, kind.shape
    if not kind.tensor:
        if kind.sequence and not isinstance(value, (list, tuple)):
            raise InputError(f"expected {expected}, a list of arrays, got {type(value).__name__}", where=where)
        return list(value) if isinstance(value, tuple) else value
    if dtype is None:
        return value
    if hasattr(value, "numpy") and not isinstance(value, np.ndarray):  # an OrtValue, a torch tensor on the CPU
        value = value.numpy()
    if not isinstance(value, np.ndarray):
        if not isinstance(value, (list, tuple, int, float, bool, str, np.generic)):
            raise InputError(f"expected an array of {expected}, got {type(value).__name__}", where=where)
        value = _from_list(value, dtype, where, expected)
    strings = dtype.kind == "O"
    if value.dtype != dtype and not (strings and value.dtype.kind in "UST"):
        hint = None if strings or value.dtype.kind in "USO" else f"Convert it with .astype(np.{dtype})"
        raise InputError(f"expected {expected}, got an array of {value.dtype}", where=where, hint=hint)
    if shape is not None and (
        len(shape) != value.ndim or any(isinstance(d, int) and d != n for d, n in zip(shape, value.shape, strict=True))
    ):
        text = ", ".join("?" if d is None else str(d) for d in shape)
        raise InputError(f"expected the shape [{text}], got {list(value.shape)}", where=where)
    return value.astype(object) if strings and value.dtype.kind != "O" else value


def _from_list(value: Any, dtype: np.dtype[Any], where: str, expected: str) -> np.ndarray[Any, Any]:
    try:
        if isinstance(value, np.generic):
            return np.asarray(value)
        return np.asarray(value, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"expected an array of {expected}: {error}", where=where) from error
