"""Training data: arrays by name, or what a function of the user's gives; and the part held back for validation.

``data.npz`` holds arrays named after the inputs and ``label``, as for ``--data``. ``module:function`` names a function that is
called without arguments and returns the same as a dictionary; or an object with ``len`` and ``[index]`` (a torch Dataset) whose
items are dictionaries of arrays, one sample each; or a pair of those, training data and validation data. Validation data that is not
given is taken from the training data, by the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..data import LABEL, Input, describe, hash_arrays, inputs_of, load_npz
from ..errors import UserError, nearest
from ..ir.graph import Model
from ..usercode import calling, load_function

Array = npt.NDArray[Any]
Batch = dict[str, Array]

_BLOCK = 256  # samples hashed at a time


class Source(Protocol):
    """Samples by number."""

    @property
    def alike(self) -> Iterable[str]: ...
    def __len__(self) -> int: ...
    def take(self, rows: Array) -> Batch: ...


@dataclass(frozen=True)
class Arrays:
    """Samples along the first axis of arrays; ``alike`` go into every run as they are."""

    arrays: Mapping[str, Array]
    alike: Mapping[str, Array]
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Array) -> Batch:
        at = self.rows[rows]
        return {name: array[at] for name, array in self.arrays.items()} | dict(self.alike)


@dataclass(frozen=True)
class Items:
    """Samples of an object with ``len`` and ``[index]``, a dictionary of arrays each. Those in ``expand`` lack the batch axis
    that the model's input has; ``alike`` are the same in all. ``kinds``: types and shapes of the first sample, and so of all."""

    dataset: Any
    rows: Array
    where: str
    kinds: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    expand: frozenset[str] = frozenset()
    alike: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Array) -> Batch:
        with calling(self.where):
            items = [{name: np.asarray(v) for name, v in self.dataset[int(i)].items()} for i in self.rows[rows]]
        for row, item in zip(self.rows[rows], items, strict=True):
            for name, (dtype, shape) in self.kinds.items():
                if name not in item or item[name].dtype.kind != dtype.kind or item[name].shape != shape:
                    has = f"{item[name].dtype} {list(item[name].shape)}" if name in item else "none"
                    raise UserError(f"sample {row} has {has} for {name!r}, and sample 0 {dtype} {list(shape)}", where=self.where,
                                    hint="All samples have the same arrays, of the same types and shapes.")  # fmt: skip
        found = {name: np.stack([item[name] for item in items]).astype(kind[0]) for name, kind in self.kinds.items()}
        found |= {name: found[name][:, None] for name in self.expand}
        return found | {name: np.asarray(items[0][name]) for name in self.alike}


class _Named:
    """A dataset of tuples as one of dictionaries."""

    def __init__(self, dataset: Any, names: Sequence[str]) -> None:
        self._dataset, self._names = dataset, names

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Batch:
        return dict(zip(self._names, self._dataset[index], strict=False))


