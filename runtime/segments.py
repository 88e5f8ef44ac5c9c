"""Pieces of a model that ONNX Runtime runs: standard operators between the compressed layers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import valueinfo
from .errors import EieError, InputError, ModelError
from .modelfile import bodies_of, label
from .operators import DOMAIN
from .tensors import Tensors, plain_type

if TYPE_CHECKING:
    import onnx

    from .backends.base import InsideBackend

INLINE_BYTES = 1024
"""Initializers up to this size are written into a piece's own model, so that shape inference can read them; larger
ones are handed over by reference."""


class Constant:
    """A tensor known when the model is loaded. One object however many pieces read it, so its bytes are held once."""

    def __init__(self, name: str, content: onnx.TensorProto | onnx.SparseTensorProto | np.ndarray[Any, Any],
                 tensors: Tensors) -> None:  # fmt: skip
        self.name = name
        self._content = content
        self._tensors = tensors
        self._value: Any = None

    @property
    def sparse(self) -> onnx.SparseTensorProto | None:
        import onnx

        return self._content if isinstance(self._content, onnx.SparseTensorProto) else None

    @property
    def tensor(self) -> onnx.TensorProto | None:
        import onnx

        return self._content if isinstance(self._content, onnx.TensorProto) else None

    @property
    def shape(self) -> tuple[int, ...]:
        content = self._content
        return content.shape if isinstance(content, np.ndarray) else tuple(content.dims)

    @property
    def type(self) -> onnx.TypeProto:
        import onnx

        content = self._content
        if isinstance(content, np.ndarray):
            kind = onnx.helper.np_dtype_to_tensor_dtype(content.dtype)
            return onnx.helper.make_tensor_type_proto(kind, content.shape)
        if isinstance(content, onnx.SparseTensorProto):
            return onnx.helper.make_tensor_type_proto(content.values.data_type, content.dims)
        return onnx.helper.make_tensor_type_proto(content.data_type, content.dims)

    def array(self) -> np.ndarray[Any, Any]:
        """Its values; a tensor from the file gives up its own copy of them."""
        import onnx

        if isinstance(self._content, onnx.SparseTensorProto):
            raise ModelError("is sparse, and read where only dense tensors can be", where=f"tensor {self.name!r}")
        if isinstance(self._content, onnx.TensorProto):
            self._content = self._tensors.array(self._content)
        return self._content

    def add_to(self, graph: onnx.GraphProto, name: str) -> Any:
        """Make it an initializer of ``graph``; gives an OrtValue where the bytes are handed over by reference."""
        import onnx

        if self.sparse is not None:
            graph.sparse_initializer.add().CopyFrom(self.sparse)
            return None
        kind = self.type.tensor_type.elem_type
        if not plain_type(kind):
            tensor = self.tensor
            if tensor is None:
                tensor = onnx.numpy_helper.from_array(self.array(), name)
            added = graph.initializer.add()
            added.CopyFrom(self._tensors.inline(tensor))
            added.name = name
            return None
        array = self.array()
        if array.nbytes <= INLINE_BYTES:
            graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(array, name))
            return None
        tensor = graph.initializer.add(name=name, data_type=kind, dims=array.shape,
                                       data_location=onnx.TensorProto.EXTERNAL)  # fmt: skip
        tensor.external_data.add(key="location", value="held in memory")
        return self._ort_value(array)

    def _ort_value(self, array: np.ndarray[Any, Any]) -> Any:
        import onnxruntime

        if self._value is None:
            if not array.flags.c_contiguous or not array.flags.aligned:
                array = np.array(array, order="C")
            self._content = array
            self._value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        return self._value


@dataclass
class Settings:
    """What every piece of one model shares.

    Attributes:
        opsets: domain -> version.
        functions: the model-local functions pieces may call.
        threads: of ONNX Runtime, for one operator.
        tensors: reads what bodies hold in other files.
        inside: what computes the compressed layers that stay in the pieces; None where none does.
    """

    ir_version: int
    opsets: Mapping[str, int]
    functions: Sequence[onnx.FunctionProto]
    threads: int
    tensors: Tensors
    inside: InsideBackend | None = None


def session_options(threads: int, *, spin: bool = True) -> Any:
    """ONNX Runtime's options: quiet, ``threads`` for one operator, one operator at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def inference_session(model: str | bytes, options: Any) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU that fails in silence, for us to say why."""
    import onnxruntime

    # without a fallback: there is none for the CPU, and trying prints to the screen
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)


