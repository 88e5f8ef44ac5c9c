"""Deep Compression on the paper's two LeNets, with the preset of that name: sizes, accuracy and time over seeds.

    python benchmarks/deep_compression.py --data FOLDER --work FOLDER [RUN ...]     # hours; goes on where it was interrupted

FOLDER of the data holds ``mnist`` and ``models`` (models/README.md). Results go to benchmarks/results/deep-compression.json, a seed at a
time, and seeds that are there are not run again. Training holds back a tenth of the 60,000 training digits; what was chosen was
chosen on those. The test digits are looked at once a run, at its end.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import lenet_5
import lenet_300_100
import mnist
from spoken_digits import Lines

from eie.compiler import Recipe, optimize
from eie.compiler.report.result import Result

RESULTS = Path(__file__).parent / "results" / "deep-compression.json"
PRESET = "deep-compression"


@dataclass(frozen=True)
class Run:
    """What is compressed, how far, and what the bar is.

    Attributes:
        model: a file below ``models`` of the data, or "" for one trained here from nothing.
        network: lenet-300-100 or lenet-5.
        ratio: the preset's, for the weights' payloads.
        least: how many times smaller it has to be.
        bar: accuracy on test5k that it has to keep.
        epochs: of pruning; 0: the preset's.
        dense_epochs: of training from nothing.
    """

    model: str
    network: str
    ratio: float
    least: float
    bar: float
    epochs: int = 0
    dense_epochs: int = 0


RUNS = {
    "lenet-300-100": Run("lenet-300-100.onnx", "lenet-300-100", 115, 100, 0.9684),
    "lenet-5": Run("lenet-5.onnx", "lenet-5", 320, 250, 0.9860, epochs=8),
    "lenet-300-100-from-nothing": Run("", "lenet-300-100", 45, 40, 0.979, dense_epochs=10),
    "lenet-5-from-nothing": Run("", "lenet-5", 42, 39, 0.989, epochs=6, dense_epochs=4),
}


def from_nothing(run: Run, folder: Path, seed: int, checkpoint: Path) -> onnx.ModelProto:
    """The network, trained here."""
    if run.network == "lenet-5":
        settings = replace(lenet_5.SETTINGS, epochs=run.dense_epochs, threads=1)
        return lenet_5.train(folder, seed, settings, checkpoint, Lines())
    weights, biases = lenet_300_100.train(folder, run.dense_epochs, seed)
    return lenet_300_100.export(weights, biases)


def measure(run: Run, name: str, data: Path, work: Path, seed: int) -> dict[str, Any]:
    """One seed of a run; the artifact and the model before it stay in ``work``."""
    train, test = ({"x": x, "label": y} for x, y in (mnist.load(data / "mnist", part) for part in ("train", "test5k")))
    source, began = work / f"{name}-{seed}.onnx", time.perf_counter()
    dense_seconds = 0.0
    if run.model:
        source = data / "models" / run.model
    elif not source.exists():
        onnx.save(from_nothing(run, data / "mnist", seed, work / f"{name}-{seed}-dense"), source)
        dense_seconds = time.perf_counter() - began
    recipe = Recipe.load(PRESET).with_ratio(run.ratio)
    assert recipe.train is not None
    settings = replace(recipe.train, seed=seed, threads=1, epochs=run.epochs or recipe.train.epochs)
    recipe = replace(recipe, train=settings)
    checkpoint = work / f"{name}-{seed}"
    checkpoint.mkdir(exist_ok=True)
    spent = time.process_time()
    result = optimize(source, test, recipe, train=train, checkpoint=checkpoint, progress=Lines())
    spent = time.process_time() - spent
    result.save(work / f"{name}-{seed}.eie.onnx")
    return {"seed": seed, "dense_seconds": round(dense_seconds), "cpu_seconds": round(spent), **figures(result)}


def figures(result: Result) -> dict[str, Any]:
    """Accuracy on test5k, and sizes counted in three ways."""
    assert result.learnt is not None and result.accuracy is not None
    before, payloads = (sum(getattr(row, f"bytes_{k}") for row in result.layers) for k in ("before", "after"))
    plain = sum(c.nbytes for c in result.model.graph.constants.values()) - payloads
    kept = [e for e in result.learnt.epochs if e.kept]
    return {
        "test5k_before": result.accuracy.before,
        "test5k": result.accuracy.after,
        "validation_before": result.learnt.right_before,
        "validation": kept[-1].held_right,
        "weights": before,
        "payloads": payloads,
        "other_constants": plain,
        "file_before": result.input_bytes,
        "file": result.output_bytes,
        "ratio_weights": round(before / payloads, 2),
        "ratio_constants": round(result.weight_bytes_before / (payloads + plain), 2),
        "ratio_file": round(result.input_bytes / result.output_bytes, 2),
        "layers": [
            {
                "name": row.name, "shape": list(row.shape), "weights": row.bytes_before, "payload": row.bytes_after,
                "kept": round(row.kept * 4 * math.prod(row.shape) / row.bytes_before, 5), "bits": row.bits,
                **{k: v for k, v in row.bytes_by_kind.items() if v},
            }
            for row in result.layers
        ],
        "epochs": len(result.learnt.epochs),
        "seconds": round(sum(e.seconds for e in result.learnt.epochs)),
    }  # fmt: skip


def summary(run: Run, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over seeds, and whether the bar is kept."""

    def over(key: str) -> dict[str, float]:
        values = [r[key] for r in found]
        return {"mean": round(statistics.mean(values), 5), "least": min(values), "most": max(values),
                "deviation": round(statistics.stdev(values), 5) if len(values) > 1 else 0.0}  # fmt: skip

    keys = ("test5k", "validation", "ratio_weights", "ratio_constants", "ratio_file", "seconds", "cpu_seconds")
    figures = {key: over(key) for key in keys}
    good = figures["test5k"]["mean"] >= run.bar and figures["ratio_weights"]["least"] >= run.least
    return {"seeds": len(found), **figures, "kept": good}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; all when left out")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for models and checkpoints")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    for name in given.run or RUNS:
        run = RUNS[name]
        for seed in range(given.seeds):
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            entry = results.setdefault(name, {"runs": []})
            if any(r["seed"] == seed for r in entry["runs"]):
                continue
            print(f"== {name}, seed {seed}", flush=True)
            entry["runs"].append({**measure(run, name, given.data, given.work, seed), "machine": platform.machine()})
            entry |= {"about": asdict(run), "summary": summary(run, entry["runs"])}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            last = entry["runs"][-1]
            print(json.dumps({k: v for k, v in last.items() if k != "layers"}), flush=True)


if __name__ == "__main__":
    main()
