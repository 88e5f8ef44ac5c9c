"""``eie evaluate``: top-1 accuracy of a model or an artifact on labelled samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eie.runtime import Session

from ..analysis.judge import top1
from ..data import LABEL, Input, load_npz, split
from ..errors import UserError
from ..report.table import console
from .common import Backend, Bars, Format, Json, ModelPath, Threads, activations, print_json

NAME = "evaluate"


def command(
    model: ModelPath,
    data: Annotated[Path, typer.Option(help="An .npz with an array an input, by name, and label.", show_default=False)],
    backend: Backend = "cpu",
    format: Format = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Measure top-1 accuracy on labelled samples."""
    arrays = load_npz(data)
    session = Session(model, backend=backend, threads=threads, activations=activations(format))
    inputs = [Input(i.name, tuple(d if isinstance(d, int) else None for d in i.shape)) for i in session.get_inputs()]
    feeds, labels = split(arrays, inputs, batch=64, where=str(data))
    if labels is None:
        raise UserError(f"no array {LABEL!r}", where=str(data), hint=f"It holds: {', '.join(arrays) or 'nothing'}.")
    name = session.get_outputs()[0].name
    bars = Bars(verbose=False)
    with bars.shown():
        bars.stage("evaluate", len(feeds))
        outputs = []
        for feed in feeds:
            outputs.append(session.run([name], feed)[0])
            bars.step("")
    score = top1(outputs, labels)
    if json:
        print_json({"top1": score, "samples": len(labels), "backend": backend})
    else:
        console().print(
            f"top-1 {score:.2%} of {len(labels):,} samples ({round(score * len(labels)):,} right), backend {backend}",
            highlight=False,
        )
