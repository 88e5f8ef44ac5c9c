"""How the benchmarks time: calls in turn in one process, so that what disturbs one disturbs all; medians and spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_WARM = 3
CLOCKS: dict[str, Callable[[], int]] = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}
"""Nanoseconds; ``cpu``: of this process on the processor, so that waiting for others to leave it does not count."""
_FALLBACK = 64 << 20  # bytes of a last-level cache, where the system does not say


@dataclass(frozen=True)
class Elapsed:
    """What a call gives that takes its own time, in another process: nanoseconds by each clock."""

    wall: int
    cpu: int


@dataclass(frozen=True)
class Times:
    """Microseconds: the median, and the times that a tenth of the runs stayed below and above."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, microseconds: list[float]) -> Times:
        return cls(*(float(q) for q in np.percentile(microseconds, [50, 10, 90])))


def last_level_bytes() -> int:
    """The size of the last cache, as Linux has it."""
    sizes = [_FALLBACK]
    for found in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = found.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]] if text[-1] in "KMG" else int(text))
    return max(sizes)


class Evictor:
    """Empties the caches by writing to every line of a buffer larger than the last of them."""

    def __init__(self) -> None:
        self._lines = np.zeros((last_level_bytes() * 5 // 4 // 64, 64), np.uint8)

    def __call__(self) -> None:
        self._lines[:, 0] += 1


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, runs: int, evict: Evictor | None = None, clock: str = "wall"
) -> dict[str, Times]:
    """Times of each call, taken in turn.

    Args:
        evict: called before each timed call, so that weights come from memory. Without it each call is made a few times
            untimed before it is timed: what it needs is where the caches keep it.
        clock: a key of ``CLOCKS``.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    now = CLOCKS[clock]
    for call in calls.values():
        call()
    for _ in range(runs):
        for name, call in calls.items():
            if evict is None:
                for _ in range(_WARM):
                    call()
            else:
                evict()
            start = now()
            given = call()
            taken = now() - start
            if isinstance(given, Elapsed):
                taken = given.cpu if clock == "cpu" else given.wall
            found[name].append(taken / 1e3)
    return {name: Times.of(times) for name, times in found.items()}
