"""Quantized operators: whole numbers in and out, so gradients end here."""

from __future__ import annotations

import torch

from .base import Call, Tensor, axis_of, dtype_of, operator
from .layers import conv

_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int32: (0, 65535), torch.int16: (-32768, 32767)}


def _along(v: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scale or zero point, one for all, one a channel or one an element, in x's rank."""
    if v.shape == x.shape:
        return v
    if v.numel() == 1:
        return v.reshape(())
    shape = [1] * x.ndim
    shape[axis_of(axis, x.ndim)] = -1
    return v.reshape(shape)


def _spread(v: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """One of a block, for each of its elements."""
    axis = axis_of(axis, x.ndim)
    return v.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])


@operator("QuantizeLinear", gradient=False)
def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    axis = int(call.get("axis", 1))
    block = int(call.get("block_size", 0))
    if block:
        scale, zero = _spread(scale, x, axis, block), None if zero is None else _spread(zero, x, axis, block)
    kind = zero.dtype if zero is not None else torch.uint8
    if "output_dtype" in call.node.attributes and call.get("output_dtype"):
        kind = dtype_of(int(call.get("output_dtype")), call.scope.host.widen)
    low, high = _RANGES[kind]
    found = torch.round(x / _along(scale, x, axis))
    if zero is not None:
        found = found + _along(zero, x, axis).to(found.dtype)
    return found.clamp(low, high).to(kind)


@operator("DequantizeLinear", gradient=False)
def dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    axis = int(call.get("axis", 1))
    block = int(call.get("block_size", 0))
    if block:
        scale, zero = _spread(scale, x, axis, block), None if zero is None else _spread(zero, x, axis, block)
    found = x.to(torch.float32) if zero is None else x.to(torch.float32) - _along(zero, x, axis).to(torch.float32)
    return (found * _along(scale, x, axis)).to(scale.dtype)


@operator("DynamicQuantizeLinear", gradient=False)
def dynamic_quantize_linear(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale).clamp(0, 255)
    return (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def _shifted(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Exact in float64: products and sums of bytes stay below 2^53."""
    return x.to(torch.float64) if zero is None else x.to(torch.float64) - _along(zero, x, axis).to(torch.float64)


@operator("MatMulInteger", gradient=False)
def matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    return (_shifted(a, a_zero, -2) @ _shifted(b, b_zero, -1)).to(torch.int32)


@operator("QLinearMatMul", gradient=False)
def qlinear_matmul(
    call: Call, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    sums = _shifted(a, a_zero, -2) @ _shifted(b, b_zero, -1)
    return _requantized(sums, _along(a_scale, sums, -2) * _along(b_scale, sums, -1), y_scale, y_zero)


def _requantized(sums: Tensor, factor: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    low, high = _RANGES[zero.dtype]
    return (torch.round(sums * factor / scale) + zero.to(torch.float64)).clamp(low, high).to(zero.dtype)


@operator("ConvInteger", gradient=False)
def conv_integer(
    call: Call, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    found: Tensor = conv(call, _shifted(x, x_zero, 1), _shifted(w, w_zero, 0))
    return found.to(torch.int32)


@operator("QLinearConv", gradient=False)
def qlinear_conv(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    held = None if bias is None else bias.to(torch.float64)
    sums: Tensor = conv(call, _shifted(x, x_zero, 1), _shifted(w, w_zero, 0), held)
    return _requantized(sums, x_scale * _along(w_scale, sums, 1), y_scale, y_zero)
