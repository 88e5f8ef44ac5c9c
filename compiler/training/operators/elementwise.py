"""Operators that work on each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ...ir.graph import Node
from .base import NARROW_FLOATS, Call, Tensor, dtype_of, operator

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Softplus": lambda x: F.softplus(x, threshold=1e9),
    "Softsign": F.softsign,
    "Mish": F.mish,
    "HardSwish": F.hardswish,
    **{
        name.capitalize(): getattr(torch, name)
        for name in (
            "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
        )
    },
}  # fmt: skip
_NO_GRADIENT: dict[str, Callable[[Tensor], Tensor]] = {
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "BitwiseNot": torch.bitwise_not,
}
_COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    return lambda call, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call, Tensor, Tensor], Tensor]:
    return lambda call, a, b: function(a, _aligned(call, a, b))


def _aligned(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Before version 7 broadcasting was asked for, from an axis on."""
    if call.opset >= 7 or not call.get("broadcast", 0) or a.shape == b.shape or "axis" not in call.node.attributes:
        return b
    return b.reshape(*b.shape, *(1,) * (a.ndim - b.ndim - int(call.get("axis"))))


for _name, _function in _UNARY.items():
    operator(_name)(_unary(_function))
for _name, _function in _NO_GRADIENT.items():
    operator(_name, gradient=False)(_unary(_function))
for _name, _compare in _COMPARISONS.items():
    operator(_name, gradient=False)(_binary(_compare))
operator("Add")(_binary(torch.add))
operator("Sub")(_binary(torch.sub))
operator("Mul")(_binary(torch.mul))


@operator("Div")
def div(call: Call, a: Tensor, b: Tensor) -> Tensor:
    b = _aligned(call, a, b)
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Pow")
def power(call: Call, a: Tensor, b: Tensor) -> Tensor:
    b = _aligned(call, a, b)
    if b.ndim == 0 or b.numel() == 1:  # a constant exponent has a simpler gradient, and no log of a
        found = torch.pow(a, b.reshape(()).item()) if not b.requires_grad else torch.pow(a, b)
        return found.reshape(torch.broadcast_shapes(a.shape, b.shape)).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


@operator("Mod", gradient=False)
def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


@operator("BitShift", gradient=False)
def bit_shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_left_shift(a, b) if call.get("direction") == "LEFT" else torch.bitwise_right_shift(a, b)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(call: Call, *values: Tensor) -> Tensor:
        found = values[0]
        for value in values[1:]:
            found = function(found, value)
        return found

    return run


operator("Sum")(_folded(torch.add))
operator("Min")(_folded(torch.minimum))
operator("Max")(_folded(torch.maximum))


@operator("Mean")
def mean(call: Call, *values: Tensor) -> Tensor:
    return _folded(torch.add)(call, *values) / len(values)


@operator("Where")
def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    least = low if low is not None else call.get("min")
    most = high if high is not None else call.get("max")
    x = x if least is None else torch.clamp_min(x, least)
    return x if most is None else torch.clamp_max(x, most)


@operator("Identity", "Dropout")
def identity(call: Call, x: Tensor, *rest: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Dropout is what it is when a model runs: nothing."""
    if call.node.op == "Dropout" and len(rest) > 1 and rest[1] is not None and bool(rest[1].item()):
        raise call.refuse("training_mode = True")
    if call.node.op == "Dropout" and len(call.node.outputs) > 1:
        return x, torch.ones_like(x, dtype=torch.bool if call.opset >= 10 else x.dtype)
    return x


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    return F.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    return F.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.get("alpha", 1.6732631921768188), call.get("gamma", 1.0507010221481323)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call.get("approximate", "none"))


@operator("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    if call.opset < 7 and slope.ndim == 1 and x.ndim > 1:
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    return torch.where(x < 0, slope * x, x)


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    bias, limit = call.get("bias", 0.0), call.get("lambd", 0.5)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x))).to(x.dtype)


@operator("IsInf", gradient=False)
def is_inf(call: Call, x: Tensor) -> Tensor:
    up, down = call.get("detect_positive", 1), call.get("detect_negative", 1)
    return ((x == math.inf) & bool(up)) | ((x == -math.inf) & bool(down))


def _to_float(node: Node) -> bool:
    return dtype_of(int(node.get("to", 0)), False).is_floating_point


@operator("Cast", gradient=_to_float)
def cast(call: Call, x: Tensor) -> Tensor:
    """Between floats gradients pass; to whole numbers none do."""
    return _cast(x, dtype_of(int(call.get("to")), call.scope.host.widen))


@operator("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    return _cast(x, like.dtype)


def _cast(x: Tensor, to: torch.dtype) -> Tensor:
    if to == torch.uint8 and x.dtype in (torch.float32, torch.float64, *NARROW_FLOATS):
        return x.to(torch.int64).to(to)
    return x.to(to)
