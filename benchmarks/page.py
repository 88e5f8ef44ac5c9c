"""docs/papers.md from what was measured: published and reproduced side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from page_deep import section
from tables import percent, table

_HEAD = """# The papers, published and reproduced
What the five papers reported, and what this project measures on data that is at hand: MNIST and spoken digits instead of ImageNet
and speech corpora. Figures of other networks on other data are not comparable; what is, is what a method costs or gains on its own
network. Made by `python benchmarks/papers.py page` from `benchmarks/results/training`, which `python benchmarks/papers.py run` fills
(hours; it goes on where it was interrupted). The experiments are in `benchmarks/experiments.py`.

Accuracy is in percent of test samples, mean +- standard deviation over seeds; *points* are differences of the same seeds. MNIST is
tested on the 5,000 harder test digits (`test5k`: figures of the whole set are about half a point better), spoken digits (FSDD) on the
first ten takes of each of four speakers (400 recordings), or on a speaker who was not trained on. Choices were made on validation data
taken from the training data, drawn anew in each run: digits held back while compressing were mostly seen by the dense model before,
so that epochs are chosen with some optimism; test data never was. *Weights* are all bytes of the compressed weights as stored,
codebooks, tables and headers included, against float32; *file* is the whole ONNX file.
"""

_NAMES = {
    "dsd-digits-cnn": "CNN, spoken digits",
    "dsd-digits-lstm": "LSTM, spoken digits",
    "dsd-lenet-300-100": "LeNet-300-100, MNIST",
    "ttq-digits-cnn": "CNN, spoken digits",
    "ttq-lenet-5": "LeNet-5, MNIST",
    "ese-take": "LSTM, spoken digits, by take",
    "ese-speaker": "LSTM, spoken digits, by speaker",
}


def page(folder: Path) -> str:
    """The whole page."""
    found = {p.stem: json.loads(p.read_text())["runs"] for p in sorted(folder.glob("*.json"))}
    return "\n".join(
        [
            _HEAD,
            *section(folder.parent / "deep-compression.json"),
            "",
            *_ese(found),
            "",
            *_ttq(found),
            "",
            *_dsd(found),
            "",
        ]
    )


def _smaller(records: Sequence[dict[str, Any]], before: str, after: str) -> str:
    return f"{mean(r[before] / r[after] for r in records):.1f}x"


def _of(found: dict[str, Any], stem: str) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(name, runs) for name, runs in found.items() if name.startswith(stem) and runs]


def _ese(found: dict[str, Any]) -> list[str]:
    lines = [
        "## ESE: load-balanced pruning of LSTMs (FPGA 2017)",
        "Published: an LSTM with projection on TIMIT, phone error rate 20.4 % dense and 20.7 % at 10 % density with 12-bit weights;",
        "20 times smaller (10 by pruning, 2 by quantization). Reproduced: 128 units, 32 frames of 40 mel bands; `prune` to 9.5 %",
        "of the LSTM's weights and 40 % of the classifier's (10 % of all) while training, shared values, `retrain`. Dense was trained on",
        "for as many epochs.",
        "",
    ]
    rows = []
    for name, runs in _of(found, "ese-"):
        dense = [r["dense"]["after"] for r in runs]
        rows.append([_NAMES[name], "dense", percent(dense), "", "", ""])
        for kind in ("balanced", "unbalanced"):
            records = [r[kind] for r in runs]
            moved = [r[kind]["after"] - r["dense"]["after"] for r in runs]
            rows.append([
                "", f"10 % {kind}", percent([r["after"] for r in records]), percent(moved, "+"),
                _smaller(records, "weights", "payloads"), _smaller(records, "file_before", "file_after"),
            ])  # fmt: skip
        voices = len({r["by"] for r in runs})
        rows[-3][0] += f" ({voices} voices, {len(runs)} seeds in all)" if voices > 1 else f" ({len(runs)} seeds)"
    return [*lines, *table(["network", "weights", "accuracy", "points", "weights smaller", "file smaller"], rows)]


def _ttq(found: dict[str, Any]) -> list[str]:
    lines = [
        "## TTQ: trained ternary weights (ICLR 2017)",
        "Published (error, full precision and ternary): ResNet-20 on CIFAR-10 8.23 and 8.87 %, ResNet-32 7.67 and 7.63, ResNet-44 7.18",
        "and 7.02, ResNet-56 6.80 and 6.44; AlexNet on ImageNet 42.8 and 42.5. Reproduced: `ttq` from the trained network, first and last",
        "layer at 8 bits; full precision was trained on for as many epochs. (ResNet-20 on CIFAR-10 has not been run: it takes a GPU.)",
        "The CNN follows its full-precision self (`distill`) in both columns. On 1,800 variations of the recordings held back, where its",
        "settings were chosen, it loses 0.06 points (3 seeds, 0.8 without distillation); on the 400 test recordings what is below.",
        "",
    ]
    rows = []
    for name, runs in _of(found, "ttq-"):
        records = [r["ttq"] for r in runs]
        moved = [r["ttq"]["after"] - r["full"]["after"] for r in runs]
        rows.append([
            f"{_NAMES[name]} ({len(runs)} seeds)", percent([r["full"]["after"] for r in runs]), percent([r["after"] for r in records]),
            percent(moved, "+"), _smaller(records, "weights", "payloads"), _smaller(records, "file_before", "file_after"),
        ])  # fmt: skip
    return [
        *lines,
        *table(["network", "full precision", "ternary", "points", "weights smaller", "file smaller"], rows),
    ]


def _dsd(found: dict[str, Any]) -> list[str]:
    lines = [
        "## DSD: dense, sparse, dense (ICLR 2017)",
        "Published (top-1 error before and after): GoogLeNet 31.14 and 30.02 %, VGG-16 31.50 and 27.19, ResNet-18 30.43 and 29.17,",
        "ResNet-50 24.01 and 22.89, all against the dense model as it was, not against one trained as long. Reproduced:",
        "`dsd{density=0.7}`, a sparse and a dense phase; *dense* is the same model trained on for the same epochs at the same rates",
        "without a mask.",
        "",
    ]
    rows = []
    for name, runs in _of(found, "dsd-"):
        kinds = [[r[k]["after"] for r in runs] for k in ("base", "dense", "dsd")]
        moved = [r["dsd"]["after"] - r["dense"]["after"] for r in runs]
        rows.append([f"{_NAMES[name]} ({len(runs)} seeds)", *map(percent, kinds), percent(moved, "+")])
    return [*lines, *table(["network", "before", "dense, as long", "DSD", "points"], rows)]
