"""The section of docs/papers.md on Deep Compression, from benchmarks/results/deep-compression.json."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from tables import percent, table

_HEAD = """## Deep Compression (ICLR 2016)
Published: LeNet-300-100 1.64 -> 1.58 % error at 40x, LeNet-5 0.80 -> 0.74 % at 39x (all 10,000 test digits; about 2.1 and 1.1 % on
`test5k`). Reproduced: the preset `deep-compression` with a `--ratio`, on the networks that Caffe trained and on our own, trained from
nothing. *Weights* compares payloads with the float32 weights; *all constants* adds the biases to both; *file* is the whole ONNX file.
*CPU time* is of one thread, from reading the model to writing the artifact, training from nothing not counted. Made by
`python benchmarks/deep_compression.py`."""


def section(path: Path) -> list[str]:
    """Lines of the section: means, deviations over seeds, and the least ratio of any seed."""
    if not path.exists():
        return []
    results: dict[str, Any] = json.loads(path.read_text())
    rows = [_row(name, entry["runs"]) for name, entry in results.items() if entry["runs"]]
    head = ["network", "seeds", "test5k before, %", "after, %", "weights smaller", "all constants", "file", "CPU time"]
    layers = [line for name, entry in results.items() if entry["runs"] for line in _layers(name, entry["runs"][0])]
    inner = ["layer (seed 0)", "kept", "payload", "places", "codes", "codebook", "smaller"]
    return [_HEAD, "", *table(head, rows), "", *table(inner, layers)]


def _row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    return [
        name, str(len(runs)), percent([r["test5k_before"] for r in runs]), percent([r["test5k"] for r in runs]),
        *(_ratio([r[key] for r in runs]) for key in ("ratio_weights", "ratio_constants", "ratio_file")),
        f"{mean(r['cpu_seconds'] for r in runs) / 60:.1f} min",
    ]  # fmt: skip


def _ratio(values: list[float]) -> str:
    return f"{mean(values):.0f}x (least {min(values):.0f}x)"


def _layers(name: str, run: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"{name} {layer['name']}", f"{layer['kept']:.1%}", f"{layer['payload']:,} B", f"{layer.get('indices', 0):,} B",
            f"{layer.get('codes', 0):,} B", f"{layer.get('codebook', 0):,} B", f"{layer['weights'] / layer['payload']:.0f}x",
        ]
        for layer in run["layers"]
    ]  # fmt: skip
