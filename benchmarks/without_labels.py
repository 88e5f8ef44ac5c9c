"""What compression without labels reaches on models made by others: docs/without-labels.md has the table.

    EIE_SHARED=... EIE_IMAGES=folder-of-photographs python benchmarks/without_labels.py [model ...] [--draws 3] [--baseline]

For each model and each draw of calibration samples (benchmarks/samples.py): `optimize --data` with the promise of the table, without
labels; then original and artifact on samples that nothing was chosen on. ``--baseline`` also prunes by magnitude and shares by k-means,
density and bits searched for over the layers within the same bytes. Results are added to benchmarks/results/without-labels.json, a line a
model and draw; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from samples import MODELS, SOURCES, Arrays, samples

from eie.compiler import Recipe, optimize
from eie.compiler.data import describe, split
from eie.runtime import Session

RESULTS = Path(__file__).parent / "results" / "without-labels.json"
PROMISES: dict[str, dict[str, Any]] = {
    "lenet-300-100": {"max_drop": 0.003},
    "lenet-5": {"max_drop": 0.003},
    "kws-ds-cnn": {"max_drop": 0.01},
    "squeezenet-1.1-fp16": {"size": 4_941_984 // 8, "model_sqnr_db": 0.0},
    "mobilenet-v1-0.25-128": {"size": 1_907_484 // 5, "model_sqnr_db": 0.0},
}  # of the others: 25 dB, the default
PLAIN = 'passes = ["sparsify", "cluster", "encode"]'


def judged(name: str, artifact: Path, arrays: Arrays) -> dict[str, Any]:
    """Top-1 and SQNR of an artifact against the original's, on samples that are held back from everything."""
    arrays = dict(arrays)
    labels = arrays.pop("label", None)
    before, after = Session(MODELS / f"{name}.onnx", "ort"), Session(artifact)
    feeds, _ = split(arrays, describe(_fed(name)))
    outputs = [o.name for o in before.get_outputs()]
    pairs = [(before.run(outputs, f), after.run(outputs, f)) for f in feeds]
    found: dict[str, Any] = {"samples": len(feeds), "sqnr_db": {}}
    for k, output in enumerate(outputs):
        y, z = (np.stack([np.asarray(p[side][k], np.float64).reshape(-1) for p in pairs]) for side in (0, 1))
        noise = float(np.square(y - z).sum())
        found["sqnr_db"][output] = float(10 * np.log10(np.square(y).sum() / noise)) if noise else None
        if k == 0 and y.shape[1] > 1:
            found["agreement"] = float((y.argmax(1) == z.argmax(1)).mean())
            if labels is not None:
                found["top1"] = [float((v.argmax(1) == labels).mean()) for v in (y, z)]
    return found


def _fed(name: str) -> list[Any]:
    """Inputs that are no initializers."""
    graph = onnx.load(MODELS / f"{name}.onnx").graph
    held = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in held]


def measured(name: str, draw: int, baseline: bool, folder: Path) -> dict[str, Any]:
    calibrate, judge = samples(name, draw)
    source, artifact = MODELS / f"{name}.onnx", folder / f"{name}.eie.onnx"
    began = time.perf_counter()
    result = optimize(source, calibrate, budget=PROMISES.get(name), cache=False)
    seconds = time.perf_counter() - began
    result.save(artifact)
    weights = sum(int(np.prod(r.shape)) for r in result.layers)
    row = {
        "model": name, "draw": draw, "promise": PROMISES.get(name, {"model_sqnr_db": 25.0}), "missed": result.missed,
        "says": result.promised.reading.text if result.promised and result.promised.reading else None,
        "seconds": round(seconds, 1), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "bytes": result.output_bytes, "times_smaller": result.ratio,
        "times_smaller_than_fp32": (result.input_bytes - sum(r.bytes_before for r in result.layers) + 4 * weights) / result.output_bytes,
        **judged(name, artifact, judge),
    }  # fmt: skip
    if baseline:
        budget = {"size": result.output_bytes, "model_sqnr_db": 0.0, "layer_sqnr_db": 0.0, "samples": 512}
        plain = optimize(source, calibrate, Recipe.parse(PLAIN), budget=budget, cache=False)
        plain.save(artifact)
        row["plain"] = {"bytes": plain.output_bytes, "missed": plain.missed, **judged(name, artifact, judge)}
    return row


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="model", choices=[[], *SOURCES], default=[])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--again", action="store_true", help="make results that are there again")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for draw in range(given.draws):
            for name in given.models or SOURCES:
                held = next((r for r in rows if (r["model"], r["draw"]) == (name, draw)), None)
                if held is not None and not given.again and ("plain" in held or not given.baseline):
                    continue
                row = measured(name, draw, given.baseline, Path(folder))
                rows = [r for r in rows if r is not held] + [row]
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
                print(f"{name} {draw}: {row['times_smaller']:.1f}x, {row['sqnr_db']}, {row.get('agreement')}, {row.get('top1')}, "
                      f"{row['seconds']} s, {row['missed'] or 'kept'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
