"""``eie evaluate``: how good a model or an artifact is on samples: top-1, agreement with another model, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from eie.runtime import Session

from ..analysis.fidelity import agreement, decibels, energies
from ..analysis.judge import top1
from ..analysis.promise import called, wilson
from ..data import LABEL, Feeds, Input, load_npz, split
from ..errors import UserError
from ..report.result import finite
from ..report.table import console
from ..report.table import decibels as shown
from ..usercode import load_function
from .common import Backend, Bars, Format, Json, ModelPath, Threads, activations, print_json

NAME = "evaluate"
Array = npt.NDArray[Any]


def command(
    model: ModelPath,
    data: Annotated[
        Path,
        typer.Option(help="An .npz with an array an input, by name, and label where there is one.", show_default=False),
    ],
    against: Annotated[
        Path | None,
        typer.Option(help="Compare with this model's answers: top-1, and the SQNR of each output.", show_default=False),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="module:function of yours, called with outputs and data, both by name.", show_default=False),
    ] = None,
    backend: Backend = "cpu",
    format: Format = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Measure top-1 accuracy on labelled samples, agreement with another model, or what a function of yours says."""
    arrays = load_npz(data)
    score = load_function(metric, "--metric") if metric is not None else None
    session = Session(model, backend=backend, threads=threads, activations=activations(format))
    other = Session(against, "ort") if against is not None else None
    inputs = [Input(i.name, tuple(d if isinstance(d, int) else None for d in i.shape)) for i in session.get_inputs()]
    feeds, labels = split(arrays, inputs, batch=1 if other is not None or score is not None else 64, where=str(data))
    if labels is None and other is None and score is None:
        hint = f"It holds: {', '.join(arrays) or 'nothing'}. Without labels, --against compares with another model."
        raise UserError(f"no array {LABEL!r}", where=str(data), hint=hint)
    names = [o.name for o in session.get_outputs()]
    bars = Bars(verbose=False)
    with bars.shown():
        bars.stage("evaluate", len(feeds))
        outputs = _run(session, names if other is not None or score is not None else names[:1], feeds, bars.step)
        expected = _run(other, [o.name for o in other.get_outputs()], feeds, bars.step) if other is not None else []
    found: dict[str, Any] = {"samples": len(feeds) if labels is None else len(labels), "backend": backend}
    lines = []
    if labels is not None and score is None:
        share = top1((o[0] for o in outputs), labels, str(data))
        found["top1"], found["interval"] = share, list(wilson(round(share * len(labels)), len(labels)))
        low, high = found["interval"]
        lines.append(f"top-1 {share:.2%} ({low:.1%} to {high:.1%}) of {len(labels):,} samples "
                     f"({round(share * len(labels)):,} right), backend {backend}")  # fmt: skip
    if score is not None:
        given = {**arrays} if labels is None else {**arrays, LABEL: labels}
        try:
            stacked = {n: np.stack([np.asarray(o[k]) for o in outputs]) for k, n in enumerate(names)}
        except ValueError as error:
            raise UserError("the model's outputs differ in shape from sample to sample, and a metric takes them as one array",
                            where=str(model), hint="Compare with another model instead: --against.") from error  # fmt: skip
        found["metric"] = called(score, stacked, given)
        lines.append(f"{metric} {found['metric']:.6g} on {len(feeds):,} samples, backend {backend}")
    if other is not None:
        lines += _against(outputs, expected, names, found)
    if json:
        print_json(finite(found))
        return
    for line in lines:
        console().print(line, highlight=False)


def _run(session: Any, names: list[str], feeds: list[Feeds], step: Callable[[str], None]) -> list[list[Array]]:
    found = []
    for feed in feeds:
        found.append(list(session.run(names, feed)))
        step("")
    return found


def _against(
    outputs: list[list[Array]], expected: list[list[Array]], names: list[str], found: dict[str, Any]
) -> list[str]:
    """Agreement of top-1 answers, with Wilson's interval, and the SQNR of each output, of all samples together."""
    lines = []
    if any(len(y) != len(z) for y, z in zip(expected, outputs, strict=True)):
        raise UserError("has another number of outputs", where="--against")
    same = [
        truth for y, z in zip(expected, outputs, strict=True) for truth in agreement(np.asarray(y[0]), np.asarray(z[0]))
    ]
    if same:
        low, high = wilson(sum(same), len(same))
        found["agreement"], found["agreement_interval"] = float(np.mean(same)), [low, high]
        lines.append(f"top-1 agrees on {np.mean(same):.2%} ({low:.1%} to {high:.1%}) of {len(same):,} answers")
    found["sqnr_db"] = {}
    for k, name in enumerate(names):
        pairs = [energies(np.asarray(y[k]), np.asarray(z[k])) for y, z in zip(expected, outputs, strict=True)]
        noise, signal = (sum(values) for values in zip(*pairs, strict=True))
        ratio = 0.0 if noise == 0 else noise / signal if signal > 0 else 1.0
        found["sqnr_db"][name] = decibels(ratio)
        lines.append(f"output {name}: {shown(decibels(ratio))}")
    return lines
