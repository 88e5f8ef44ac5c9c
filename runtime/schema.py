"""Makes the operators of ``ai.eie`` known to onnx: its checker and shape inference then understand artifacts.

onnx keeps one table of operators for the process: ``register`` adds ours to it. ONNX Runtime has a table of its own, in
the custom-op library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import format as container
from .errors import FormatError
from .operators import DOMAIN, OPERATORS, VERSION, Operator
from .valueinfo import Dim, shape_of

Shape = list[Dim]

_FLOAT = "tensor(float)"
_STATE = ("sequence_lens", "initial_h", "initial_c", "peephole")
_INPUTS: dict[str, tuple[str, ...]] = {
    "Gemm": ("X", "payload", "bias"),
    "Conv": ("X", "payload", "bias"),
    "ConvTranspose": ("X", "payload", "bias"),
    "LSTM": ("X", "payload_W", "payload_R", "bias", *_STATE),
    "GRU": ("X", "payload_W", "payload_R", "bias", *_STATE[:2]),
    "Gather": ("payload", "indices"),
    "Decode": ("payload",),
}
_OUTPUTS: dict[str, tuple[str, ...]] = {"LSTM": ("Y", "Y_h", "Y_c"), "GRU": ("Y", "Y_h"), "Decode": ("W",)}


@functools.cache
def register() -> None:
    """Make the operators known; further calls do nothing.

    With onnx before 1.17 the checker knows them, and shape inference leaves their outputs open.
    """
    import onnx

    for op, operator in OPERATORS.items():
        if onnx.defs.has(op, domain=DOMAIN, max_inclusive_version=VERSION):
            continue  # somebody else registered it, perhaps another copy of this module
        schema = _schema(op, operator)
        if hasattr(schema, "set_type_and_shape_inference_function"):
            schema.set_type_and_shape_inference_function(functools.partial(_infer, op))
        onnx.defs.register_schema(schema)


def _schema(op: str, operator: Operator) -> Any:
    from onnx.defs import OpSchema

    kinds = {"int": OpSchema.AttrType.INT, "ints": OpSchema.AttrType.INTS, "float": OpSchema.AttrType.FLOAT,
             "string": OpSchema.AttrType.STRING}  # fmt: skip
    option = OpSchema.FormalParameterOption
    inputs = [
        OpSchema.FormalParameter(n, _type_of(n),
                                 param_option=option.Single if i < operator.inputs[0] else option.Optional)
        for i, n in enumerate(_INPUTS[op])
    ]  # fmt: skip
    outputs = [
        OpSchema.FormalParameter(n, _FLOAT, param_option=option.Optional if operator.outputs > 1 else option.Single)
        for n in _OUTPUTS.get(op, ("Y",))
    ]  # fmt: skip
    known = {**operator.attributes, **({"activations": "string"} if operator.computes else {})}
    constraints = [("I", ["tensor(int64)", "tensor(int32)"], "indices")] if op == "Gather" else []
    return OpSchema(op, DOMAIN, VERSION, f"{op} of a compressed weight; docs/format.md", inputs=inputs, outputs=outputs,
                    type_constraints=constraints,
                    attributes=[OpSchema.Attribute(n, kinds[k], required=False) for n, k in known.items()])  # fmt: skip


def _type_of(parameter: str) -> str:
    if parameter.startswith("payload"):
        return "tensor(uint8)"
    return {"indices": "I", "sequence_lens": "tensor(int32)"}.get(parameter, _FLOAT)


# -- inference -------------------------------------------------------------------------------------------------------


def _infer(op: str, context: Any) -> None:
    """Sets what is known of a node's outputs. What does not fit is left open: the checks of a backend say it better."""
    import onnx

    attributes = {name: _value(context.get_attribute(name)) for name in OPERATORS[op].attributes}
    shapes = _RULES[op](context, {n: v for n, v in attributes.items() if v is not None})
    for i, shape in enumerate(shapes[: context.get_num_outputs()]):
        context.set_output_type(i, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shape))


def _value(attribute: Any) -> Any:
    import onnx

    return None if attribute is None else onnx.helper.get_attribute_value(attribute)


def _shape(context: Any, index: int) -> Shape | None:
    return shape_of(context.get_input_type(index)) if index < context.get_num_inputs() else None


def _weight(context: Any, index: int) -> tuple[int, ...] | None:
    """The shape of a payload's weight; None where it is no constant or can't be read."""
    import onnx

    tensor = context.get_input_data(index)
    if tensor is None or tensor.data_type != onnx.TensorProto.UINT8 or tensor.data_location != onnx.TensorProto.DEFAULT:
        return None
    try:
        return container.inspect(onnx.numpy_helper.to_array(tensor)).shape
    except (FormatError, ValueError):
        return None


