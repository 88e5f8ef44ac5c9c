"""``eie bench model``: a whole model and its artifact on every backend, in turn in one process; loading in a fresh one each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from eie.runtime import Session, custom_op_library

from ..analysis.samples import made_up, that_runs
from ..data import load_npz
from ..errors import ModelError
from ..ir.reader import read
from .timing import Times, interleaved

Array = npt.NDArray[Any]
# what loading takes, seen from outside: {"load_us", "load_peak_bytes"}, the memory of the imports left out
_LOAD = """
import json, resource, sys, time
import numpy, onnxruntime
from eie.compiler.bench.models import opened
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
def status(name):
    return next((int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith(name)), None)
try:  # Linux forgets the peak of the imports when asked to
    open("/proc/self/clear_refs", "w").write("5")
    peak = lambda: status("VmHWM:")
except OSError:
    pass
before, start = peak(), time.perf_counter_ns()
session = opened(sys.argv[1], sys.argv[2], int(sys.argv[3]))
print(json.dumps({"load_us": (time.perf_counter_ns() - start) / 1e3, "load_peak_bytes": peak() - before}))
"""


def opened(system: str, path: str, threads: int) -> Any:
    """A session of ONNX Runtime, of it with the custom-op library, or of ours on a backend."""
    if system in ("eie cpu", "eie ort"):
        return Session(path, system.split()[1], threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if system == "eie library":
        options.register_custom_ops_library(custom_op_library())
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(artifact: Path, against: Path, *, int8: Path | None = None, input: Path | None = None, threads: int = 1,
            runs: int = 50, clock: str = "wall") -> list[dict[str, Any]]:  # fmt: skip
    """A row a system: the original in ONNX Runtime, an int8 form of it where given, the artifact on ``cpu``, on ``ort`` and in
    plain ONNX Runtime with the custom-op library.

    Raises:
        UserError: a model can't be read or run.
    """
    systems = {"ort fp32": against} | ({"ort int8": int8} if int8 is not None else {})
    systems |= {f"eie {way}": artifact for way in ("cpu", "ort", "library")}
    plain = Session(against, "ort")
    if plain.engine is not None:
        raise ModelError("is an artifact; --against wants the model it was made from", where=str(against))
    if Session(artifact, "cpu").engine is None:
        raise ModelError(
            "holds no compressed layers", where=str(artifact), hint="Give an artifact that `optimize` made"
        )
    feeds = (
        load_npz(input)
        if input is not None
        else that_runs(made_up(read(against), 1, 0), lambda f: plain.run(None, f))[0][0]
    )
    loads = {name: _load(name, path, threads) for name, path in systems.items()}
    calls = {name: _call(opened(name, str(path), threads), feeds) for name, path in systems.items()}
    times = interleaved(calls, runs=runs, clock=clock)
    return [
        _row(against.stem, name, path, threads, times[name]) | {"clock": clock} | loads[name]
        for name, path in systems.items()
    ]


def _call(session: Any, feeds: Mapping[str, Array]) -> Any:
    return lambda: session.run(None, feeds)  # as users call either


def _load(system: str, path: Path, threads: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, system, str(path), str(threads)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ModelError(
            f"can't be loaded as {system}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}",
            where=str(path),
        )
    return dict(json.loads(done.stdout))


def _row(layer: str, system: str, path: Path, threads: int, t: Times) -> dict[str, Any]:
    ours = system.startswith("eie ")
    return {
        "layer": layer, "kind": "model", "batch": 1, "cache": "warm", "pattern": None, "density": None, "system": system,
        "format": "artifact" if ours else system.split()[1], "isa": "", "threads": threads,
        "median_us": t.median, "p10_us": t.p10, "p90_us": t.p90, "bytes": path.stat().st_size,
    }  # fmt: skip


def geometric_mean(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")