@functools.cache
def ort_errors() -> tuple[type[Exception], ...]:
    """Everything ONNX Runtime raises: classes of its own, and Python's for what its binding refuses."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, IndexError, MemoryError)


def refuse_empty(values: Mapping[str, Any]) -> None:
    """What ``has_recurrent`` is never given an empty batch: ONNX Runtime's LSTM and GRU end the whole program on one
    (1.17 to 1.32 do).

    Raises:
        InputError: a value has no elements.
    """
    empty = next((n for n, v in values.items() if isinstance(v, np.ndarray) and not v.size), None)
    if empty is not None:
        raise InputError(f"is empty (shape {list(values[empty].shape)}), and ONNX Runtime's LSTM and GRU can't run on that",
                         where=f"tensor {empty!r}")  # fmt: skip


def has_recurrent(nodes: Iterable[onnx.NodeProto]) -> bool:
    """Whether there is an LSTM or GRU of ONNX, bodies included."""
    return any(
        (node.op_type in ("LSTM", "GRU") and node.domain in ("", "ai.onnx"))
        or any(has_recurrent(body.node) for _, body in bodies_of(node))
        for node in nodes
    )


_NAMED = (
    re.compile(r"Name: ?'([^']+)'"),
    re.compile(r"[Nn]ode ?\(([^)]+)\)"),
    re.compile(r"node[ _]name: ?'?([\w./:-]+)"),
)


@contextmanager
def translated(kind: type[EieError], where: str, what: str, hint: str | None = None) -> Iterator[None]:
    """Turn an error of ONNX Runtime into one of ours that names the node where its text does."""
    errors = ort_errors()
    try:
        yield
    except errors as error:
        raise translation(error, kind, where, what, hint) from error


def translation(error: Exception, kind: type[EieError], where: str, what: str, hint: str | None = None) -> EieError:
    """The error of ours for one of ONNX Runtime's."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    named = next((m.group(1) for p in _NAMED if (m := p.search(text))), None)
    return kind(f"{what}: {text.rstrip('.')}", where=f"node {named!r}" if named else where, hint=hint)


def run_ort(session: Any, fetch: Sequence[str], feeds: Mapping[str, Any], where: str) -> list[Any]:
    """A run of ONNX Runtime whose errors are ours. Small models take as long as a few lines of Python: there are no more."""
    try:
        result: list[Any] = session.run(fetch, feeds)
    except ort_errors() as error:
        hint = "Look at the shapes of the inputs"
        raise translation(error, InputError, where, "ONNX Runtime could not run it", hint) from error
    return result


def direct_run(session: Any) -> Callable[[list[str], dict[str, Any], None], list[Any]] | None:
    """The compiled function behind ``InferenceSession.run``, which spends as long in Python as a small model takes; None in a
    version that has none by this name. It checks types, shapes and names, but not that an input is missing."""
    found: Callable[[list[str], dict[str, Any], None], list[Any]] | None = getattr(
        getattr(session, "_sess", None), "run", None
    )
    return found


def name_nodes(nodes: Sequence[onnx.NodeProto]) -> str:
    """What errors call a piece."""
    first = label(nodes[0])
    return f"node {first!r}" if len(nodes) == 1 else f"{len(nodes)} nodes from {first!r} to {label(nodes[-1])!r}"


