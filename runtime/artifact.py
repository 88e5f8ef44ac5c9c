"""Reads an artifact: the ONNX file, its compressed layers, and what each of them asks for (docs/format.md).

The one place where the attributes and inputs of ``ai.eie`` nodes are checked: the executor, the reports and every
lowering take their layers from here. Files come from strangers, so nothing is believed before it is looked at.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from .backends.base import ACTIVATIONS, Activations, LayerSpec
from .errors import FormatError, ModelError
from .weight import Weight

if TYPE_CHECKING:
    import onnx

    Bodies = list[tuple[str, onnx.GraphProto]]

DOMAIN = "ai.eie"
VERSION = 1
Source = str | os.PathLike[str] | bytes
Kind = Literal["int", "ints", "float", "string"]


@dataclass(frozen=True)
class Operator:
    """One operator of ``ai.eie``.

    Attributes:
        payloads: input slots that hold payloads.
        inputs: fewest and most inputs; the fewest first ones must be there.
        outputs: most outputs.
        attributes: name -> kind, ``activations`` left out.
        computes: whether it has the attribute ``activations``.
    """

    payloads: tuple[int, ...]
    inputs: tuple[int, int]
    outputs: int
    attributes: Mapping[str, Kind]
    computes: bool = True


_CONV: dict[str, Kind] = {"auto_pad": "string", "dilations": "ints", "group": "int", "kernel_shape": "ints",
                          "pads": "ints", "strides": "ints"}  # fmt: skip
_CELL: dict[str, Kind] = {"clip": "float", "direction": "string", "hidden_size": "int", "layout": "int"}
OPERATORS: dict[str, Operator] = {
    "Gemm": Operator((1,), (2, 3), 1, {}),
    "Conv": Operator((1,), (2, 3), 1, _CONV),
    "ConvTranspose": Operator((1,), (2, 3), 1, {**_CONV, "output_padding": "ints", "output_shape": "ints"}),
    "LSTM": Operator((1, 2), (3, 8), 3, {**_CELL, "input_forget": "int"}),
    "GRU": Operator((1, 2), (3, 6), 2, {**_CELL, "linear_before_reset": "int"}),
    "Gather": Operator((0,), (2, 2), 1, {}, computes=False),
    "Decode": Operator((0,), (1, 1), 1, {"transpose": "int", "shape": "ints"}, computes=False),
}


# -- files -------------------------------------------------------------------------------------------------------------


def describe(source: Source) -> str:
    """What errors call a source."""
    return f"a model of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def load_model(source: Source) -> onnx.ModelProto:
    """Read a model or artifact. External data stays where it is (``Tensors`` reads it).

    Model-local functions that hold compressed layers are inlined, so that every such layer stands in a graph.

    Raises:
        ModelError: no file, no ONNX, damaged.
        FormatError: an artifact newer than this library.
    """
    import onnx
    from google.protobuf.message import DecodeError

    where = describe(source)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except IsADirectoryError:
        raise ModelError("this is a directory", where=where, hint="Give the .onnx file inside it") from None
    except OSError as error:
        raise ModelError(f"can't be read: {error.strerror or error}", where=where) from error
    except ValueError as error:  # a path with a zero byte
        raise ModelError(f"not a path: {error}", where=repr(source)) from error
    if not content:
        raise ModelError("the file is empty", where=where, hint="It was perhaps not written or downloaded completely")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError("not an ONNX model, or cut short", where=where,
                         hint="Write or download the file again") from error  # fmt: skip
    if not model.ir_version or not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("not an ONNX model: it holds no graph", where=where)
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ModelError("holds a name that is no UTF-8", where=where, hint="The file is damaged")
    _check_version(model, where)
    return _inline_functions(model, where)


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every name in a model; protobuf gives bytes for one that is damaged."""
    yield from (o.domain for o in model.opset_import)
    yield from _graph_texts(model.graph)
    for function in model.functions:
        yield from (function.domain, function.name, *function.input, *function.output)
        yield from (o.domain for o in function.opset_import)
        yield from _node_texts(function.node)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[object]:
    yield graph.name
    for info in (*graph.input, *graph.output):
        yield info.name
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer)):
        yield tensor.name
        yield from (text for e in tensor.external_data for text in (e.key, e.value))
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for _, body in bodies_of(node):
            yield from _graph_texts(body)


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Domain -> version the model imports; ``ai.onnx`` is the domain ``""``."""
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}


def _check_version(model: onnx.ModelProto, where: str) -> None:
    imported = opset_versions(model).get(DOMAIN)
    if imported is None and (
        has_layers(model.graph) or any(n.domain == DOMAIN for f in model.functions for n in f.node)
    ):
        raise FormatError(f"uses operators of {DOMAIN} without saying of which version", where=where,
                          hint="The file was not written by this project, or was changed after")  # fmt: skip
    if imported is not None and not 1 <= imported <= VERSION:
        raise FormatError(f"needs version {imported} of {DOMAIN}, and this library knows up to {VERSION}",
                          where=where, hint="Install a newer eie")  # fmt: skip


def _inline_functions(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    from onnx import inliner

    holders: set[tuple[str, str]] = set()
    while True:  # a function that calls one that holds a layer holds it too
        more = {
            (f.domain, f.name)
            for f in model.functions
            if any(n.domain == DOMAIN or (n.domain, n.op_type) in holders for n in _walk_nodes(f.node))
        }
        if more == holders:
            break
        holders = more
    if not holders:
        return model
    _check_recursion(model, where)
    try:
        return inliner.inline_selected_functions(model, sorted(holders))
    except (RuntimeError, ValueError, TypeError) as error:  # what the C++ inliner raises, by version
        raise ModelError(f"its functions can't be inlined: {error}", where=where) from error


def _check_recursion(model: onnx.ModelProto, where: str) -> None:
    """A function that calls itself can't be inlined, and the inliner would try for ever."""
    calls = {(f.domain, f.name): {(n.domain, n.op_type) for n in _walk_nodes(f.node)} for f in model.functions}
    while calls:
        leaves = [name for name, called in calls.items() if called.isdisjoint(calls)]
        if not leaves:
            raise ModelError(f"its function {next(iter(calls))[1]!r} calls itself", where=where)
        for name in leaves:
            del calls[name]


