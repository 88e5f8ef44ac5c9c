"""The user's samples: an ``.npz`` whose arrays are named after the model's inputs, and ``label`` where there is one."""

from __future__ import annotations

import math
import mmap
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
                return {name: _mapped(Path(path), archive, name) for name in archive.files}
    except _UNREADABLE as error:
        what = "they hold Python objects" if "pickle" in str(error) else error
        raise UserError(f"can't read the arrays: {what}", where=str(path), hint=hint) from error


_MAPPED = 1 << 20  # bytes from which an array that is stored as it is stays in the file until it is read


def _mapped(path: Path, archive: Any, name: str) -> Array:
    """An array of an archive; a large one that is not compressed as a map of the file: memory does not grow with the samples."""
    info = next((i for i in archive.zip.infolist() if i.filename == f"{name}.npy"), None)
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size < _MAPPED:
        return np.asarray(archive[name])
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        local = stream.read(30)
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            return np.asarray(archive[name])  # says what is wrong
        begin = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        stream.seek(begin)
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            return np.asarray(archive[name])
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject or offset - begin + int(np.prod(shape, dtype=np.float64)) * dtype.itemsize != info.file_size:
        return np.asarray(archive[name])
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def let_go(feeds: Feeds) -> None:
    """Tell the system that what was read of mapped arrays is not needed now."""
    for array in feeds.values():
        base: Any = array
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
            base.madvise(mmap.MADV_DONTNEED)


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


def hash_arrays(digest: Any, arrays: Mapping[str, Array]) -> None:
    """Put arrays by name into a hash: all their bytes, types and shapes."""
    for name, given in sorted(arrays.items()):
        array = np.asarray(given)
        digest.update(f"{name} {array.dtype} {array.shape}".encode("utf-8", "surrogateescape"))
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())


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
    _check_arrays(data, inputs, where)
    cuts = [_Cut.of(np.asarray(data[i.name]), i) for i in inputs]
    alone = any(cut.stack or cut.fixed for cut in cuts)  # an input that takes its samples as they come sets the pace
    cuts = [cut.with_batch(1 if alone else batch) for cut in cuts]
    many = [cut for cut in cuts if cut.runs not in (None, 1)]
    if len({cut.runs for cut in many}) > 1:
        counts = ", ".join(cut.holds() for cut in many)
        raise UserError(f"arrays hold different numbers of samples: {counts}", where=where, hint=_restacked(many))
    total = many[0].runs or 0 if many else 1
    if not total:
        raise UserError("the arrays hold no samples", where=where)
    feeds = [{cut.name: cut.part(run, total) for cut in cuts} for run in range(total)]
    if LABEL not in data or any(i.name == LABEL for i in inputs):
        return feeds, None
    samples = max([len(cut.array) for cut in cuts if cut.runs is not None], default=1)
    return feeds, _labels(data[LABEL], samples, where)


@dataclass(frozen=True, eq=False)
class _Cut:
    """How an array is cut into runs.

    Attributes:
        name, array: of the input.
        dims: that the model says it has; None where it is open.
        stack: a run takes one item of the first axis, which is one more than the input has.
        fixed: samples a run takes along the first axis, where the model says how many; 0 where it does not.
        open: the first axis counts samples, and a run may take any number.
        batch: of an open one.
    """

    name: str
    array: Array
    dims: tuple[int | None, ...] = ()
    stack: bool = False
    fixed: int = 0
    open: bool = False
    batch: int = 1

    @classmethod
    def of(cls, array: Array, given: Input) -> _Cut:
        dims = given.dims
        if dims is None or array.ndim == 0:
            return cls(given.name, array)
        if array.ndim == len(dims) + 1:
            return cls(given.name, array, dims, stack=True)
        if dims and dims[0] is None:
            return cls(given.name, array, dims, open=True)
        if dims and dims[0] and len(array) % dims[0] == 0:
            return cls(given.name, array, dims, fixed=dims[0])
        return cls(given.name, array, dims)

    def with_batch(self, batch: int) -> _Cut:
        return replace(self, batch=batch)

    @property
    def runs(self) -> int | None:
        """How many runs the array is for; None: it goes into every run."""
        if self.stack:
            return len(self.array)
        if self.open:
            return -(-len(self.array) // self.batch)
        return len(self.array) // self.fixed if self.fixed else None

    def holds(self) -> str:
        """How many runs of which shape."""
        return f"{self.name!r} of {_dims(self.array.shape)} holds {self.runs} of {_dims(self.dims)}"

    def part(self, run: int, total: int) -> Array:
        """What one of ``total`` runs takes."""
        if self.runs != total or (total == 1 and not self.stack):
            return self.array
        if self.stack:
            return np.asarray(self.array[run])
        size = self.fixed or self.batch
        return self.array[run * size : (run + 1) * size]


def _dims(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def _restacked(cuts: Sequence[_Cut]) -> str:
    """The hint where arrays are for different numbers of runs: which would do with one axis more."""
    most = max(cut.runs or 0 for cut in cuts)
    for cut in cuts:
        one = [1 if d is None else d for d in cut.dims]
        if cut.runs != most and not cut.stack and cut.array.shape[0] == most and cut.array.size == most * math.prod(one):
            return f"Give {cut.name!r} as {_dims([most, *one])}: with one axis more it is a stack of inputs, one a run."
    return "With one axis more than its input an array is a stack of inputs, one a run."


def _check_arrays(data: Mapping[str, Array], inputs: Sequence[Input], where: str) -> None:
    """Every input has an array of its type and rank, and every array an input."""
    names = [i.name for i in inputs]
    missing = [name for name in names if name not in data]
    if missing:
        hint = f"Inputs: {', '.join(names)}; arrays given: {', '.join(data) or 'none'}."
        raise UserError(f"no array for input {missing[0]!r}", where=where, hint=hint)
    strange = [name for name in data if name not in (*names, LABEL)]
    if strange:
        hint = nearest(strange[0], sorted({*names, LABEL}))
        raise UserError(f"array {strange[0]!r} is no input of the model", where=where, hint=hint)
    for i in inputs:
        array = np.asarray(data[i.name])
        if i.dtype is not None and array.dtype != i.dtype and not (i.dtype.hasobject and array.dtype.kind in "UST"):
            raise UserError(f"array {i.name!r} is {array.dtype}, and the input takes {i.dtype}", where=where,
                            hint=f"Convert it with .astype(np.{i.dtype}).")  # fmt: skip
        if i.dims is not None and array.ndim not in (len(i.dims), len(i.dims) + 1):
            raise UserError(f"array {i.name!r} has the shape {_dims(array.shape)}, and the input takes {_dims(i.dims)}", where=where,
                            hint="One axis more is taken for a stack of inputs.")  # fmt: skip


def _labels(given: Array, samples: int, where: str) -> Array:
    labels = np.asarray(given).reshape(-1)
    whole = labels.dtype.kind in "biu" or (labels.dtype.kind == "f" and bool((labels % 1 == 0).all()))
    if not whole:
        raise UserError(f"{LABEL!r} holds no class numbers (it is {labels.dtype})", where=where,
                        hint="It holds the index of the right class for each sample: 0, 1, ...")  # fmt: skip
    if len(labels) != samples:
        one = np.asarray(given).ndim > 1 and len(given) == samples
        raise UserError(f"{len(labels)} labels for {samples} samples", where=where,
                        hint="Of one-hot labels, give label.argmax(-1)." if one else None)  # fmt: skip
    return labels
