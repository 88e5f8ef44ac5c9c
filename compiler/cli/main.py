"""The command line: ``eie`` with its commands, and ``optimize``, which is ``eie optimize`` by itself.

Exit codes: 0 done, 1 a promise not kept, 2 the user's mistake.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from typing import Annotated

import typer
from rich.text import Text

from ..errors import EieError, PromiseError
from ..report.table import console
from . import (
    bench,
    compare,
    disasm,
    doctor,
    evaluate,
    explain,
    inspect,
    layers,
    lower,
    optimize,
    recipe,
    run,
    sensitivity,
    simulate,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Makes trained ONNX models many times smaller and faster, and proves both.",
)


@app.callback(invoke_without_command=True)
def version_or_help(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"eie {metadata.version('eie')}")
        raise typer.Exit


for command in (
    optimize,
    recipe,
    layers,
    sensitivity,
    explain,
    inspect,
    run,
    evaluate,
    compare,
    lower,
    disasm,
    simulate,
    doctor,
):
    app.command(command.NAME)(command.command)

app.add_typer(bench.app, name="bench")

_alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_alone.command(optimize.NAME)(optimize.command)


def main() -> None:
    """``eie``."""
    _guarded(app)


def optimize_main() -> None:
    """``optimize``."""
    _guarded(_alone)


def _guarded(program: Callable[[], None]) -> None:
    try:
        program()
    except EieError as error:
        console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1 if isinstance(error, PromiseError) else 2)
    except MemoryError:
        console(stderr=True).print(
            Text.assemble(("error: ", "bold red"), "not enough memory for this model. Nothing was written."),
            soft_wrap=True,
        )
        sys.exit(2)
