"""``eie disasm``: what a program of the accelerator does, and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eie.runtime.errors import nearest
from eie.runtime.hardware.program import LayerProgram, load

from ..errors import UserError
from ..report.table import console
from .common import Json, print_json

NAME = "disasm"
_SHOWN = 16  # entries a line


def command(
    program: Annotated[Path, typer.Argument(metavar="MODEL.eie", help="A file `eie lower` wrote.", show_default=False)],
    layer: Annotated[str | None, typer.Option(help="Only this layer.", show_default=False)] = None,
    element: Annotated[
        int | None,
        typer.Option(min=0, help="Also what this element holds: codes v, runs z, pointers p.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Print the instructions of a program, and the memory images of an element."""
    layers, config = load(program)
    names = [p.name for p in layers]
    if layer is not None and layer not in names:
        raise UserError(f"no layer is called {layer!r}", where=str(program), hint=nearest(layer, names))
    if element is not None and element >= config.processing_elements:
        raise UserError(f"there are elements 0 to {config.processing_elements - 1}", where="--element")
    chosen = [p for p in layers if layer in (None, p.name)]
    if json:
        print_json({"config": config.to_toml(), "layers": [
            {"name": p.name, "op": p.op, "inputs": p.inputs, "outputs": p.outputs, "setup": [str(i) for i in p.setup],
             "vector": [str(i) for i in p.body], **({"element": _held(p, element)} if element is not None else {})}
            for p in chosen]})  # fmt: skip
        return
    screen = console()
    screen.print("".join(f"; {line}\n" for line in config.to_toml().splitlines()), highlight=False, soft_wrap=True)
    for p in chosen:
        screen.print(p.text(), highlight=False, soft_wrap=True)
        if element is not None:
            for k, held in enumerate(_held(p, element)):
                screen.print(f"; image {k}, element {element}", highlight=False)
                for name, values in held.items():
                    for at in range(0, len(values), _SHOWN):
                        row = " ".join(f"{v:3}" for v in values[at : at + _SHOWN])
                        screen.print(f"  {name}[{at:6}] {row}", highlight=False, soft_wrap=True)


def _held(program: LayerProgram, element: int) -> list[dict[str, list[int]]]:
    found = []
    for image in program.images:
        v, z, p = image.element(element)
        found.append({"v": v.tolist(), "z": z.tolist(), "p": p.tolist()})
    return found
