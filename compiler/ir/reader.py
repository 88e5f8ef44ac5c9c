"""Reads ONNX into a Graph. Large tensors are mapped, not loaded: a model of many gigabytes opens in the time its graph takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError, Message

from eie.runtime.modelfile import check_functions, check_no_program

from ..errors import ModelError
from .graph import Constant, Graph, Model, Node, bits_of


def read(source: str | Path | onnx.ModelProto) -> Model:
    """An ONNX file, or a model in memory, as Model.

    Raises:
        ModelError: there is no such file, it is no ONNX model, or its external data is missing, short, or outside its folder;
            its functions call themselves, or come to more nodes than can be.
    """
    if isinstance(source, onnx.ModelProto):
        proto, path = source, None
    else:
        path = Path(source)
        proto = _parse(path)
    bad = next(_not_text(proto, "model"), None)
    if bad is not None:
        raise ModelError(f"no ONNX model: {bad} is no text", where=str(path or "model"), hint="The file is damaged.")
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(
            "no ONNX model: it holds no graph", where=str(path or "model"), hint="Give a file that onnx.load can read."
        )
    check_functions(proto, str(path or "model"))
    data = _External(path)
    opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in proto.opset_import}
    graph = _graph(proto.graph, Graph(opsets=opsets or {"": 1}), data)
    extra = onnx.ModelProto()
    extra.CopyFrom(_without(proto, "graph"))
    extra.ClearField("opset_import")
    return Model(graph, proto.ir_version, extra, str(path) if path else None)


def _parse(path: Path) -> onnx.ModelProto:
    hint = "Give an ONNX file."
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise ModelError("this is a folder", where=str(path), hint=hint) from error
    except OSError as error:
        raise ModelError(f"can't read the model: {error.strerror or error}", where=str(path), hint=hint) from error
    if not content:
        raise ModelError("the file is empty", where=str(path), hint=hint)
    check_no_program(content, str(path))
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError("no ONNX model, or a truncated one: it does not parse", where=str(path), hint=hint) from error
    return proto


def _without(proto: onnx.ModelProto, field: str) -> onnx.ModelProto:
    """A copy that leaves out one field without copying it first."""
    made = onnx.ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name == field:
            continue
        if descriptor.is_repeated:
            getattr(made, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(made, descriptor.name).CopyFrom(value)
        else:
            setattr(made, descriptor.name, value)
    return made


def _not_text(message: Message, path: str) -> Iterator[str]:
    """Names and other strings that are not UTF-8: parsing lets them pass, using them fails."""
    if isinstance(message, onnx.TensorProto):  # whose data should not be copied to be looked at
        fields = [(f, getattr(message, f.name)) for f in _TENSOR_TEXT]
    else:
        fields = message.ListFields()
    for descriptor, value in fields:
        if descriptor.type == descriptor.TYPE_STRING:
            if any(isinstance(v, bytes) for v in (value if descriptor.is_repeated else [value])):
                yield f"{path}.{descriptor.name}"
        elif descriptor.type == descriptor.TYPE_MESSAGE:
            for part in value if descriptor.is_repeated else [value]:
                yield from _not_text(part, f"{path}.{descriptor.name}")


_TENSOR_TEXT = [onnx.TensorProto.DESCRIPTOR.fields_by_name[n] for n in ("name", "doc_string", "external_data")]


def _graph(proto: onnx.GraphProto, graph: Graph, data: _External) -> Graph:
    graph.name = proto.name
    graph.inputs, graph.outputs = list(proto.input), list(proto.output)
    graph.value_info = {v.name: v for v in proto.value_info}
    for tensor in proto.initializer:
        if tensor.name in graph.constants:
            raise ModelError("there are two initializers of this name", where=f"tensor {tensor.name!r}",
                             hint="The file is damaged, or was put together wrongly.")  # fmt: skip
        graph.constants[tensor.name] = Constant(tensor.name, data.map(tensor) if _is_external(tensor) else tensor)
    for descriptor, value in proto.ListFields():
        if descriptor.name in {"doc_string"}:
            setattr(graph.extra, descriptor.name, value)
        elif descriptor.name in {"quantization_annotation", "sparse_initializer", "metadata_props"}:
            getattr(graph.extra, descriptor.name).extend(value)
    # a file lists operators in an order in which they run: readers find their producers there already
    for item in proto.node:
        graph.add(_node(item, graph, data))
    return graph


def _node(proto: onnx.NodeProto, graph: Graph, data: _External) -> Node:
    rest = onnx.NodeProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name in {"doc_string", "overload"}:
            setattr(rest, descriptor.name, value)
        elif descriptor.name in {"metadata_props", "device_configurations"}:
            getattr(rest, descriptor.name).extend(value)
    node = Node(
        proto.op_type,
        list(proto.input),
        list(proto.output),
        "" if proto.domain == "ai.onnx" else proto.domain,
        proto.name,
        proto=rest,
    )
    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            node.bodies[attribute.name] = [_graph(attribute.g, Graph(parent=graph), data)]
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            node.bodies[attribute.name] = [_graph(g, Graph(parent=graph), data) for g in attribute.graphs]
            node.attributes[attribute.name] = onnx.AttributeProto(name=attribute.name, type=attribute.type)
        else:
            if attribute.type == onnx.AttributeProto.TENSOR and _is_external(attribute.t):
                attribute = onnx.helper.make_attribute(
                    attribute.name, onnx.numpy_helper.from_array(np.asarray(data.map(attribute.t)), attribute.t.name)
                )
            node.attributes[attribute.name] = attribute
    return node


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


class _External:
    """The files beside a model, each mapped once."""

    def __init__(self, model: Path | None) -> None:
        self.model = model
        self._files: dict[Path, npt.NDArray[np.uint8]] = {}

    def map(self, tensor: onnx.TensorProto) -> npt.NDArray[np.generic] | onnx.TensorProto:
        """The tensor as read-only memory map.

        Raises:
            ModelError: the data is missing, too short, or lies outside the model's folder.
        """
        where = f"{self.model or 'model'}, tensor {tensor.name!r}"
        if self.model is None:
            raise ModelError(
                "its data lies in another file",
                where=where,
                hint="Give the model's path instead of the model in memory.",
            )
        entry = {e.key: e.value for e in tensor.external_data}
        name, content = self._file(entry.get("location", ""), self.model, where)
        try:
            bits = bits_of(tensor.data_type)
            if not bits:
                raise ValueError("strings can't lie in another file")
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            offset = int(entry.get("offset", 0))
            size = (_product(tensor.dims) * bits + 7) // 8
            length = int(entry.get("length", size))
        except (ValueError, KeyError) as error:
            raise ModelError(f"its type, shape or offset is not valid: {error}", where=where) from error
        if offset < 0 or length != size or offset + size > content.size:
            raise ModelError(
                f"it needs {size:,} bytes from {offset:,}, but {name} holds {content.size:,} and {length:,} are announced",
                where=where,
                hint="The data file is truncated or belongs to another model.",
            )
        part = content[offset : offset + size]
        if bits < 8 * dtype.itemsize:  # several elements a byte
            return onnx.TensorProto(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=part.tobytes()
            )
        return (
            part.view(dtype).reshape(tuple(tensor.dims))
            if offset % dtype.itemsize == 0
            else np.frombuffer(part.tobytes(), dtype).reshape(tuple(tensor.dims))
        )

    def _file(self, location: str, model: Path, where: str) -> tuple[str, npt.NDArray[np.uint8]]:
        """The name and the bytes of a data file, which lies in or below the model's folder.

        Where the model is a link into a store of files, as model hubs keep them, its data may be one into the same folder.
        """
        given = PurePath(location)
        try:
            path = (model.parent / given).resolve()
            folders = (model.parent.resolve(), model.resolve().parent)
            plain = location and not given.is_absolute() and ".." not in given.parts and path not in folders
            if not plain or not any(path.is_relative_to(folder) for folder in folders):
                raise ModelError(
                    f"its data would lie outside the model's folder, at {location!r}",
                    where=where,
                    hint="This file may not be trustworthy.",
                )
            if path not in self._files:
                self._files[path] = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise ModelError(
                f"can't read its data file {location!r}: {error}",
                where=where,
                hint="Keep the data file beside the model.",
            ) from error
        return path.name, self._files[path]


def _product(dims: object) -> int:
    total = 1
    for d in dims:  # type: ignore[attr-defined]
        if d < 0:
            raise ValueError(f"dimension {d}")
        total *= int(d)
    return total
