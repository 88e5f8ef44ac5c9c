"""Runs the experiments behind docs/papers.md, and writes that page from their results.

    python benchmarks/papers.py run --data FOLDER --work FOLDER [EXPERIMENT ...]   # hours; goes on where it was interrupted
    python benchmarks/papers.py page                                               # docs/papers.md, from benchmarks/results/training

FOLDER of the data holds ``mnist``, ``audio`` and ``models`` (models/README.md). A result is kept for each seed, and seeds that are there
are not run again.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "training"
PAGE = HERE.parent / "docs" / "papers.md"


def run(names: list[str], data: Path, work: Path, seeds: int | None) -> None:
    """Every seed of every experiment that has no result yet."""
    from experiments import EXPERIMENTS, Place

    work.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in names or EXPERIMENTS:
        one, count = EXPERIMENTS[name]
        path = RESULTS / f"{name}.json"
        found = (
            json.loads(path.read_text()) if path.exists() else {"experiment": name, "about": one.__doc__, "runs": []}
        )
        for seed in range(seeds or count):
            if any(r["seed"] == seed for r in found["runs"]):
                continue
            print(f"== {name}, seed {seed}", flush=True)
            record = one(Place(data, work, note=lambda text: print(text, flush=True)), seed)
            found["runs"].append({**_plain(record), "torch": _version(), "machine": platform.machine()})
            path.write_text(json.dumps(found, indent=1) + "\n")


def _plain(value: Any) -> Any:
    """Without what no JSON holds."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith("_")}
    return value


def _version() -> str:
    import torch

    return str(torch.__version__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="run experiments")
    one.add_argument("experiment", nargs="*")
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--work", type=Path, required=True, help="a folder for models and checkpoints on the way")
    one.add_argument("--seeds", type=int)
    commands.add_parser("page", help="write docs/papers.md")
    given = parser.parse_args()
    if given.command == "run":
        run(given.experiment, given.data, given.work, given.seeds)
    else:
        from page import page

        PAGE.write_text(page(RESULTS))


if __name__ == "__main__":
    main()
