"""Tensors of an ONNX file as arrays: initializers, external data through a memory map, Constant nodes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError

if TYPE_CHECKING:
    import onnx


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