class Tensors:
    """Reads the tensors of one file; external data through a memory map.

    Args:
        base: the folder external data lies in; None for a model given as bytes.
    """

    def __init__(self, base: Path | None) -> None:
        self.base = base

    def array(self, tensor: onnx.TensorProto) -> npt.NDArray[Any]:
        """The tensor as numpy array, read-only where its bytes are shared.

        Raises:
            ModelError: its bytes are missing, too few, or lie outside the model's folder.
        """
        import onnx
        from onnx import numpy_helper

        self._check(tensor)
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            if plain_type(tensor.data_type):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    return self._map(tensor).view(dtype).reshape(tuple(tensor.dims))
                if tensor.HasField("raw_data"):
                    data = np.frombuffer(tensor.raw_data, np.dtype(dtype).newbyteorder("<"))
                    return data.astype(dtype, copy=False).reshape(tuple(tensor.dims))
            return numpy_helper.to_array(self.inline(tensor))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"its values can't be read: {error}", where=f"tensor {tensor.name!r}") from error

    def inline(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """The tensor with its bytes inside: itself, or a copy where they were external."""
        import onnx

        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return tensor
        return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims,
                                raw_data=self._map(tensor).tobytes())  # fmt: skip

    def _check(self, tensor: onnx.TensorProto) -> None:
        import onnx

        where = f"tensor {tensor.name!r}"
        if any(d < 0 for d in tensor.dims):
            raise ModelError(f"has the impossible shape {list(tensor.dims)}", where=where)
        if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
            raise ModelError(f"has the unknown type {tensor.data_type}", where=where)

    def _map(self, tensor: onnx.TensorProto) -> npt.NDArray[np.uint8]:
        where = f"tensor {tensor.name!r}"
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        if self.base is None:
            raise ModelError(f"its data is in another file ({location!r})", where=where,
                             hint="Give the model's path instead of its bytes")  # fmt: skip
        relative = os.path.normpath(location.replace("\\", "/"))
        if not location or os.path.isabs(relative) or relative.split("/")[0] in ("..", ".") or ":" in relative[:2]:
            raise ModelError(f"its data is said to lie outside the model's folder ({location!r})", where=where,
                             hint="This file is damaged or hostile")  # fmt: skip
        path = self.base / relative
        try:
            offset = int(entries.get("offset") or 0)
            if not path.is_file():
                raise ModelError(f"the file with its data, {location!r}, is missing", where=where,
                                 hint="It belongs next to the model")  # fmt: skip
            size = path.stat().st_size
            length = int(entries["length"]) if entries.get("length") else _bytes_of(tensor)
            if offset < 0 or length != _bytes_of(tensor) or offset + length > size:
                raise ModelError(f"its data does not fit: {length} bytes at {offset} of the {size} in {location!r}",
                                 where=where, hint="The data file is cut short, or of another model")  # fmt: skip
            if length == 0:
                return np.zeros(0, np.uint8)
            return np.memmap(path, np.uint8, mode="r", offset=offset, shape=(length,))
        except (OSError, ValueError) as error:
            raise ModelError(f"its data can't be read: {error}", where=where) from error


