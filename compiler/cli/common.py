"""What several commands share: options, progress, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from eie.runtime.backends.base import ACTIVATIONS, Activations
from eie.runtime.operators import DOMAIN

from ..analysis.samples import made_up, that_runs
from ..data import Feeds, describe, inputs_of, load_npz, split
from ..errors import ModelError, UserError
from ..ir.graph import Model
from ..ir.reader import read
from ..ir.verifier import verify
from ..report.table import console, printable

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
Backend = Annotated[str, typer.Option(help="What runs the compressed layers: cpu, ort, reference or hardware.")]
Threads = Annotated[int, typer.Option(min=1, help="How many threads.")]
Format = Annotated[
    str | None,
    typer.Option("--activations", help="What compressed layers compute in: f32, i16 or u8.", show_default=False),
]


def activations(text: str | None) -> Activations | None:
    """The option ``--activations``, checked."""
    if text is None:
        return None
    for known in ACTIVATIONS:
        if text == known:
            return known
    raise UserError(f"{text!r} is none of {', '.join(ACTIVATIONS)}", where="--activations")


def shapes(options: Sequence[str]) -> dict[str, list[int]]:
    """``--shape input:1,3,224,224``, several times."""
    found = {}
    for text in options:
        name, colon, dims = text.rpartition(":")
        try:
            shape = [int(d) for d in dims.split(",")] if dims else []
        except ValueError:
            shape = [-1]
        if not colon or not all(0 <= d < 1 << 31 for d in shape):
            raise UserError(
                f"{text!r} does not read as an input's shape",
                where="--shape",
                hint="For example: --shape data:1,3,224,224.",
            )
        found[name] = shape
    return found


def one_input(
    model: Path, given: Path | None, run: Callable[[Feeds], Any], *, batch: int = 1
) -> tuple[Feeds, str]:
    """What a model runs on once, and words for what that is.

    Args:
        given: samples of the user's, of which the first is taken; made up when None.
        run: the model, to see which made-up input it takes.
        batch: most samples that are taken at once, where the model's batch is open.

    Raises:
        UserError: the samples do not fit the model, or none can be made up.
    """
    graph = read(model)
    if given is None:
        return that_runs(made_up(graph, 1, 0), run)[0][0], "made up, one sample; --data takes real ones"
    feeds, _ = split(load_npz(given), describe(inputs_of(graph)), batch=batch, where=str(given))
    which = "all of" if len(feeds) == 1 else f"the first of {len(feeds):,} runs in"
    return feeds[0], f"{which} {given.name}"


def read_plain(path: Path, hint: str) -> Model:
    """A model that can be compressed, read and verified.

    Raises:
        ModelError: it is an artifact already; ``hint`` says what to do then.
    """
    model = read(path)
    if DOMAIN in model.graph.opsets:
        raise ModelError("this is an artifact already", where=str(path), hint=hint)
    verify(model)
    return model


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def _fixed() -> Column:
    return Column(no_wrap=True)


class Bars:
    """Progress on standard error: a bar a stage in a terminal, a line a stage elsewhere if ``verbose``."""

    def __init__(self, verbose: bool) -> None:
        self._console = console(stderr=True)
        self._verbose = verbose
        self._progress = Progress(
            SpinnerColumn(table_column=_fixed()),
            TextColumn("{task.description}", markup=False, table_column=_fixed()),
            BarColumn(bar_width=16, table_column=_fixed()),
            MofNCompleteColumn(table_column=_fixed()),
            TimeElapsedColumn(table_column=_fixed()),
            # what is short of room in a narrow terminal
            TextColumn("{task.fields[what]}", style="dim", markup=False,
                       table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            expand=True,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def stage(self, name: str, steps: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=steps or None, what="")
        if self._verbose and not self._console.is_terminal:
            self._console.print(f"{name} ..." if not steps else f"{name}: {steps} ...", highlight=False)

    def step(self, what: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, advance=1, what=printable(what))

    def note(self, text: str) -> None:
        if self._verbose:
            self._console.print(f"  {printable(text)}", highlight=False)

    @contextmanager
    def shown(self) -> Iterator[Bars]:
        """While it lasts, the bars are on the screen."""
        with self._progress:
            yield self
