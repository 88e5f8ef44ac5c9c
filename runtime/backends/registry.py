"""The backends there are, by name. A new one joins with one line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

from ..errors import UserError, any_of
from .base import Backend


@dataclass(frozen=True)
class Entry:
    """Where a backend lives.

    Attributes:
        name: of it.
        target: ``module:class`` within this package, imported when first asked for.
        threaded: whether the class takes the number of threads.
        about: one line for listings.
    """

    name: str
    target: str
    threaded: bool
    about: str


_ENTRIES = (
    Entry("cpu", "cpu:CpuBackend", True, "the C kernels, from the packed form or dense where that is faster"),
    Entry("reference", "reference:ReferenceBackend", False, "numpy, slow and plain: the specification"),
    Entry(
        "hardware",
        "hardware:HardwareBackend",
        False,
        "the accelerator's cycle model, in i16: the same bits, and the cycles",
    ),
    Entry(
        "ort",
        "ort:OrtBackend",
        True,
        "the C kernels as custom ops inside ONNX Runtime, or its own where dense is faster",
    ),
)
BACKENDS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def find(name: str) -> Entry:
    """The entry of a backend.

    Raises:
        UserError: there is none of that name; names the nearest, and all.
    """
    entry = BACKENDS.get(name) if isinstance(name, str) else None
    if entry is None:
        raise UserError(f"no backend is called {name!r}", where="backend", hint=any_of(name, BACKENDS))
    return entry


def load(name: str, threads: int) -> Backend:
    """A backend that computes layers, ready to compile."""
    entry = find(name)
    module, _, attribute = entry.target.partition(":")
    factory = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return cast(Backend, factory(threads) if entry.threaded else factory())
