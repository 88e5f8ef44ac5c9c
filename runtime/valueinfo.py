"""Types of values: ONNX's protobuf, and the strings ONNX Runtime writes them as (``tensor(float)``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Dim = int | str | None


@dataclass(frozen=True)
class NodeArg:
    """An input or output of a model, as ``onnxruntime.NodeArg`` describes it.

    Attributes:
        name: its name.
        type: as ONNX Runtime writes it: ``tensor(float)``, ``seq(tensor(int64))``.
        shape: a number, a name or None for each dimension; empty for a scalar, and where the shape is not known.
    """

    name: str
    type: str
    shape: list[Dim]


_SPECIAL = {"FLOAT": "float", "DOUBLE": "double"}


def element_name(data_type: int) -> str:
    """``float``, ``int64``, ``bfloat16``: an ONNX element type as ONNX Runtime writes it."""
    import onnx

    if data_type not in onnx.TensorProto.DataType.values():
        return f"unknown type {data_type}"
    name: str = onnx.TensorProto.DataType.Name(data_type)
    return _SPECIAL.get(name, name.lower())


def element_type(name: str) -> int:
    """The ONNX element type behind ``element_name``; 0 for one this onnx does not know."""
    import onnx

    names: dict[str, int] = dict(onnx.TensorProto.DataType.items())
    return names.get(name.upper(), 0)


def type_string(proto: onnx.TypeProto) -> str:
    """A type as ONNX Runtime writes it; empty where the protobuf says nothing."""
    kind = proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        elements = element_name(getattr(proto, kind).elem_type)
        return f"{'sparse_' if kind.startswith('sparse') else ''}tensor({elements})"
    if kind == "sequence_type":
        return f"seq({type_string(proto.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({type_string(proto.optional_type.elem_type)})"
    if kind == "map_type":
        return f"map({element_name(proto.map_type.key_type)},{type_string(proto.map_type.value_type)})"
    return ""


def parse_type(text: str, shape: Sequence[Dim] | None = None) -> onnx.TypeProto:
    """The opposite of ``type_string``; an unknown text gives an empty type.

    Args:
        shape: of a tensor; None leaves rank and dimensions open.
    """
    import onnx

    proto = onnx.TypeProto()
    kind, _, rest = text.partition("(")
    inner = rest[:-1]
    if kind == "tensor":
        return onnx.helper.make_tensor_type_proto(element_type(inner), shape)
    if kind == "sparse_tensor":
        return onnx.helper.make_sparse_tensor_type_proto(element_type(inner), shape)
    if kind == "seq":
        proto.sequence_type.elem_type.CopyFrom(parse_type(inner))
    elif kind == "optional":
        proto.optional_type.elem_type.CopyFrom(parse_type(inner))
    elif kind == "map":
        key, _, value = inner.partition(",")
        proto.map_type.key_type = element_type(key)
        proto.map_type.value_type.CopyFrom(parse_type(value))
    return proto


def shape_of(proto: onnx.TypeProto | None) -> list[Dim] | None:
    """A tensor's dimensions; None where not even the rank is known."""
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in proto.tensor_type.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            dims.append(dim.dim_param or None)
    return dims


def without_shape(proto: onnx.TypeProto) -> onnx.TypeProto:
    """The type with rank and dimensions left open."""
    return parse_type(type_string(proto))


def node_arg(info: onnx.ValueInfoProto) -> NodeArg:
    return NodeArg(info.name, type_string(info.type), shape_of(info.type) or [])


def numpy_type(proto: onnx.TypeProto) -> np.dtype[Any] | None:
    """The numpy type of a tensor's elements; None where numpy has none, and for what is no tensor."""
    import onnx

    from .tensors import plain_type

    if not proto.HasField("tensor_type"):
        return None
    kind = proto.tensor_type.elem_type
    if kind == onnx.TensorProto.STRING:
        return np.dtype(object)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if plain_type(kind) else None
