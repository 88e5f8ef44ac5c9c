"""Whole models: how much smaller the default makes them, how far outputs move, and how fast the artifact runs beside the original.

    python benchmarks/models.py MODEL.onnx...

Times are medians of interleaved runs in one process, one thread, batch as the model has it (1 where it is open), on made-up input.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from eie.compiler import optimize
from eie.compiler.analysis.samples import made_up, that_runs
from eie.compiler.ir.reader import read
from eie.runtime import Session, custom_op_library

WAYS = ("cpu", "ort", "library")  # two backends of Session, and plain ONNX Runtime with the custom-op library


def measure(path: Path, runs: int, folder: Path) -> dict[str, Any]:
    """Size, fidelity and times (us: median, quartiles) of one model."""
    artifact = folder / f"{path.stem}.eie.onnx"
    began = time.perf_counter()
    result = optimize(path)
    result.save(artifact)
    spent = time.perf_counter() - began
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    original = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    plain = Session(path, "ort")
    feeds = that_runs(made_up(read(path), 1, 0), lambda candidate: plain.run(None, candidate))[0][0]
    extended = onnxruntime.SessionOptions()
    extended.intra_op_num_threads, extended.log_severity_level = 1, 3
    extended.register_custom_ops_library(custom_op_library())
    sessions: dict[str, Any] = {
        "original": original,
        "cpu": Session(artifact, "cpu"),
        "ort": Session(artifact, "ort"),
        "library": onnxruntime.InferenceSession(str(artifact), extended, providers=["CPUExecutionProvider"]),
    }
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for i in range(runs + 3):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds)
            if i >= 3:
                times[name].append((time.perf_counter() - start) * 1e6)
    found = result.json()
    return {
        "model": path.stem,
        "input_bytes": found["input_bytes"],
        "output_bytes": found["output_bytes"],
        "ratio": found["ratio"],
        "sqnr_db": found["verify"]["sqnr_db"],
        "optimize_seconds": spent,
        "us": {name: [float(q) for q in np.percentile(t, [50, 25, 75])] for name, t in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(path, arguments.runs, Path(folder)) for path in arguments.models]
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1)
        return
    table = Table(box=None, header_style="bold")
    for title in (
        "model",
        "bytes",
        "artifact",
        "smaller",
        "outputs",
        "original us",
        *(f"{name} us" for name in WAYS),
        *(f"{name}/original" for name in WAYS),
    ):
        table.add_column(title, justify="left" if title == "model" else "right")
    for row in rows:
        us = row["us"]
        table.add_row(
            row["model"],
            f"{row['input_bytes']:,}",
            f"{row['output_bytes']:,}",
            f"{row['ratio']:.1f}x",
            f"{row['sqnr_db']:.0f} dB" if row["sqnr_db"] is not None else "equal",
            *(f"{us[k][0]:,.0f} ({us[k][1]:,.0f}-{us[k][2]:,.0f})" for k in ("original", *WAYS)),
            *(f"{us[k][0] / us['original'][0]:.2f}" for k in WAYS),
        )
    Console(width=None if sys.stdout.isatty() else 170).print(table)


if __name__ == "__main__":
    main()