class Segment:
    """Nodes without compressed layers, run by one ONNX Runtime session.

    Args:
        nodes: in an order in which they can run.
        inputs: name -> type of the values they read.
        constants: name -> constant they read.
        outputs: the names somebody else reads.
    """

    passes_on: ClassVar[bool] = False

    def __init__(self, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, onnx.TypeProto],
                 constants: Mapping[str, Constant], outputs: Sequence[str], settings: Settings) -> None:  # fmt: skip
        self.reads = tuple(inputs)
        self.writes = tuple(outputs)
        self.where = name_nodes(nodes)
        self._settings = settings
        self._recurrent = has_recurrent(nodes) or any(has_recurrent(f.node) for f in settings.functions)
        if self._recurrent:  # constants are folded when the session is made
            reads = {node.input[0] for node in nodes if node.input}
            refuse_empty({n: c.array() for n, c in constants.items() if n in reads and 0 in c.shape})
        model, references = self._model(nodes, inputs, constants)
        self._session = self._open(model, references)
        with translated(ModelError, self.where, "ONNX Runtime can't describe what it gives"):
            outs = [(o.name, o.type, list(o.shape)) for o in self._session.get_outputs()]
        found = {name: valueinfo.parse_type(kind, _known_dims(shape)) for name, kind, shape in outs}
        casts = {n: t for n, t in found.items() if _numpy_lacks(t)}
        if casts:  # what numpy has no type for travels between pieces as float32, which holds all its values
            self._session = self._open(_with_output_casts(model, list(casts)), references)
        self._fetch = [f"{n}/float32" if n in casts else n for n in self.writes]
        self.types: dict[str, onnx.TypeProto] = found

    def _model(self, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, onnx.TypeProto],
               constants: Mapping[str, Constant]) -> tuple[onnx.ModelProto, dict[str, Any]]:  # fmt: skip
        """The segment as a model, and the OrtValues of the constants that are handed over by reference."""
        import onnx

        settings = self._settings
        # from version 4 on initializers are no inputs, and so known to be constant
        model = onnx.ModelProto(ir_version=max(settings.ir_version, 4), producer_name="eie")
        model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in settings.opsets.items()
                                  if d != DOMAIN or settings.inside)  # fmt: skip
        model.functions.extend(settings.functions)
        graph = model.graph
        graph.name = "segment"
        for name, proto in inputs.items():
            if _numpy_lacks(proto):
                wide = f"{name}/float32"
                graph.input.add(name=wide).type.CopyFrom(_float_like(proto))
                graph.node.append(onnx.helper.make_node("Cast", [wide], [name], to=proto.tensor_type.elem_type))
            else:
                graph.input.add(name=name).type.CopyFrom(proto)
        graph.node.extend(nodes)
        _inline_bodies(graph.node, settings.tensors)
        for name in self.writes:
            graph.output.add(name=name)
        references: dict[str, Any] = {}
        for name, constant in constants.items():
            value = constant.add_to(graph, name)
            if value is not None:
                references[name] = value
        self._feed = {name: i.name for name, i in zip(inputs, graph.input, strict=True)}
        return model, references

    def _open(self, model: onnx.ModelProto, references: Mapping[str, Any]) -> Any:
        inside = self._settings.inside
        options = session_options(self._settings.threads, spin=inside is not None)
        if inside is not None:
            inside.register(options)
        if references:  # ONNX Runtime copies them, so that nothing here need be kept after
            options.add_external_initializers(list(references), list(references.values()))
        with (
            inside.errors(self.where)
            if inside
            else translated(ModelError, self.where, "ONNX Runtime does not accept it")
        ):
            return inference_session(model.SerializeToString(), options)

    def direct(self) -> Callable[[list[str], dict[str, Any], None], list[Any]] | None:
        """ONNX Runtime's function for the whole segment, where values pass as they are under their own names; not for
        empty ones, which ``run`` refuses where they would end the program."""
        renamed = any(fed != name for name, fed in self._feed.items()) or tuple(self._fetch) != self.writes
        return None if renamed else direct_run(self._session)

    def run(self, values: Mapping[str, Any]) -> list[Any]:
        """The outputs, in the order of ``writes``: arrays, and lists for sequences."""
        feeds = {fed: values[name] for name, fed in self._feed.items()}
        if self._recurrent:
            refuse_empty(feeds)
        return run_ort(self._session, self._fetch, feeds, self.where)


def _inline_bodies(nodes: Iterable[onnx.NodeProto], tensors: Tensors) -> None:
    """Bring external data of the bodies' initializers inside: only a whole model can be given it by reference."""
    for node in nodes:
        for _, body in bodies_of(node):
            for tensor in body.initializer:
                inline = tensors.inline(tensor)
                if inline is not tensor:
                    tensor.CopyFrom(inline)
            _inline_bodies(body.node, tensors)


def _numpy_lacks(proto: onnx.TypeProto) -> bool:
    import onnx

    if not proto.HasField("tensor_type"):
        return False
    kind = proto.tensor_type.elem_type
    return kind != onnx.TensorProto.STRING and not plain_type(kind)


def _float_like(proto: onnx.TypeProto) -> onnx.TypeProto:
    import onnx

    wide = onnx.TypeProto()
    wide.CopyFrom(proto)
    wide.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return wide


def _with_output_casts(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    import onnx

    for output in model.graph.output:
        if output.name in names:
            wide = f"{output.name}/float32"
            model.graph.node.append(onnx.helper.make_node("Cast", [output.name], [wide], to=onnx.TensorProto.FLOAT))
            output.name = wide
    return model


def _known_dims(shape: Sequence[valueinfo.Dim]) -> list[valueinfo.Dim] | None:
    """Dimensions as they can be handed to the next piece: ONNX Runtime's own names for unknown ones mean nothing there.

    An empty shape is a scalar or an unknown rank, which its Python interface does not tell apart.
    """
    return [None if isinstance(d, str) and d.startswith("unk__") else d for d in shape] or None
