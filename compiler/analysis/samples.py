"""Inputs to judge a model on, made up where the user gives none.

Made-up input can't know what the model was trained on. It covers what is common instead: smooth fields and noise, in the
ranges 0..1, about 0 with deviation 1, and 0..255, each sample in one of them; whole numbers where the type or the
graph says so (rows of a table, a value the input is compared with). An error budget on it bounds how far the weights'
change moves the outputs; it is no accuracy, and the report does not call it one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from ..data import Feeds, inputs_of
from ..errors import UserError
from ..ir.graph import Graph, Model

Array = npt.NDArray[Any]
T = TypeVar("T")
_SIZES = (1, 16, 64, 128, 256, 512, 1024, 4096, 16_000, 44_100)  # tried for a dimension nothing says the size of


def made_up(
    model: Model, count: int, seed: int, shapes: Mapping[str, Sequence[int]] | None = None
) -> Iterator[list[Feeds]]:
    """Candidate sets of ``count`` feeds, best guess first: they differ in the sizes of dimensions the model leaves open.

    ``shapes`` fixes shapes by input name. The caller takes the first set that the model runs on.
    """
    shapes = shapes or {}
    inputs = inputs_of(model)
    for name in shapes:
        if name not in {i.name for i in inputs}:
            raise UserError(
                f"the model has no input {name!r}",
                where="shape",
                hint=f"Its inputs: {', '.join(i.name for i in inputs)}.",
            )
    open_axes = any(_open(i) for i in inputs if i.name not in shapes)
    known = {i.name: _known_axes(i.name, model.graph) for i in inputs}
    for size in _SIZES if open_axes else _SIZES[:1]:
        rng = np.random.default_rng(seed)
        yield [
            {
                i.name: _sample(i, tuple(shapes.get(i.name, _shape(i, size, known[i.name]))), k, rng, model.graph)
                for i in inputs
            }
            for k in range(count)
        ]


def that_runs(candidates: Iterable[list[Feeds]], run: Callable[[Feeds], T]) -> tuple[list[Feeds], list[T]]:
    """The first set of feeds whose first one runs, and what each of them gives.

    Args:
        candidates: as ``made_up`` gives them.
        run: the model; raises UserError for input it does not run on.

    Raises:
        UserError: none runs; says what was wrong with the best guess.
    """
    reason: UserError | None = None
    for feeds in candidates:
        try:
            first = run(feeds[0])
        except UserError as error:
            reason = reason or error
            continue
        return feeds, [first, *map(run, feeds[1:])]
    raise UserError(
        f"no sample input could be made up that the model runs on: {reason.what if reason else 'it has none'}",
        where="samples",
        hint="Give real samples (--data, --input), or the inputs' shapes with --shape name:1,3,224,224.",
    )


def _open(info: onnx.ValueInfoProto) -> bool:
    tensor = info.type.tensor_type
    return not tensor.HasField("shape") or any(
        not d.HasField("dim_value") or d.dim_value < 0 for d in tensor.shape.dim[1:]
    )


def _known_axes(name: str, graph: Graph) -> dict[int, int]:
    """What the weights that read an input say of its axes, counted from the end of a matrix, from the front of a map."""
    found: dict[int, int] = {}
    for node in graph.consumers(name):
        weight = graph.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[0] == name else None
        if weight is None or len(weight.dims) < 2:
            continue
        if node.op == "Conv":
            found[1] = weight.dims[1] * int(node.get("group", 1))
        elif node.op == "ConvTranspose":
            found[1] = weight.dims[0]
        elif node.op == "MatMul":
            found[-1] = weight.dims[-2]
        elif node.op == "Gemm" and not node.get("transA", 0):
            found[-1] = weight.dims[1] if node.get("transB", 0) else weight.dims[0]
        elif node.op in {"LSTM", "GRU", "RNN"}:
            found[2] = weight.dims[2]
    return found


def _shape(info: onnx.ValueInfoProto, size: int, known: Mapping[int, int]) -> tuple[int, ...]:
    """A dimension without a size is what a weight says, else 1 where it counts samples (by its name, or as the first), else
    ``size``. An input of unknown rank is taken for one sample of a matrix."""
    if not info.type.tensor_type.HasField("shape"):
        return (1, known.get(-1, size))
    found = []
    dims = info.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            found.append(dim.dim_value)
        elif axis in known or axis - len(dims) in known:
            found.append(known.get(axis, known.get(axis - len(dims), size)))
        else:
            found.append(1 if axis == 0 or "batch" in dim.dim_param.lower() else size)
    return tuple(found)


def _sample(
    info: onnx.ValueInfoProto, shape: tuple[int, ...], index: int, rng: np.random.Generator, graph: Graph
) -> Array:
    kind = info.type.tensor_type.elem_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        dtype = np.dtype(object)
    if dtype == np.bool_:
        return np.asarray(rng.integers(0, 2, shape), np.bool_)
    if dtype in (np.uint8, np.int8):
        low, high = (0, 256) if dtype == np.uint8 else (-128, 128)
        field = _field(shape, rng)
        return np.asarray(low + (high - low - 1) * field, dtype)
    if np.issubdtype(dtype, np.integer):
        return np.asarray(_whole_number(info.name, shape, rng, graph), dtype)
    if dtype.hasobject:
        raise UserError(
            f"input {info.name!r} is no tensor of numbers: no sample can be made up for it",
            where="samples",
            hint="Give samples with --data.",
        )
    field = _field(shape, rng)
    if any(dim == 0 for dim in shape):
        return np.asarray(field, dtype)
    ranges = (field, (field - field.mean()) / max(float(field.std()), 1e-3), 255 * field)
    return np.asarray(ranges[index % 3], dtype)


def _field(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Smooth noise in 0..1: half white, half with energy falling as 1/frequency over the axes longer than 4, as in
    images and sound."""
    white = rng.standard_normal(shape)
    axes = [a for a, n in enumerate(shape) if n > 4]
    if axes and white.size:
        spectrum = np.fft.fftn(white, axes=axes)
        radius = np.zeros(shape)
        for a in axes:
            line = np.abs(np.fft.fftfreq(shape[a])) * shape[a]
            radius = radius + line.reshape([-1 if b == a else 1 for b in range(len(shape))]) ** 2
        smooth = np.fft.ifftn(spectrum / np.sqrt(radius + 1), axes=axes).real
        white = smooth / max(float(smooth.std()), 1e-9) + 0.3 * white
    return np.clip(0.5 + 0.2 * white, 0, 1).astype(np.float32)


def _whole_number(name: str, shape: tuple[int, ...], rng: np.random.Generator, graph: Graph) -> Array:
    """Rows of the table the input picks from, or the number it is compared with; else small numbers from 1."""
    front = [(graph, name)]
    seen: set[tuple[int, str]] = set()
    while front:
        where, tensor = front.pop(0)
        if (id(where), tensor) in seen:
            continue
        seen.add((id(where), tensor))
        for node in where.consumers(tensor):
            if node.op == "Gather" and len(node.inputs) > 1 and node.inputs[1] == tensor:
                table = where.constant(node.inputs[0])
                if table is not None and table.dims:
                    return rng.integers(0, table.dims[0], shape)
            if node.op in {"Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}:
                for other in node.inputs:
                    value = where.constant(other)
                    if value is not None and value.elements == 1:
                        return np.full(shape, value.array().reshape(()).item())
            if node.op in {"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"}:
                front += [(where, o) for o in node.outputs]
            front += [(body, tensor) for bodies in node.bodies.values() for body in bodies]
    return rng.integers(1, 3, shape)