def plain_type(data_type: int) -> bool:
    """Whether numpy holds an ONNX element type bit by bit (not strings, 4 bit, bfloat16 or 8-bit floats)."""
    import onnx

    t = onnx.TensorProto
    return data_type in (t.FLOAT, t.DOUBLE, t.FLOAT16, t.BOOL, t.INT8, t.INT16, t.INT32, t.INT64, t.UINT8, t.UINT16,
                         t.UINT32, t.UINT64, t.COMPLEX64, t.COMPLEX128)  # fmt: skip


def _bytes_of(tensor: onnx.TensorProto) -> int:
    import onnx

    names: str = onnx.TensorProto.DataType.Name(tensor.data_type)
    if names.endswith(("INT4", "FLOAT4E2M1")):
        bits = 4
    elif names.endswith("INT2"):
        bits = 2
    elif names == "BFLOAT16":
        bits = 16
    elif names.startswith("FLOAT8"):
        bits = 8
    else:
        bits = int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize) * 8
    return (math.prod(int(d) for d in tensor.dims) * bits + 7) // 8


# -- graphs ------------------------------------------------------------------------------------------------------------


def bodies_of(node: onnx.NodeProto) -> Bodies:
    """The graphs among a node's attributes, with the attribute's name."""
    found: Bodies = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append((attribute.name, attribute.g))
        found.extend((attribute.name, graph) for graph in attribute.graphs)
    return found


def _walk_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for _, body in bodies_of(node):
            yield from _walk_nodes(body.node)


def has_layers(graph: onnx.GraphProto) -> bool:
    """Whether a graph or one of its bodies holds a compressed layer."""
    return any(node.domain == DOMAIN for node in _walk_nodes(graph.node))


