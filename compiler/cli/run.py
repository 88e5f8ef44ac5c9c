"""``eie run``: arrays in, arrays out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eie.runtime import Session

from ..data import load_npz, named_arrays, save_npz
from ..files import check_writable
from ..report.table import console, printable
from .common import Backend, Format, ModelPath, Threads, activations

NAME = "run"


def command(
    model: ModelPath,
    input: Annotated[Path, typer.Option(help="An .npz with an array an input, by name.", show_default=False)],
    output: Annotated[
        Path, typer.Option(help="Where to write the outputs, an .npz with an array an output.", show_default=False)
    ],
    backend: Backend = "cpu",
    format: Format = None,
    threads: Threads = 1,
) -> None:
    """Run a model or an artifact on arrays from a file."""
    check_writable(output)
    feeds = load_npz(input)
    session = Session(model, backend=backend, threads=threads, activations=activations(format))
    names = [o.name for o in session.get_outputs()]
    known = {i.name for i in session.get_inputs()}
    values = session.run(names, {k: v for k, v in feeds.items() if k in known or k != "label"})
    arrays = named_arrays(zip(names, values, strict=True))
    save_npz(output, arrays)
    for name, array in arrays.items():
        console(stderr=True).print(f"{printable(name)}: {array.dtype} {list(array.shape)}", highlight=False)
