"""The operators of ``ai.eie`` (docs/format.md): what they take, and whether a layer's weights and attributes fit each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .backends.base import LayerSpec

DOMAIN = "ai.eie"
VERSION = 1
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


def misfit(spec: LayerSpec) -> str | None:
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
