"""Operators that reduce axes, and those that pick by size."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .base import Call, Tensor, axis_of, operator, whole


def _square_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (x * x).sum(axes, keepdim=keep)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: _square_sum(x, axes, keep).sqrt(),
    "ReduceSumSquare": _square_sum,
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def run(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = call.ints("axes", given)
        if not axes:
            if call.get("noop_with_empty_axes", 0):
                return function(x[None], [0], False)
            axes = list(range(x.ndim))
        if x.ndim == 0:
            return function(x[None], [0], False)
        found = function(x, [axis_of(a, x.ndim) for a in axes], bool(call.get("keepdims", 1)))
        return found.to(x.dtype)

    return run


for _name, _function in _REDUCTIONS.items():
    operator(_name)(_reduction(_function))


@operator("ArgMax", "ArgMin", gradient=False)
def arg_extreme(call: Call, x: Tensor) -> Tensor:
    axis, keep = axis_of(int(call.get("axis", 0)), x.ndim), bool(call.get("keepdims", 1))
    pick = torch.argmax if call.node.op == "ArgMax" else torch.argmin
    if not call.get("select_last_index", 0):
        return pick(x, axis, keepdim=keep)
    return x.shape[axis] - 1 - pick(x.flip(axis), axis, keepdim=keep)


@operator("TopK")
def top_k(call: Call, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    k = whole(count)[0] if count is not None else int(call.get("k"))
    axis, largest = axis_of(int(call.get("axis", -1)), x.ndim), bool(call.get("largest", 1))
    order = torch.sort(x, dim=axis, descending=largest, stable=True)
    return order.values.narrow(axis, 0, k), order.indices.narrow(axis, 0, k)


@operator("CumSum")
def cum_sum(call: Call, x: Tensor, given: Tensor) -> Tensor:
    axis = axis_of(whole(given)[0], x.ndim)
    x = x.flip(axis) if call.get("reverse", 0) else x
    found = x.cumsum(axis).to(x.dtype)
    found = found - x if call.get("exclusive", 0) else found
    return found.flip(axis) if call.get("reverse", 0) else found
