"""The user's samples: an ``.npz`` whose arrays are named after the model's inputs, and ``label`` where there is one."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from eie.runtime.valueinfo import numpy_type

from .errors import UserError, nearest
from .files import write_beside
from .ir.graph import Model

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

LABEL = "label"


@dataclass(frozen=True)
class Input:
    """An input as slicing sees it: ``dims`` holds None for a dimension that is open; None in whole for an unknown rank.
    ``dtype`` is None where whoever runs the model checks it."""

    name: str
    dims: tuple[int | None, ...] | None
    dtype: np.dtype[Any] | None = None


def inputs_of(model: Model) -> list[onnx.ValueInfoProto]:
    """The inputs a caller has to feed: those that are no initializers."""
    return [i for i in model.graph.inputs if i.name not in model.graph.constants]


def describe(infos: Sequence[onnx.ValueInfoProto]) -> list[Input]:
    """Value infos as ``Input``."""
    found = []
    for info in infos:
        tensor = info.type.tensor_type
        dims = (
            tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor.shape.dim)
            if tensor.HasField("shape")
            else None
        )
        found.append(Input(info.name, dims, numpy_type(info.type) if info.type.HasField("tensor_type") else None))
    return found


def load_npz(path: str | Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` file.

    Raises:
        UserError: the file is missing, is no npz, or holds Python objects.
    """
    hint = "It is written by numpy.savez(path, input_name=array, label=labels)."
    try:
        with open(path, "rb") as stream:
            begin = stream.read(6)
            stream.seek(0)
            if not begin.startswith((b"PK", b"\x93NUMPY")):
                raise UserError("is no .npz", where=str(path), hint=hint)
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError("one bare array, but arrays are found by name", where=str(path), hint=hint)
            with archive:
                return {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        what = "they hold Python objects" if "pickle" in str(error) else error
        raise UserError(f"can't read the arrays: {what}", where=str(path), hint=hint) from error


# what numpy and zipfile raise for headers they can't read, sizes that can't be, encryption, and unknown compression
_UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError, OverflowError, MemoryError, TypeError,
               SyntaxError, tokenize.TokenError, NotImplementedError, RuntimeError, zlib.error)  # fmt: skip


def named_arrays(values: Iterable[tuple[str, Any]]) -> dict[str, Array]:
    """What a model gives, as arrays that an ``.npz`` can hold: text as numpy's own type, the items of a sequence as
    ``name.0``, ``name.1``, ...

    Raises:
        UserError: a value is a map or of another kind that is no array.
    """
    found: dict[str, Array] = {}
    for name, value in values:
        items = {f"{name}.{i}": item for i, item in enumerate(value)} if isinstance(value, list) else {name: value}
        for key, item in items.items():
            if not isinstance(item, np.ndarray | np.generic):
                raise UserError(f"is a {type(item).__name__}, which no array can hold", where=f"output {name!r}",
                                hint="Use eie.runtime.Session from Python.")  # fmt: skip
            found[key] = np.asarray(item, np.str_) if item.dtype.hasobject else np.asarray(item)
    return found


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz``, whole or not at all; any name will do (``numpy.savez`` takes some for its own arguments).

    Raises:
        UserError: the path can't be written.
    """
    with write_beside(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def split(
    data: Mapping[str, Array], inputs: Sequence[Input], *, batch: int = 1, where: str = "data"
) -> tuple[list[Feeds], Array | None]:
    """Feeds for one run each, and the labels in their order, one a sample, where there are any.

    An array with one axis more than its input is a stack of whole inputs. An array of the input's own rank counts samples
    along the first axis, if the input's first dimension is open (up to ``batch`` samples go into a run) or a number that
    divides the count. Any other array goes into every run as it is.

    Raises:
        UserError: an input is missing, an array is neither an input nor ``label``, has another number of axes, or arrays
            differ in how many samples they hold.
    """
    missing = [i.name for i in inputs if i.name not in data]
    if missing:
        raise UserError(
            f"no array for input {missing[0]!r}",
            where=where,
            hint=f"Inputs: {', '.join(i.name for i in inputs)}; arrays given: {', '.join(data) or 'none'}.",
        )
    known = {i.name for i in inputs} | {LABEL}
    strange = [name for name in data if name not in known]
    if strange:
        raise UserError(
            f"array {strange[0]!r} is no input of the model", where=where, hint=nearest(strange[0], sorted(known))
        )
    sliced: dict[str, int] = {}  # name -> samples a run takes from it; 0: one whole item of a stack
    wide = batch
    for i in inputs:
        array = np.asarray(data[i.name])
        if i.dtype is not None and array.dtype != i.dtype and not (i.dtype.hasobject and array.dtype.kind in "UST"):
            raise UserError(f"array {i.name!r} is {array.dtype}, and the input takes {i.dtype}", where=where,
                            hint=f"Convert it with .astype(np.{i.dtype}).")  # fmt: skip
        if i.dims is not None and array.ndim not in (len(i.dims), len(i.dims) + 1):
            dims = ", ".join("?" if d is None else str(d) for d in i.dims)
            raise UserError(f"array {i.name!r} has the shape {list(array.shape)}, and the input takes [{dims}]", where=where,
                            hint="One axis more is taken for a stack of inputs.")  # fmt: skip
        if i.dims is None or array.ndim == 0:
            continue
        if array.ndim == len(i.dims) + 1:
            sliced[i.name], wide = 0, 1
        elif i.dims and i.dims[0] is None:
            sliced[i.name] = -1
        elif i.dims and i.dims[0] and len(array) % i.dims[0] == 0:
            sliced[i.name] = i.dims[0]
            wide = min(wide, 1) if i.dims[0] == 1 else wide
    fixed = {n for n in sliced.values() if n > 0}
    if fixed and any(n == -1 for n in sliced.values()):
        wide = 1
    runs = {}
    for name, take in sliced.items():
        count = len(data[name])
        runs[name] = count if take == 0 else -(-count // wide) if take == -1 else count // take
    many = {n: r for n, r in runs.items() if r != 1}
    if len(set(many.values())) > 1:
        raise UserError(
            "arrays hold different numbers of samples: " + ", ".join(f"{n} {len(data[n])}" for n in many), where=where
        )
    total = next(iter(many.values()), 1)
    if not total:
        raise UserError("the arrays hold no samples", where=where)
    feeds = []
    for r in range(total):
        feed: Feeds = {}
        for i in inputs:
            array = np.asarray(data[i.name])
            if runs.get(i.name) != total or (total == 1 and sliced.get(i.name) != 0):
                feed[i.name] = array
            else:
                take = sliced[i.name]
                feed[i.name] = (
                    np.asarray(array[r])
                    if take == 0
                    else array[r * wide : (r + 1) * wide]
                    if take == -1
                    else array[r * take : (r + 1) * take]
                )
        feeds.append(feed)
    if LABEL not in data or any(i.name == LABEL for i in inputs):
        return feeds, None
    labels = np.asarray(data[LABEL]).reshape(-1)
    whole = labels.dtype.kind in "biu" or (labels.dtype.kind == "f" and bool((labels % 1 == 0).all()))
    if not whole:
        raise UserError(f"{LABEL!r} holds no class numbers (it is {labels.dtype})", where=where,
                        hint="It holds the index of the right class for each sample: 0, 1, ...")  # fmt: skip
    samples = max([len(data[n]) for n in sliced], default=1)
    if len(labels) != samples:
        raise UserError(f"{len(labels)} labels for {samples} samples", where=where)
    return feeds, labels