def label(node: onnx.NodeProto) -> str:
    """What people call a node: its name, or its first output where it has none."""
    return node.name or next((o for o in node.output if o), node.op_type)


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor a ``Constant`` node gives; None for any other node, and for a sparse constant."""
    import onnx

    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    for a in node.attribute:
        tensor: onnx.TensorProto | None = None
        if a.name == "value" and a.type == onnx.AttributeProto.TENSOR:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(a.t)
        elif a.name == "value_float":
            tensor = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [], [a.f])
        elif a.name == "value_floats":
            tensor = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [len(a.floats)], a.floats)
        elif a.name == "value_int":
            tensor = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [], [a.i])
        elif a.name == "value_ints":
            tensor = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [len(a.ints)], a.ints)
        elif a.name == "value_string":
            tensor = onnx.helper.make_tensor("", onnx.TensorProto.STRING, [], [a.s])
        elif a.name == "value_strings":
            tensor = onnx.helper.make_tensor("", onnx.TensorProto.STRING, [len(a.strings)], a.strings)
        if tensor is not None:
            tensor.name = node.output[0]
            return tensor
    return None


# -- layers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EieNode:
    """A compressed layer as the file has it, its attributes checked, its payloads found but not yet decoded.

    Attributes:
        node: the node itself.
        name: what errors and reports call it.
        op: a key of ``OPERATORS``.
        attributes: those the node has, as Python values, ``activations`` left out.
        activations: the format the file asks for.
        payloads: the initializers, in the order of the operator's payload slots.
    """

    node: onnx.NodeProto
    name: str
    op: str
    attributes: Mapping[str, Any]
    activations: Activations
    payloads: tuple[onnx.TensorProto, ...] = field(repr=False)

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.op]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The node's inputs that are no payloads, in order ("" for one left out)."""
        return tuple(t for i, t in enumerate(self.node.input) if i not in self.operator.payloads)

    def spec(self, decode: Callable[[onnx.TensorProto], Weight], activations: Activations | None = None) -> LayerSpec:
        """Decode the payloads and check that they fit the operator.

        Args:
            decode: gives the Weight of a payload initializer (``PayloadReader.weight`` is one).
            activations: overrides what the file asks for.

        Raises:
            FormatError: a payload is damaged, or does not fit the layer; names the layer.
        """
        weights = []
        for payload in self.payloads:
            try:
                weights.append(decode(payload))
            except FormatError as error:
                where = f"layer {self.name!r}, payload {payload.name!r}"
                raise FormatError(error.what, where=where, hint=error.hint) from error
            except MemoryError as error:
                where = f"layer {self.name!r}, payload {payload.name!r}"
                raise FormatError("announces a weight that does not fit into memory", where=where,
                                  hint="The artifact is damaged or hostile") from error  # fmt: skip
        outputs = tuple(i < len(self.node.output) and self.node.output[i] != "" for i in range(self.operator.outputs))
        spec = LayerSpec(self.op, self.name, dict(self.attributes), tuple(weights),
                         (activations or self.activations) if self.operator.computes else "f32", outputs)  # fmt: skip
        wrong = _misfit(spec)
        if wrong:
            raise FormatError(wrong, where=f"layer {self.name!r} ({self.op})",
                              hint="The artifact is damaged; compress the model again")  # fmt: skip
        return spec


