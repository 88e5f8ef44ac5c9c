"""How the benchmarks time: calls interleaved in one process, so that what disturbs one disturbs all; medians and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

_FLUSHED = np.ones(96 << 20, np.uint8)  # larger than the last cache


@dataclass(frozen=True)
class Times:
    """Microseconds: median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.low:,.0f}-{self.high:,.0f})"


def interleaved(calls: Mapping[str, Callable[[], object]], *, runs: int = 30, cold: bool = False) -> dict[str, Times]:
    """Times of each call. ``cold``: the caches are flushed before each, so that weights come from memory."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(runs):
        for name, call in calls.items():
            if cold:
                np.add(_FLUSHED, 1, out=_FLUSHED)
            else:
                call()  # what the others left in the caches goes
            start = time.perf_counter()
            call()
            found[name].append((time.perf_counter() - start) * 1e6)
    return {name: Times(*np.percentile(t, [50, 25, 75])) for name, t in found.items()}