def _gemm(context: Any, attributes: Mapping[str, Any]) -> list[Shape | None]:
    x, w = _shape(context, 0), _weight(context, 1)
    if not x:
        return [None]
    return [[*x[:-1], w[0] if w and len(w) == 2 else None]]


def _conv(context: Any, attributes: Mapping[str, Any]) -> list[Shape | None]:
    return _windows(context, attributes, _conv_size)


def _conv_transpose(context: Any, attributes: Mapping[str, Any]) -> list[Shape | None]:
    return _windows(context, attributes, _transposed_size)


Size = Callable[[int, int, Mapping[str, int], str], int]


def _windows(context: Any, attributes: Mapping[str, Any], size: Size) -> list[Shape | None]:
    """A convolution's output: [batch, channels, spatial...]; ``size`` gives one spatial dimension of it."""
    x, w = _shape(context, 0), _weight(context, 1)
    if not x or len(x) < 3 or (w is not None and len(w) != len(x)):
        return [None]
    spatial = len(x) - 2
    if w is None:
        return [[x[0], *[None] * (spatial + 1)]]
    transposed = size is _transposed_size
    lists = {n: list(attributes.get(n) or default) for n, default in (
        ("strides", [1] * spatial), ("dilations", [1] * spatial), ("pads", [0] * (2 * spatial)),
        ("output_padding", [0] * spatial), ("output_shape", [0] * spatial))}  # fmt: skip
    if any(len(v) != spatial * (2 if n == "pads" else 1) for n, v in lists.items()) or min(lists["strides"]) < 1:
        return [None]
    channels = w[1] * attributes.get("group", 1) if transposed else w[0]
    auto_pad = bytes(attributes.get("auto_pad", b"NOTSET")).decode("ascii", "replace")
    out: Shape = [x[0], channels]
    for i, length in enumerate(x[2:]):
        axis = {"stride": lists["strides"][i], "dilation": lists["dilations"][i], "padding": lists["output_padding"][i],
                "pads": 0 if auto_pad == "VALID" else lists["pads"][i] + lists["pads"][i + spatial],
                "wanted": lists["output_shape"][i] if any(lists["output_shape"]) else 0}  # fmt: skip
        found = size(length, w[2 + i], axis, auto_pad) if isinstance(length, int) else axis["wanted"]
        out.append(found if found > 0 else None)
    return [out]


def _conv_size(length: int, kernel: int, axis: Mapping[str, int], auto_pad: str) -> int:
    if auto_pad.startswith("SAME"):
        return -(-length // axis["stride"])
    return (length + axis["pads"] - axis["dilation"] * (kernel - 1) - 1) // axis["stride"] + 1


def _transposed_size(length: int, kernel: int, axis: Mapping[str, int], auto_pad: str) -> int:
    full = (length - 1) * axis["stride"] + axis["padding"] + axis["dilation"] * (kernel - 1) + 1
    if axis["wanted"]:
        return axis["wanted"]
    if auto_pad.startswith("SAME"):
        return min(full, length * axis["stride"])
    return full - axis["pads"]


def _recurrent(context: Any, attributes: Mapping[str, Any]) -> list[Shape | None]:
    x, r = _shape(context, 0), _weight(context, 2)
    hidden = r[2] if r and len(r) == 3 else attributes.get("hidden_size")
    if not x or len(x) != 3:
        return [None] * 3
    directions = 2 if attributes.get("direction") == b"bidirectional" else 1
    if attributes.get("layout", 0):
        return [[x[0], x[1], directions, hidden], *[[x[0], directions, hidden]] * 2]
    return [[x[0], directions, x[1], hidden], *[[directions, x[1], hidden]] * 2]


def _gather(context: Any, attributes: Mapping[str, Any]) -> list[Shape | None]:
    w, indices = _weight(context, 0), _shape(context, 1)
    return [[*indices, *w[1:]] if w and indices is not None else None]


def _decode(context: Any, attributes: Mapping[str, Any]) -> list[Shape | None]:
    w = _weight(context, 0)
    if "shape" in attributes:
        return [list(attributes["shape"])]
    if w is None:
        return [None]
    return [list(w[::-1]) if attributes.get("transpose", 0) else list(w)]


_RULES: dict[str, Callable[[Any, Mapping[str, Any]], Sequence[Shape | None]]] = {
    "Gemm": _gemm, "Conv": _conv, "ConvTranspose": _conv_transpose, "LSTM": _recurrent, "GRU": _recurrent,
    "Gather": _gather, "Decode": _decode,
}  # fmt: skip
