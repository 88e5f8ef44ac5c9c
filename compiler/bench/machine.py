"""The machine a benchmark ran on, and what one core of it can do at most, measured there and then."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from eie.runtime._core import ffi, lib
from eie.runtime.backends.cpu import isa, isas

from .timing import last_level_bytes

_TURNS = 5


def describe() -> dict[str, Any]:
    """Processor, versions, and ``limits``: GB/s of reading by where the data is, and billions of multiply-adds a second."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "isa": isa(),
        "isas": isas(),
        "last_level_bytes": last_level_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in ("eie", "numpy", "onnxruntime")}},
        "limits": limits(),
    }  # fmt: skip


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"  # run from its source


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _best(run: Callable[[], float]) -> float:
    """Work a second: the best of a few turns; disturbances only take away."""
    best = 0.0
    for _ in range(_TURNS):
        start = time.perf_counter()
        done = run()
        best = max(best, done / (time.perf_counter() - start))
    return best


def limits() -> dict[str, float]:
    """One core, the instruction set in use. ``read_*_gbs``: GB/s from a buffer of that many bytes, read over and over;
    ``read_memory_gbs``: from one larger than the caches."""
    found: dict[str, float] = {}
    sink = ffi.new("float *")
    found["fma_gmacs"] = _best(lambda: float(lib.eie_bench_fma(2_000_000, sink))) / 1e9
    whole = ffi.new("int32_t *")
    found["dot_u8_gmacs"] = _best(lambda: float(lib.eie_bench_dot(2_000_000, whole))) / 1e9
    sizes = {"16k": 16 << 10, "1m": 1 << 20, "8m": 8 << 20, "memory": last_level_bytes() * 5 // 4}
    for name, size in sizes.items():
        raw = np.ones(size + 64, np.uint8)
        buffer = raw[-raw.ctypes.data % 64 :][: size // 512 * 512]
        pointer = ffi.from_buffer("uint8_t[]", buffer)
        times = max(1, (64 << 20) // size)

        def run(pointer: Any = pointer, bytes_: int = buffer.size, times: int = times) -> float:
            lib.eie_bench_read(pointer, bytes_, times)
            return float(bytes_) * times

        found[f"read_{name}_gbs"] = _best(run) / 1e9
    return found
