"""What ``optimize`` does to real models with no data and no options: the table in README.md.

    python benchmarks/defaults.py --data FOLDER --work FOLDER [--clock cpu] [MODEL ...] > benchmarks/results/models-MACHINE.json

FOLDER of the data holds ``models`` and, for the SqueezeNet that Deep Compression's authors published, ``squeezenet-deep-compression``
(models/README.md). Artifacts go to the other folder. Every system of a model is timed in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from eie.compiler import optimize
from eie.compiler.bench.machine import describe
from eie.compiler.bench.models import measure

ROOT = Path(__file__).parents[1]


def models(data: Path, work: Path) -> list[Path]:
    """Paths of all models, the published SqueezeNet read from the authors' file."""
    found = sorted((data / "models").glob("*.onnx"))
    published = data / "squeezenet-deep-compression"
    if published.exists():
        made = work / "squeezenet-1.0.onnx"
        script = ROOT / "models" / "squeezenet_deep_compression.py"
        subprocess.run([sys.executable, str(script), str(published), "-o", str(made)], check=True, stdout=sys.stderr)
        found.append(made)
    return found


def line(model: Path, rows: list[dict[str, Any]]) -> str:
    """A row of the table, for people."""
    first = rows[0]
    times = {row["system"]: row["median_us"] / first["median_us"] for row in rows}
    before, after = first["input_bytes"], first["output_bytes"]
    return (
        f"| {model.stem} | {before / 1e3:,.0f} kB | {after / 1e3:,.0f} kB | {before / after:.1f}x "
        f"| {first['sqnr_db'] or float('inf'):.0f} dB | {times['eie cpu']:.2f} | {times['eie ort']:.2f} | {times['eie library']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", metavar="MODEL", help="files' names without their ending; all when left out")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for model in models(given.data, given.work):
        if given.model and model.stem not in given.model:
            continue
        artifact = given.work / f"{model.stem}.eie.onnx"
        result = optimize(model)
        result.measure()
        result.save(artifact)
        about = {"input_bytes": result.input_bytes, "output_bytes": result.output_bytes, "missed": result.missed,
                 "sqnr_db": result.json()["verify"]["sqnr_db"]}  # fmt: skip
        rows = [row | about for row in measure(artifact, model, runs=given.runs, clock=given.clock)]
        found += rows
        print(line(model, rows), file=sys.stderr, flush=True)
    json.dump({"machine": describe(), "rows": found}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
