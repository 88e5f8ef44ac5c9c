"""Operators that move, pick and repeat elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from .base import NARROW_FLOATS, Call, Tensor, Value, axis_of, dtype_of, operator, whole


def tensor_of(array: Any, widen: bool, device: torch.device | None = None) -> Tensor:
    """A numpy array as tensor, in a type torch computes in."""
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    wider = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "int4": np.int8, "uint4": np.uint8}
    if array.dtype.name in wider:
        array = array.astype(wider[array.dtype.name])
    if array.dtype.name == "bfloat16":
        found = torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    else:
        found = torch.from_numpy(array if array.flags.writeable else array.copy())
    if widen and found.dtype in NARROW_FLOATS:
        found = found.to(torch.float32)
    return found if device is None else found.to(device)


@operator("Constant", gradient=False)
def constant(call: Call) -> Tensor:
    for name, kind in (
        ("value_float", np.float32),
        ("value_int", np.int64),
        ("value_floats", np.float32),
        ("value_ints", np.int64),
    ):
        if name in call.node.attributes:
            return tensor_of(np.asarray(call.get(name), kind), False, call.device)
    if "value" not in call.node.attributes:
        raise call.refuse("this kind of constant")
    return tensor_of(numpy_helper.to_array(call.get("value")), call.scope.host.widen, call.device)


@operator("Shape", gradient=False)
def shape(call: Call, x: Tensor) -> Tensor:
    found = list(x.shape)
    begin, end = int(call.get("start", 0)), call.get("end")
    return torch.tensor(found[begin : None if end is None else int(end)], dtype=torch.int64, device=x.device)


@operator("Size", gradient=False)
def size(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


@operator("Reshape")
def reshape(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    wanted = call.ints("shape", given) or []
    if not call.get("allowzero", 0):
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    axis = axis_of(int(call.get("axis", 1)), x.ndim)
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))


@operator("Squeeze")
def squeeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.ints("axes", given)
    drop = {axis_of(a, x.ndim) for a in axes} if axes is not None else {i for i, n in enumerate(x.shape) if n == 1}
    return x.reshape([n for i, n in enumerate(x.shape) if i not in drop])


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.ints("axes", given) or []
    for axis in sorted(axis_of(a, x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.get("perm") or list(reversed(range(x.ndim))))


@operator("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    return torch.cat(values, axis_of(int(call.get("axis", 1)), values[0].ndim))


@operator("Split")
def split(call: Call, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    sizes = call.ints("split", given)
    if sizes is None:
        parts = int(call.get("num_outputs", len(call.node.outputs)))
        each = -(-x.shape[axis] // parts)
        sizes = [min(each, x.shape[axis] - i * each) for i in range(parts)]
    return torch.split(x, sizes, axis)


@operator("Slice")
def slice_(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    inputs = [*given, None, None, None, None]
    starts, ends = call.ints("starts", inputs[0]) or [], call.ints("ends", inputs[1]) or []
    axes = call.ints("axes", inputs[2]) or list(range(len(starts)))
    steps = whole(inputs[3]) if inputs[3] is not None else [1] * len(starts)
    for begin, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis, n = axis_of(axis, x.ndim), x.shape[axis]
        if step > 0:
            index: tuple[Any, ...] = (slice(None),) * axis + (slice(begin, end, step),)
            x = x[index]
        else:
            rows = range(n)[slice(begin, None if end < -n else end, step)]
            x = x.index_select(axis, torch.tensor(list(rows), dtype=torch.int64, device=x.device))
    return x


@operator("Gather")
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    rows = torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64)
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return F.embedding(rows, x)
    found = x.index_select(axis, rows.reshape(-1))
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64))


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    batch = int(call.get("batch_dims", 0))
    if batch:
        lead = x.shape[:batch]
        flat, rows = x.reshape(-1, *x.shape[batch:]), indices.reshape(-1, *indices.shape[batch:])
        found = torch.stack([_pick(a, i) for a, i in zip(flat, rows, strict=True)])
        return found.reshape([*lead, *found.shape[1:]])
    return _pick(x, indices)


def _pick(x: Tensor, indices: Tensor) -> Tensor:
    return x[tuple(indices.to(torch.int64).unbind(-1))]


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = axis_of(int(call.get("axis", 0)), x.ndim), call.get("reduction", "none")
    rows = torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64)
    if how == "none":
        return x.scatter(axis, rows, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, rows, updates, names[how])


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if call.get("reduction", "none") not in ("none", "add"):
        raise call.refuse(f"reduction = {call.get('reduction')}")
    place = tuple(indices.to(torch.int64).unbind(-1))
    return x.index_put(place, updates, accumulate=call.get("reduction", "none") == "add")


@operator("Pad")
def pad(
    call: Call, x: Tensor, given: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    amounts = call.ints("pads", given) or call.ints("paddings") or []
    which = [axis_of(a, x.ndim) for a in whole(axes)] if axes is not None else list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(which):
        before[axis], after[axis] = amounts[i], amounts[i + len(which)]
    mode = call.get("mode", "constant")
    if mode == "constant":
        fill = value.reshape(()).item() if value is not None and value.numel() else call.get("value", 0)
        return F.pad(x, [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair], value=fill)
    for axis, (b, a) in enumerate(zip(before, after, strict=True)):
        if b or a:
            how = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode]
            rows = np.pad(np.arange(x.shape[axis]), (max(b, 0), max(a, 0)), how)  # type: ignore[call-overload]
            rows = rows[max(-b, 0) : len(rows) - max(-a, 0)]
            x = x.index_select(axis, torch.from_numpy(rows).to(x.device))
    return x


@operator("Expand")
def expand(call: Call, x: Tensor, given: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, torch.Size(whole(given))))


@operator("Tile")
def tile(call: Call, x: Tensor, repeats: Tensor, *rest: Tensor) -> Tensor:
    return x.repeat(whole(repeats))


@operator("ConstantOfShape", gradient=False)
def constant_of_shape(call: Call, given: Tensor) -> Tensor:
    value = call.get("value")
    fill = tensor_of(numpy_helper.to_array(value), call.scope.host.widen) if value is not None else torch.zeros(1)
    return (
        fill.reshape(-1)[0].to(given.device).repeat(whole(given)) if whole(given) else fill.reshape(()).to(given.device)
    )


@operator("Range", gradient=False)
def range_(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    steps = int(max(0, np.ceil((limit.item() - start.item()) / delta.item())))
    return start + delta * torch.arange(steps, device=start.device).to(start.dtype)


@operator("EyeLike", gradient=False)
def eye_like(call: Call, x: Tensor) -> Tensor:
    kind = dtype_of(int(call.get("dtype")), call.scope.host.widen) if "dtype" in call.node.attributes else x.dtype
    rows, columns = x.shape
    shift = int(call.get("k", 0))
    found = torch.arange(columns, device=x.device)[None] - torch.arange(rows, device=x.device)[:, None] == shift
    return found.to(kind)


@operator("Trilu")
def trilu(call: Call, x: Tensor, shift: Tensor | None = None) -> Tensor:
    k = whole(shift)[0] if shift is not None else 0
    return torch.triu(x, k) if call.get("upper", 1) else torch.tril(x, k)


@operator("OneHot", gradient=False)
def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    n = whole(depth)[0]
    rows = torch.remainder(indices.to(torch.int64), n)
    inside = (indices >= -n) & (indices < n)
    found = torch.where(F.one_hot(rows, n).bool() & inside[..., None], values[1], values[0])
    axis = axis_of(int(call.get("axis", -1)), found.ndim)
    return found.movedim(-1, axis)


@operator("NonZero", gradient=False)
def non_zero(call: Call, x: Tensor) -> Tensor:
    return x.nonzero().T


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    if call.get("mode", "DCR") == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b**2, h // b, w // b)


@operator("ReverseSequence")
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    batch, time = int(call.get("batch_axis", 1)), int(call.get("time_axis", 0))
    x = x.movedim((batch, time), (0, 1))
    at = torch.arange(x.shape[1], device=x.device)[None]
    rows = torch.where(at < lengths[:, None], lengths[:, None] - 1 - at, at)
    found = x[torch.arange(x.shape[0], device=x.device)[:, None], rows]
    return found.movedim((0, 1), (batch, time))


@operator("Upsample", "Resize")
def resize(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    """Nearest, linear and cubic, axis by axis."""
    inputs: list[Value] = [*given, None, None, None]
    old = call.node.op == "Upsample" or call.opset < 11
    scales = inputs[0] if old else inputs[1]
    factors: list[float] = list(call.get("scales") or [])
    if scales is not None and scales.numel():
        factors = [float(v) for v in scales.tolist()]
    axes = [axis_of(a, x.ndim) for a in (call.get("axes") or range(x.ndim))]
    sizes = whole(inputs[2]) if not old and inputs[2] is not None and inputs[2].numel() else None
    if call.get("antialias", 0) or call.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("antialias, or another aspect ratio")
    mode = call.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    lengths = sizes if sizes is not None else [int(np.floor(x.shape[a] * f)) for a, f in zip(axes, factors, strict=True)]
    if mode != "tf_crop_and_resize" and all(out == x.shape[axis] for out, axis in zip(lengths, axes, strict=True)):
        return x  # as ONNX Runtime has it, whatever the scales
    for i, axis in enumerate(axes):
        n, out = x.shape[axis], lengths[i]
        scale = out / n if sizes is not None else factors[i]
        if scale == 1 and mode != "tf_crop_and_resize":
            continue
        x = _resized(call, x, axis, out, scale, mode)
    return x


def _resized(call: Call, x: Tensor, axis: int, out: int, scale: float, mode: str) -> Tensor:
    n, at = x.shape[axis], np.arange(out, dtype=np.float64)
    length = n * scale  # before it is rounded down
    places = {
        "half_pixel": (at + 0.5) / scale - 0.5,
        "half_pixel_symmetric": (at + 0.5) / scale - 0.5 + n / 2 * (1 - out / length),
        "pytorch_half_pixel": (at + 0.5) / scale - 0.5 if length > 1 else at * 0,
        "align_corners": at * (n - 1) / (length - 1) if length > 1 else at * 0,
        "asymmetric": at / scale,
    }.get(mode)
    how = call.get("mode", "nearest")
    if places is None or how not in ("nearest", "linear", "cubic"):
        raise call.refuse(f"mode {how} with {mode}")
    if how == "nearest":
        old = call.node.op == "Upsample" or call.opset < 11
        rounding = call.get("nearest_mode", "floor" if old else "round_prefer_floor")
        rounded = {
            "round_prefer_floor": np.ceil(places - 0.5),
            "round_prefer_ceil": np.floor(places + 0.5),
            "floor": np.floor(places),
            "ceil": np.ceil(places),
        }[rounding]
        rows = np.clip(rounded, 0, n - 1).astype(np.int64)
        return x.index_select(axis, torch.from_numpy(rows).to(x.device))
    weights = _weights(places, n, how, call.get("cubic_coeff_a", -0.75), bool(call.get("exclude_outside", 0)))
    return (x.movedim(axis, -1) @ torch.from_numpy(weights.T).to(x.device, x.dtype)).movedim(-1, axis)


def _weights(places: Any, n: int, how: str, a: float, inside: bool) -> Any:
    """What each of n elements counts for at places between them, float64 [places, n]."""
    found = np.zeros((len(places), n))
    low = np.floor(places)
    for tap in (0, 1) if how == "linear" else (-1, 0, 1, 2):
        d = np.abs(places - low - tap)
        if how == "linear":
            share = 1 - d
        else:  # Keys 1981
            near = ((a + 2) * d - (a + 3)) * d * d + 1
            share = np.where(d <= 1, near, ((d - 5) * d + 8) * d * a - 4 * a)
        at = (low + tap).astype(np.int64)
        share = np.where((at < 0) | (at >= n), 0, share) if inside else share
        np.add.at(found, (np.arange(len(places)), np.clip(at, 0, n - 1)), share)
    return found / found.sum(axis=1, keepdims=True) if inside else found
