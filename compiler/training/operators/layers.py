"""Operators with weights, pooling and normalization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .base import Call, Tensor, axis_of, operator

_CONV: list[Callable[..., Tensor]] = [F.conv1d, F.conv2d, F.conv3d]
_TRANSPOSED: list[Callable[..., Tensor]] = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]
_MAX: list[Callable[..., Tensor]] = [F.max_pool1d, F.max_pool2d, F.max_pool3d]
_AVERAGE: list[Callable[..., Tensor]] = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d]


@operator("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if c is not None and alpha == beta == 1 and c.ndim == 1 and a.is_floating_point():
        return torch.addmm(c, a, b)
    found = a @ b if alpha == 1 else alpha * (a @ b)
    return found if c is None else found + (c if beta == 1 else beta * c)


@operator("Einsum")
def einsum(call: Call, *values: Tensor) -> Tensor:
    return torch.einsum(call.get("equation"), *values)


def paddings(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after on each spatial axis, ``auto_pad`` settled."""
    n = len(kernel)
    auto = call.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [0] * n, [0] * n
    if auto.startswith("SAME"):
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        totals = [max(0, (-(-s // t) - 1) * t + p - s) for s, t, p in zip(sizes, strides, spans, strict=True)]
        small = [t // 2 for t in totals]
        large = [t - t // 2 for t in totals]
        return (small, large) if auto == "SAME_UPPER" else (large, small)
    pads = list(call.get("pads") or [0] * 2 * n)
    return pads[:n], pads[n:]


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """x [N, C, ...] with ``value`` around."""
    if not any(before) and not any(after):
        return x
    amounts = [n for pair in zip(reversed(list(before)), reversed(list(after)), strict=True) for n in pair]
    return F.pad(x, amounts, value=value)


@operator("Conv")
def conv(call: Call, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    n = x.ndim - 2
    if not 1 <= n <= 3:
        raise call.refuse(f"a convolution over {n} axes")
    strides, dilations = call.get("strides") or [1] * n, call.get("dilations") or [1] * n
    before, after = paddings(call, x.shape[2:], w.shape[2:], strides, dilations)
    group = int(call.get("group", 1))
    if before == after:
        return _CONV[n - 1](x, w, bias, strides, before, dilations, group)
    return _CONV[n - 1](padded(x, before, after), w, bias, strides, 0, dilations, group)


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    n = x.ndim - 2
    if not 1 <= n <= 3:
        raise call.refuse(f"a convolution over {n} axes")
    strides, dilations = call.get("strides") or [1] * n, call.get("dilations") or [1] * n
    extra, auto = call.get("output_padding") or [0] * n, call.get("auto_pad", "NOTSET")
    pads = list(call.get("pads") or [0] * 2 * n)
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    whole = [(s - 1) * t + p + e for s, t, p, e in zip(x.shape[2:], strides, spans, extra, strict=True)]
    sizes = [r - b - a for r, b, a in zip(whole, pads[:n], pads[n:], strict=True)]
    before = pads[:n]
    if call.get("output_shape") or auto.startswith("SAME"):
        same = [min(r, s * t) for r, s, t in zip(whole, x.shape[2:], strides, strict=True)]
        sizes = list(call.get("output_shape") or same)[-n:]
        totals = [max(0, r - s) for r, s in zip(whole, sizes, strict=True)]
        before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
    y = _TRANSPOSED[n - 1](
        x, w, bias, strides, 0, extra if _fits(extra, strides, dilations) else 0, int(call.get("group", 1)), dilations
    )
    lacking = [max(0, b + s - m) for b, s, m in zip(before, sizes, y.shape[2:], strict=True)]
    if any(lacking):
        if bias is None:
            y = padded(y, [0] * n, lacking)
        else:
            shape = (1, -1, *(1,) * n)
            y = padded(y - bias.reshape(shape), [0] * n, lacking) + bias.reshape(shape)
    index: tuple[Any, ...] = (slice(None), slice(None), *(slice(b, b + s) for b, s in zip(before, sizes, strict=True)))
    return y[index]


def _fits(extra: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> bool:
    """Whether torch takes this output padding: less than the stride or the dilation."""
    return all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))


class _Pool:
    """The geometry of a pooling operator: what to add on each side so that windows fit exactly."""

    def __init__(self, call: Call, x: Tensor) -> None:
        self.kernel = list(call.get("kernel_shape"))
        n = len(self.kernel)
        if not 1 <= n <= 3:
            raise call.refuse(f"pooling over {n} axes")
        self.strides, self.dilations = call.get("strides") or [1] * n, call.get("dilations") or [1] * n
        self.before, self.pads = paddings(call, x.shape[2:], self.kernel, self.strides, self.dilations)
        ceil = bool(call.get("ceil_mode", 0)) and call.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        self.after, self.sizes = [], []
        for size, k, s, d, b, a in zip(
            x.shape[2:], self.kernel, self.strides, self.dilations, self.before, self.pads, strict=True
        ):
            span = d * (k - 1) + 1
            room = size + b + a - span
            out = (-(-room // s) if ceil else room // s) + 1
            if ceil and (out - 1) * s >= size + b:  # a window that begins in the padding behind
                out -= 1
            self.sizes.append(out)
            self.after.append(max(0, (out - 1) * s + span - size - b))

    @property
    def rank(self) -> int:
        return len(self.kernel)


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    if len(call.node.outputs) > 1:
        raise call.refuse("the indices of MaxPool")
    pool, kind = _Pool(call, x), x.dtype
    x = x if x.is_floating_point() else x.to(torch.float32)
    x = padded(x, pool.before, pool.after, -math.inf)
    return _MAX[pool.rank - 1](x, pool.kernel, pool.strides, 0, pool.dilations).to(kind)


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    pool = _Pool(call, x)
    volume = math.prod(pool.kernel)
    if any(d != 1 for d in pool.dilations):
        sums = _sums(padded(x, pool.before, pool.after), pool)
        counted = _sums(_counted(call, x, pool), pool)
        return sums / counted
    y = _AVERAGE[pool.rank - 1](padded(x, pool.before, pool.after), pool.kernel, pool.strides)
    if not any(pool.before) and not any(pool.after):
        return y
    return y / (_AVERAGE[pool.rank - 1](_counted(call, x, pool), pool.kernel, pool.strides) * volume) * volume


def _counted(call: Call, x: Tensor, pool: _Pool) -> Tensor:
    """Ones where a place counts for the average: padding only if asked for, and never what ``ceil_mode`` adds."""
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if not call.get("count_include_pad", 0):
        return padded(ones, pool.before, pool.after)
    ones = padded(ones, pool.before, pool.pads, 1.0)
    more = [a - p for a, p in zip(pool.after, pool.pads, strict=True)]
    index: tuple[Any, ...] = (..., *(slice(0, n + min(0, m)) for n, m in zip(ones.shape[2:], more, strict=True)))
    return padded(ones[index], [0] * pool.rank, [max(0, m) for m in more])


def _sums(x: Tensor, pool: _Pool) -> Tensor:
    for i, (k, s, d, out) in enumerate(zip(pool.kernel, pool.strides, pool.dilations, pool.sizes, strict=True)):
        parts = [x.narrow(2 + i, t * d, (out - 1) * s + 1) for t in range(k)]
        index: tuple[Any, ...] = (slice(None),) * (2 + i) + (slice(None, None, s),)
        x = torch.stack([p[index] for p in parts]).sum(0)
    return x


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.ndim)), keepdim=True)


@operator("LpPool", "GlobalLpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    p = call.get("p", 2)
    if call.node.op == "GlobalLpPool":
        return (x.abs() ** p).sum(list(range(2, x.ndim)), keepdim=True) ** (1 / p)
    pool = _Pool(call, x)
    return _sums(padded(x.abs() ** p, pool.before, pool.after), pool) ** (1 / p)


def _channels(v: Tensor, x: Tensor) -> Tensor:
    return v.reshape(1, -1, *(1,) * (x.ndim - 2))


@operator("BatchNormalization")
def batch_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """With the statistics of the model, as when it runs: the batch's own are not used in training either."""
    if call.get("training_mode", 0):
        raise call.refuse("training_mode = 1")
    factor = scale / torch.sqrt(var + call.get("epsilon", 1e-5))
    return (x - _channels(mean, x)) * _channels(factor, x) + _channels(bias, x)


@operator("InstanceNormalization")
def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    axes = list(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    spread = torch.sqrt((centred * centred).mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    return centred / spread * _channels(scale, x) + _channels(bias, x)


@operator("LayerNormalization")
def layer_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axes = list(range(axis_of(int(call.get("axis", -1)), x.ndim), x.ndim))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    y = centred * inverse * scale
    y = y if bias is None else y + bias
    return (y, mean, inverse)[: len(call.node.outputs)] if len(call.node.outputs) > 1 else y


@operator("GroupNormalization")
def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = int(call.get("num_groups"))
    y = F.group_norm(x, groups, eps=call.get("epsilon", 1e-5))
    if scale.numel() == groups and groups != x.shape[1]:
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    return y * _channels(scale, x) + _channels(bias, x)


@operator("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, call.get("p", 2), call.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    axes = call.get("axes") or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@operator("LRN")
def lrn(call: Call, x: Tensor) -> Tensor:
    n = int(call.get("size"))
    square = x.square().unsqueeze(1)
    square = F.pad(square.movedim(2, -1), ((n - 1) // 2, n // 2)).unfold(-1, n, 1).sum(-1).movedim(-1, 2).squeeze(1)
    return x / (call.get("bias", 1.0) + call.get("alpha", 1e-4) / n * square) ** call.get("beta", 0.75)


@operator("Softmax", "LogSoftmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    return _normalized(call, x, torch.softmax if call.node.op == "Softmax" else torch.log_softmax)


@operator("Hardmax", gradient=False)
def hardmax(call: Call, x: Tensor) -> Tensor:
    return _normalized(call, x, lambda v, a: F.one_hot(v.argmax(a), v.shape[a]).movedim(-1, a).to(v.dtype))


def _normalized(call: Call, x: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    if call.opset >= 13:
        return run(x, axis_of(int(call.get("axis", -1)), x.ndim))
    # before version 13 all axes from one on counted as one
    axis = axis_of(int(call.get("axis", 1)), x.ndim)
    rows = math.prod(x.shape[:axis])
    return run(x.reshape(rows, -1), 1).reshape(x.shape)