@dataclass(frozen=True)
class TrainingData:
    """Attributes:
    train, validation: samples; validation may be empty.
    stacked: every sample is a whole input of the model, batch axis included: it runs once a sample.
    alike: names of arrays that go into every run as they are.
    """

    train: Source
    validation: Source
    stacked: bool
    alike: frozenset[str]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every sample, for checkpoints. It reads all of them once; nobody asks where there are no checkpoints."""
        digest = hashlib.sha256()
        for source in (self.train, self.validation):
            digest.update(f"{len(source)} ".encode())
            for begin in range(0, len(source), _BLOCK):
                hash_arrays(digest, source.take(np.arange(begin, min(begin + _BLOCK, len(source)))))
        return digest.hexdigest()


def load(
    source: str | Path | Mapping[str, Array] | Any, model: Model, *, validation: float, seed: int, extra: bool = False
) -> TrainingData:
    """Training data for a model.

    Args:
        source: an ``.npz``, ``module:function``, arrays by name, or an object with ``len`` and ``[index]``; or a pair of these.
        model: whose inputs the names are.
        validation: share held back where no validation data is given.
        seed: of what is held back.
        extra: the user's loss may read arrays that are neither inputs nor ``label``.

    Raises:
        UserError: the data can't be had, or does not fit the model.
    """
    where = str(source) if isinstance(source, str | Path) else "train"
    inputs = describe(inputs_of(model))
    given = _given(source, where)
    pair = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    first, stacked = _source(_given(pair[0], where), inputs, where, extra)
    if not len(first):
        raise UserError("the data holds no samples", where=where)
    if pair[1] is not None:
        second, other = _source(_given(pair[1], where), inputs, where, extra)
        if stacked != other:
            raise UserError("validation samples have other axes than those to train on", where=where)
        if len(second) and set(second.take(np.arange(1))) != set(first.take(np.arange(1))):
            raise UserError("validation samples have other arrays than those to train on", where=where)
    else:
        first, second = _split(first, validation, seed)
    if not len(first):
        raise UserError("nothing is left to train on", where=where, hint="Hold back less for validation.")
    return TrainingData(first, second, stacked, frozenset(first.alike))


def _given(source: Any, where: str) -> Any:
    """What a path or the name of a function stands for."""
    if isinstance(source, Path) or (isinstance(source, str) and (source.endswith(".npz") or ":" not in source)):
        return load_npz(source)
    if isinstance(source, str):
        function = load_function(source, where)
        with calling(where):
            return function()
    return source


def _source(given: Any, inputs: Sequence[Input], where: str, extra: bool) -> tuple[Source, bool]:
    """Samples, and whether each is a whole input, batch axis included."""
    if isinstance(given, Mapping):
        return _arrays({str(k): np.asarray(v) for k, v in given.items()}, inputs, where, extra)
    if not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
        raise UserError(f"training data is a {type(given).__name__}", where=where,
                        hint="Give arrays by name, or an object with len and [index] whose items are dictionaries of arrays.")  # fmt: skip
    with calling(where):
        count = len(given)
        first = given[0] if count else None
    if not count:
        raise UserError("the data holds no samples", where=where)
    if isinstance(first, tuple | list) and len(inputs) <= len(first) <= len(inputs) + 1:
        return _source(_Named(given, [*(i.name for i in inputs), LABEL]), inputs, where, extra)
    if not isinstance(first, Mapping):
        raise UserError(
            f"a sample is a {type(first).__name__}", where=where, hint="It is a dictionary of arrays by name, or a tuple, the label last."
        )
    scalars = {i.name for i in inputs if i.dims == ()}
    with calling(where):
        own = {str(name): np.asarray(value) for name, value in first.items()}
    stack = {name: value if name in scalars else value[None] for name, value in own.items()}
    found, stacked = _arrays(stack, inputs, where, extra)
    expand = frozenset(n for n, a in found.arrays.items() if a.ndim > stack[n].ndim)
    kinds = {name: (value.dtype, value.shape) for name, value in own.items()}
    return Items(given, np.arange(count), where, kinds, expand, frozenset(found.alike)), stacked


def _arrays(arrays: Batch, inputs: Sequence[Input], where: str, extra: bool) -> tuple[Arrays, bool]:
    for i in inputs:
        if i.name not in arrays:
            raise UserError(f"no array for input {i.name!r}", where=where,
                            hint=f"Inputs: {', '.join(j.name for j in inputs)}; arrays given: {', '.join(arrays) or 'none'}.")  # fmt: skip
        if i.dtype is not None and arrays[i.name].dtype != i.dtype:
            raise UserError(f"array {i.name!r} is {arrays[i.name].dtype}, and the input takes {i.dtype}", where=where,
                            hint=f"Convert it with .astype(np.{i.dtype}).")  # fmt: skip
    strange = [n for n in arrays if n != LABEL and n not in {i.name for i in inputs}]
    if strange and not extra:
        raise UserError(f"array {strange[0]!r} is no input of the model", where=where,
                        hint=nearest(strange[0], sorted({LABEL, *(i.name for i in inputs)})))  # fmt: skip
    for name in (*strange, *([LABEL] if LABEL in arrays else [])):
        dtype = arrays[name].dtype
        if dtype.kind not in "biuf" or not dtype.isnative:
            raise UserError(f"array {name!r} is {dtype}, and training takes plain numbers", where=where,
                            hint="Convert it: class numbers with .astype(np.int64), others with .astype(np.float32).")  # fmt: skip
    kinds = {i.name: _kind(arrays[i.name], i, arrays.get(LABEL), where) for i in inputs}
    stacked = any(k in ("stack", "runs") for k in kinds.values())
    samples: dict[str, Array] = {}
    alike: dict[str, Array] = {}
    for i in inputs:
        array = arrays[i.name]
        if kinds[i.name] == "alike":
            alike[i.name] = array
        elif kinds[i.name] == "stack" or not stacked:
            samples[i.name] = array
        else:  # an open axis among models run one by one counts runs, too
            samples[i.name] = _runs(array, (i.dims and i.dims[0] if kinds[i.name] == "runs" else None) or 1)
    together = max([i.dims[0] or 1 for i in inputs if i.dims and kinds[i.name] == "runs"], default=1)
    for name in (*strange, *([LABEL] if LABEL in arrays else [])):
        samples[name] = _runs(arrays[name], together) if together > 1 else arrays[name]
    counts = {name: len(array) if array.ndim else 0 for name, array in samples.items()}
    if len(set(counts.values())) > 1:
        raise UserError(
            "arrays hold different numbers of samples: " + ", ".join(f"{k} {v}" for k, v in counts.items()), where=where
        )
    if not counts:
        raise UserError("no array holds one sample after another", where=where)
    return Arrays(samples, alike, np.arange(next(iter(counts.values())))), stacked


def _runs(array: Array, size: int) -> Array:
    """Samples as [runs, size, ...]."""
    return array.reshape(-1, size, *array.shape[1:]) if array.ndim and not len(array) % size else array


def _kind(array: Array, i: Input, label: Array | None, where: str) -> str:
    """How an array holds samples: a ``stack`` of whole inputs, an ``open`` first axis, ``runs`` of so many samples as the model
    takes at a time; or ``alike``, the same in all."""
    if i.dims is None:
        return "open"
    if array.ndim == len(i.dims) + 1:
        return "stack"
    if array.ndim != len(i.dims):
        dims = ", ".join("?" if d is None else str(d) for d in i.dims)
        raise UserError(f"array {i.name!r} has the shape {list(array.shape)}, and the input takes [{dims}]", where=where,
                        hint="One axis more is taken for a stack of inputs.")  # fmt: skip
    if not i.dims:
        return "alike"
    if i.dims[0] is None:
        return "open"
    size = i.dims[0]
    counted = label is None or (label.ndim > 0 and len(label) == len(array))
    if size == 1 or (size and not len(array) % size and (len(array) > size or label is not None) and counted):
        return "runs"
    if len(array) == size:
        return "alike"
    raise UserError(f"the model takes {size} samples at a time in {i.name!r}, and there are {len(array)}", where=where,
                    hint="Give a multiple of that many; or whole runs, one axis more. An item of a Dataset is a whole run.")  # fmt: skip


def _split(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    """Training and validation samples, drawn once by the seed."""
    order = np.random.default_rng([seed, 1]).permutation(len(source))
    held = min(len(source) - 1, round(share * len(source)))
    train, validation = np.sort(order[held:]), np.sort(order[:held])
    if isinstance(source, Arrays):
        return replace(source, rows=source.rows[train]), replace(source, rows=source.rows[validation])
    assert isinstance(source, Items)
    return replace(source, rows=source.rows[train]), replace(source, rows=source.rows[validation])
