"""``eie lower``: an artifact as programs of the accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eie.runtime.hardware.config import Config, presets
from eie.runtime.hardware.program import to_bytes

from ..files import check_writable, write_beside
from ..lowering.program import lower_model
from ..report.table import Column, console, print_fitted, printable, size
from .common import Json, ModelPath, print_json

NAME = "lower"

Machine = Annotated[str, typer.Option("--config", help=f"A TOML file or a preset: {', '.join(presets())}.")]


def command(
    model: ModelPath,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The program; MODEL with the ending .eie when left out.", show_default=False
        ),
    ] = None,
    config: Machine = "eie-64-45nm",
    json: Json = False,
) -> None:
    """Lower the compressed layers of an artifact to the accelerator's instructions and memory images."""
    target = output or model.with_name(model.name.removesuffix(".onnx").removesuffix(".eie") + ".eie")
    check_writable(target)
    lowered = lower_model(model, Config.load(config))
    content = to_bytes(lowered.programs, lowered.config)
    with write_beside(target) as stream:
        stream.write(content)
    rows = [
        {"name": p.name, "op": p.op, "shape": [p.outputs, p.inputs], "tiles": len(p.images), "entries": p.entries,
         "fillers": p.fillers, "fullest": max(i.most_entries() for i in p.images), "resident": p.resident}
        for p in lowered.programs
    ]  # fmt: skip
    if json:
        print_json({"bytes": len(content), "config": lowered.config.name, "code_bits": lowered.config.code_bits, "programs": rows,
                    "host": [{"name": name, "why": why} for name, why in lowered.host.items()]})  # fmt: skip
        return
    screen = console()
    columns = [Column("layer"), Column("operator", 1, text=True), Column("matrix"), Column("tiles", 2), Column("entries"),
               Column("fillers"), Column("fullest element", 3), Column("weights", 4, text=True)]  # fmt: skip
    print_fitted(screen, columns, [
        [printable(p.name), p.op, f"{p.outputs}x{p.inputs}", str(row["tiles"]), f"{p.entries:,}",
         f"{p.fillers / max(1, p.entries):.0%}", f"{row['fullest']:,}",
         "stay in SRAM" if p.resident else "loaded for each vector"]
        for row, p in zip(rows, lowered.programs, strict=True)
    ])  # fmt: skip
    for name, why in lowered.host.items():
        screen.print(f"host       {printable(name)}: {why}", highlight=False)
    screen.print(
        f"\n{size(len(content))} for {lowered.config.name}, codes of {lowered.config.code_bits} bits: {target}",
        highlight=False,
    )
