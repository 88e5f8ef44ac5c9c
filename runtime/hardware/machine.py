"""The cycle model (csrc/hardware): what the machine computes, when, and what of it is busy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import numerics
from .._core import ffi, lib
from ..errors import FormatError
from .config import Config
from .image import Image

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Activity:
    """What one or several runs did. Of elements x cycles: visited + empty + starved + hazard + idle.

    Attributes:
        cycles: from the first row of activations to the last sum written.
        broadcasts: columns sent to the elements.
        visited: entries the elements worked on, fillers included, a cycle each.
        fillers: of them.
        pointer_reads: of pairs of pointers, one a column and element.
        line_reads: of lines of the sparse-matrix SRAM.
        bypasses: sums that were used in the cycle after they were made.
        scan_cycles: spent on rows of activations that hold none to broadcast (any more).
        blocked_cycles: in which a broadcast waited for a full queue.
        empty_cycles: element-cycles spent on columns an element holds nothing of.
        starved_cycles: element-cycles waiting for a broadcast.
        hazard_cycles: element-cycles waiting for a sum, where nothing bypasses.
        idle_cycles: element-cycles at the end, waiting for the slowest element and the pipeline.
    """

    cycles: int = 0
    broadcasts: int = 0
    visited: int = 0
    fillers: int = 0
    pointer_reads: int = 0
    line_reads: int = 0
    bypasses: int = 0
    scan_cycles: int = 0
    blocked_cycles: int = 0
    empty_cycles: int = 0
    starved_cycles: int = 0
    hazard_cycles: int = 0
    idle_cycles: int = 0

    def __add__(self, other: Activity) -> Activity:
        return Activity(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def total(cls, parts: Iterable[Activity]) -> Activity:
        return sum(parts, cls())


@dataclass(frozen=True)
class Event:
    """Something that took its time.

    Attributes:
        cycle: of its beginning.
        length: cycles.
        element: which; the number of elements stands for the broadcast.
        column: of the matrix.
        kind: ``broadcast``, ``work`` (entries of a column) or ``empty`` (a column without any).
    """

    cycle: int
    length: int
    element: int
    column: int
    kind: str


_KINDS = ("broadcast", "work", "empty")


@dataclass(frozen=True, eq=False)
class Run:
    """What the machine gave.

    Attributes:
        sums: int64 [vectors, outputs], exact.
        cycles: int64 [vectors].
        activity: of all vectors.
        loads: uint64 [N, 2]: entries visited, and idle cycles at the end, of each element.
        events: those in the window asked for.
    """

    sums: npt.NDArray[np.int64]
    cycles: npt.NDArray[np.int64]
    activity: Activity
    loads: npt.NDArray[np.uint64]
    events: tuple[Event, ...] = ()


def run(
    image: Image, x: Array, config: Config, window: tuple[int, int] | None = None, most_events: int = 1 << 20
) -> Run:
    """Multiply vectors by a matrix, one after the other.

    Args:
        image: made for this machine.
        x: int16 [vectors, inputs].
        config: the machine.
        window: cycles [from, to) whose events are wanted.
        most_events: kept; those after are dropped.

    Raises:
        FormatError: the image contradicts itself.
    """
    x = np.ascontiguousarray(x, np.int16)
    vectors, n = len(x), image.elements
    book, _ = numerics.codebook_i16(image.codebook)
    book = np.ascontiguousarray(book, np.int32)
    held = [ffi.from_buffer(kind, a) for kind, a in (("uint32_t[]", image.pointers), ("uint8_t[]", image.codes),
                                                     ("uint8_t[]", image.runs), ("int32_t[]", book))]  # fmt: skip
    made = ffi.new("eie_image *", {
        "rows": image.rows, "inputs": image.inputs, "columns": image.columns, "entries": image.entries,
        "pointers": held[0], "codes": held[1], "runs": held[2], "codebook_size": book.size, "codebook": held[3],
    })  # fmt: skip
    machine = ffi.new("eie_machine *", {"elements": n, "depth": config.depth, "line": config.line_entries,
                                        "skip_negative": config.skip == "nonpositive", "bypass": config.bypass})  # fmt: skip
    sums = np.zeros((vectors, image.rows * n), np.int64)
    cycles = np.zeros(vectors, np.uint64)
    activity, loads = ffi.new("eie_activity *"), np.zeros((n, 2), np.uint64)
    trace, events = ffi.NULL, None
    if window is not None:
        events = ffi.new("eie_event[]", most_events)
        trace = ffi.new("eie_trace *", {"from": window[0], "to": window[1], "events": events, "capacity": most_events})
    status = lib.eie_machine_run(machine, made, ffi.from_buffer("int16_t[]", x), vectors, ffi.from_buffer("int64_t[]", sums),
                                 ffi.from_buffer("uint64_t[]", cycles), activity, ffi.from_buffer("eie_load[]", loads), trace)  # fmt: skip
    if status == lib.EIE_E_MEMORY:
        raise MemoryError("the accelerator's model")
    if status != lib.EIE_OK:
        raise FormatError(ffi.string(lib.eie_status_message(status)).decode(), where="image of the accelerator",
                          hint="Lower the model again")  # fmt: skip
    found = Activity(*(int(getattr(activity, f.name)) for f in fields(Activity)))
    kept = () if events is None else tuple(
        Event(events[i].cycle, events[i].length, events[i].element, events[i].column, _KINDS[events[i].kind])
        for i in range(trace.count)
    )  # fmt: skip
    return Run(sums[:, : image.outputs], cycles.astype(np.int64), found, loads, kept)