class PayloadReader:
    """Decodes payloads, each once; ``release`` drops those that no longer have a reader."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._weights: dict[int, tuple[onnx.TensorProto, Weight]] = {}

    def weight(self, payload: onnx.TensorProto) -> Weight:
        from . import format as container

        known = self._weights.get(id(payload))
        if known is None:
            known = payload, container.decode(self._tensors.array(payload).tobytes())
            self._weights[id(payload)] = known  # the tensor is kept too: ids are of living objects only
        return known[1]

    def release(self, payload: onnx.TensorProto) -> None:
        self._weights.pop(id(payload), None)


def eie_node(node: onnx.NodeProto, constant: Callable[[str], onnx.TensorProto | None]) -> EieNode:
    """Check one ``ai.eie`` node.

    Args:
        constant: gives the initializer a name stands for where the node is, or None.

    Raises:
        FormatError: names the node and says what is wrong with it.
    """
    where = f"layer {label(node)!r} ({node.op_type})"
    operator = OPERATORS.get(node.op_type)
    if operator is None:
        raise FormatError(f"version {VERSION} of {DOMAIN} has no operator {node.op_type!r}", where=where,
                          hint="Install a newer eie, or compress the model again")  # fmt: skip
    least, most = operator.inputs
    if not least <= len(node.input) <= most or not all(node.input[:least]):
        raise FormatError(f"has the inputs {list(node.input)}; it takes {least} to {most}, the first {least} always",
                          where=where, hint="The artifact is damaged; compress the model again")  # fmt: skip
    if not 1 <= len(node.output) <= operator.outputs or not any(node.output):
        raise FormatError(f"has {len(node.output)} outputs; it gives 1 to {operator.outputs}", where=where)
    attributes = _attributes(node, operator, where)
    activations = attributes.pop("activations", "f32")
    if activations not in ACTIVATIONS:
        raise FormatError(f"computes in {activations!r}, which is none of {', '.join(ACTIVATIONS)}", where=where)
    payloads = []
    for slot in operator.payloads:
        tensor = constant(node.input[slot])
        if tensor is None:
            raise FormatError(f"its payload {node.input[slot]!r} is no initializer", where=where,
                              hint="Compressed weights can't be computed or fed")  # fmt: skip
        if tensor.data_type != 2 or len(tensor.dims) != 1:
            raise FormatError(f"its payload {node.input[slot]!r} is no uint8 vector (type {tensor.data_type}, "
                              f"shape {list(tensor.dims)})", where=where)  # fmt: skip
        payloads.append(tensor)
    return EieNode(node, label(node), node.op_type, attributes, cast(Activations, activations), tuple(payloads))


def _attributes(node: onnx.NodeProto, operator: Operator, where: str) -> dict[str, Any]:
    import onnx

    kinds = {onnx.AttributeProto.INT: "int", onnx.AttributeProto.INTS: "ints", onnx.AttributeProto.FLOAT: "float",
             onnx.AttributeProto.STRING: "string"}  # fmt: skip
    known: dict[str, Kind] = {**operator.attributes, **({"activations": "string"} if operator.computes else {})}
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        kind = kinds.get(attribute.type)
        if attribute.name not in known:
            raise FormatError(f"has the attribute {attribute.name!r}, which {DOMAIN} {node.op_type} does not know",
                              where=where, hint=f"It knows {', '.join(sorted(known)) or 'none'}")  # fmt: skip
        if kind != known[attribute.name]:
            raise FormatError(f"attribute {attribute.name!r} is not of kind {known[attribute.name]}", where=where)
        value: Any = onnx.helper.get_attribute_value(attribute)
        if kind == "string":
            value = str(attribute.s, "utf-8", "backslashreplace")
        found[attribute.name] = [int(v) for v in value] if kind == "ints" else value
        if kind == "ints" and not len(value) and node.op_type != "Decode":
            del found[attribute.name]  # some exporters write defaults this way; an empty shape, though, is a scalar's
    return found


def _misfit(spec: LayerSpec) -> str | None:
    """Why weights and attributes of a layer do not fit each other; None where they do."""
    if spec.op in ("Conv", "ConvTranspose"):
        return _conv_misfit(spec)
    if spec.op in ("LSTM", "GRU"):
        return _recurrent_misfit(spec)
    shape = spec.weights[0].shape
    if spec.op == "Gemm" and len(shape) != 2:
        return f"its weight has the shape {list(shape)} instead of [out, in]"
    if spec.op == "Gather" and not shape:
        return "its weight has no rows"
    if spec.op == "Decode":
        return _decode_misfit(spec)
    return None


def _decode_misfit(spec: LayerSpec) -> str | None:
    shape, size = spec.weights[0].shape, spec.weights[0].size
    target = spec.attributes.get("shape")
    if spec.attributes.get("transpose", 0) not in (0, 1):
        return f"transpose is {spec.attributes['transpose']} instead of 0 or 1"
    if spec.attributes.get("transpose", 0) and len(shape) != 2:
        return f"a weight of shape {list(shape)} can't be transposed as a matrix"
    if target is not None and (any(d < 0 for d in target) or math.prod(target) != size):
        return f"its weight of shape {list(shape)} can't take the shape {target}"
    return None


def _conv_misfit(spec: LayerSpec) -> str | None:
    shape, a = spec.weights[0].shape, spec.attributes
    spatial, group = len(shape) - 2, a.get("group", 1)
    if not 1 <= spatial <= 3:
        return f"its weight has the shape {list(shape)}, which is no kernel of 1 to 3 spatial dimensions"
    if group < 1 or shape[0] % group:
        return f"its {shape[0]} channels can't be split into {group} groups"
    if 0 in shape:
        return f"its weight has the empty shape {list(shape)}"
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        return f"auto_pad is {a['auto_pad']!r}"
    if "kernel_shape" in a and tuple(a["kernel_shape"]) != shape[2:]:
        return f"kernel_shape is {a['kernel_shape']}, and its weight has {list(shape[2:])}"
    least = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0, "output_shape": 0}
    for name, low in least.items():
        if name in a:
            count = 2 * spatial if name == "pads" else spatial
            if len(a[name]) != count or not all(low <= v < 2**31 for v in a[name]):
                return f"{name} is {a[name]} instead of {count} values of at least {low}"
    return None


def _recurrent_misfit(spec: LayerSpec) -> str | None:
    w, r = (weight.shape for weight in spec.weights)
    a, gates = spec.attributes, 4 if spec.op == "LSTM" else 3
    direction = a.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        return f"direction is {direction!r}"
    directions = 2 if direction == "bidirectional" else 1
    if len(w) != 3 or len(r) != 3:
        return f"its weights have the shapes {list(w)} and {list(r)} instead of three dimensions"
    hidden = r[2]
    if hidden < 1 or r != (directions, gates * hidden, hidden) or w[:2] != r[:2]:
        return (f"its weights have the shapes {list(w)} and {list(r)} instead of [{directions}, {gates} h, input] "
                f"and [{directions}, {gates} h, h]")  # fmt: skip
    if a.get("hidden_size", hidden) != hidden:
        return f"hidden_size is {a['hidden_size']}, and its weights have {hidden}"
    for name in ("layout", "input_forget", "linear_before_reset"):
        if a.get(name, 0) not in (0, 1):
            return f"{name} is {a[name]} instead of 0 or 1"
    if not (math.isfinite(a.get("clip", 0.0)) and a.get("clip", 0.0) >= 0):
        return f"clip is {a['clip']}"
    return None


class Scope:
    """Which initializer a name stands for, in a graph and those around it."""

    def __init__(self, graph: onnx.GraphProto, parent: Scope | None = None) -> None:
        self.parent = parent
        self.constants: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.computed = {i.name for i in graph.input} | {o for n in graph.node for o in n.output}
        for node in graph.node:
            tensor = constant_tensor(node)
            if tensor is not None:
                self.constants[tensor.name] = tensor

    def constant(self, name: str) -> onnx.TensorProto | None:
        if name in self.constants:
            return self.constants[name]
        return None if name in self.computed or self.parent is None else self.parent.constant(name)


def eie_nodes(model: onnx.ModelProto) -> Iterator[EieNode]:
    """Every compressed layer of a model, bodies included, in the order of the file.

    Raises:
        FormatError: at the first node that is not as docs/format.md has it.
    """

    def walk(graph: onnx.GraphProto, parent: Scope | None) -> Iterator[EieNode]:
        scope = Scope(graph, parent)
        for node in graph.node:
            if node.domain == DOMAIN:
                yield eie_node(node, scope.constant)
            for _, body in bodies_of(node):
                yield from walk(body, scope)

    yield from walk(model.graph, None)


@dataclass(frozen=True)
class Payload:
    """A payload of an artifact.

    Attributes:
        name: of its initializer.
        content: its bytes.
        readers: the layers that share it, by name.
    """

    name: str
    content: bytes = field(repr=False)
    readers: tuple[str, ...]


def payloads(model: onnx.ModelProto, base: Path | None = None) -> list[Payload]:
    """Every payload of a model once, in the order of its first reader.

    Args:
        model: as ``load_model`` gives it.
        base: the folder external data lies in; needed only where the payloads are in another file.
    """
    tensors = Tensors(base)
    found: dict[int, tuple[onnx.TensorProto, list[str]]] = {}
    for layer in eie_nodes(model):
        for payload in layer.payloads:
            readers = found.setdefault(id(payload), (payload, []))[1]
            if layer.name not in readers:
                readers.append(layer.name)
    return [Payload(p.name, tensors.array(p).tobytes(), tuple(readers)) for p, readers in found.values()]


def specs(source: Source, activations: Activations | None = None) -> Iterator[LayerSpec]:
    """Every compressed layer of an artifact, decoded; one payload that several layers share is decoded once."""
    model = load_model(source)
    reader = PayloadReader(Tensors(None if isinstance(source, bytes) else Path(source).parent))
    for layer in eie_nodes(model):
        yield layer.spec(reader.weight, activations)
