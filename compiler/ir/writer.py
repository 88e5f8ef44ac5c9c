"""Writes a Graph as ONNX: whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import numpy_helper

from ..errors import ModelError
from ..files import write_beside
from .graph import Constant, Graph, Model, Node

LIMIT = 1_900_000_000  # bytes: protobuf can't hold 2 GiB in one message
_INLINE = 1024  # bytes: smaller tensors stay in the model file
_ALIGNED = 4096  # bytes: so that ONNX Runtime can map each tensor, and vector loads are aligned


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as protocol buffer, with all tensors inside.

    Raises:
        ModelError: the tensors take more than a protocol buffer can hold; ``save`` writes such a model.
    """
    total = _total(model)
    if total > LIMIT:
        raise ModelError(
            f"{total:,} bytes of tensors do not fit one protocol buffer",
            where=model.path,
            hint="Save it with external data.",
        )
    return _proto(model, None)


def save(model: Model, path: str | Path, *, external: bool | None = None) -> int:
    """Write the model; returns the bytes written, external data included. Otherwise as ``writing``."""
    with writing(model, path, external=external) as written:
        return written


@contextmanager
def writing(model: Model, path: str | Path, *, external: bool | None = None) -> Iterator[int]:
    """Write the model; it is in its place when the block has ended well. Gives the bytes written, external data included.

    Args:
        model: what to write.
        path: where to; an existing file is replaced when all is written, and kept as it is when anything fails.
        external: put tensors into ``NAME.data`` beside it; None: only where one file can't hold them.

    Raises:
        UserError: the path can't be written, or the disk is full.
    """
    path = Path(path)
    if external is None:
        external = _total(model) > LIMIT
    if not external:
        with write_beside(path) as stream:
            yield stream.write(_proto(model, None).SerializeToString(deterministic=True))
        return
    name = path.name + ".data"
    with write_beside(path.with_name(name)) as data, write_beside(path) as stream:
        content = _proto(model, _DataFile(data, name)).SerializeToString(deterministic=True)
        yield stream.write(content) + data.tell()


def size_of(model: Model) -> int:
    """The bytes ``save`` would write."""
    return _proto(model, None).ByteSize() if _total(model) <= LIMIT else _total(model)


def _total(model: Model) -> int:
    return sum(c.nbytes for graph in model.graph.graphs() for c in graph.constants.values())


class _DataFile:
    """External data being written."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.stream, self.name = stream, name

    def put(self, constant: Constant, proto: onnx.TensorProto) -> None:
        """Append the constant's bytes and let ``proto`` point at them."""
        self.stream.write(bytes(-self.stream.tell() % _ALIGNED))
        offset = self.stream.tell()
        content = constant.content
        if isinstance(content, np.ndarray) and content.nbytes == constant.nbytes:  # 4-bit types are packed when written
            array = np.ascontiguousarray(content)
            for part in np.array_split(
                array.reshape(-1).view(np.uint8), max(1, array.nbytes >> 26)
            ):  # a mapped tensor stays mapped
                self.stream.write(part.data)
        else:
            tensor = _tensor(constant)
            if not tensor.HasField("raw_data"):  # its elements stand in a typed field
                tensor = numpy_helper.from_array(constant.array(), constant.name)
            self.stream.write(tensor.raw_data)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.name), ("offset", offset), ("length", self.stream.tell() - offset)):
            proto.external_data.add(key=key, value=str(value))


def _proto(model: Model, data: _DataFile | None) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.extra)
    proto.ir_version = model.ir_version
    for domain, version in model.graph.opsets.items():
        proto.opset_import.add(domain=domain, version=version)
    _graph(model.graph, proto.graph, data)
    return proto


def _graph(graph: Graph, proto: onnx.GraphProto, data: _DataFile | None) -> None:
    proto.CopyFrom(graph.extra)
    proto.name = graph.name
    proto.input.extend(graph.inputs)
    proto.output.extend(graph.outputs)
    proto.value_info.extend(graph.value_info.values())
    for name, constant in graph.constants.items():
        tensor = proto.initializer.add()
        if data is not None and constant.nbytes > _INLINE and constant.data_type != onnx.TensorProto.STRING:
            tensor.name, tensor.data_type = name, constant.data_type
            tensor.dims.extend(constant.dims)
            data.put(constant, tensor)
        else:
            tensor.CopyFrom(_tensor(constant))
            tensor.name = name
    for node in graph.nodes:
        _node(node, proto.node.add(), data)


def _node(node: Node, proto: onnx.NodeProto, data: _DataFile | None) -> None:
    if node.proto is not None:
        proto.CopyFrom(node.proto)
    proto.op_type = node.op
    if node.domain:
        proto.domain = node.domain
    if node.name:
        proto.name = node.name
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    for name, attribute in node.attributes.items():
        if name not in node.bodies:
            proto.attribute.add().CopyFrom(attribute)
    for name, bodies in node.bodies.items():
        attribute = proto.attribute.add(name=name)
        if name in node.attributes:  # GRAPHS
            attribute.type = onnx.AttributeProto.GRAPHS
            for body in bodies:
                _graph(body, attribute.graphs.add(), data)
        else:
            attribute.type = onnx.AttributeProto.GRAPH
            _graph(bodies[0], attribute.g, data)


def _tensor(constant: Constant) -> onnx.TensorProto:
    content = constant.content
    if isinstance(content, onnx.TensorProto):
        return content
    array = np.ascontiguousarray(constant.array()).reshape(constant.dims)
    proto = numpy_helper.from_array(array, constant.name)
    proto.data_type = constant.data_type
    return proto
