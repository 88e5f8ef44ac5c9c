"""``eie compare``: a model and its artifact, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eie.runtime import Session
from eie.runtime.backends import registry
from eie.runtime.hardware.config import Config

from ..errors import UserError
from ..files import check_writable, write_beside
from ..report.compare import compare
from ..report.page import page
from ..report.result import finite
from ..report.table import Column, console, decibels, print_fitted, printable, size
from .common import Bars, Json, ModelPath, one_input, print_json
from .lower import Machine

NAME = "compare"


def command(
    model: ModelPath,
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="What `optimize` made of it.", show_default=False)
    ],
    backends: Annotated[
        str, typer.Option(help="Which, separated by commas: ort, cpu, reference, hardware.")
    ] = "ort,cpu,reference,hardware",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--input",
            help="An .npz with arrays named after the inputs, of which the first sample is taken; made up when left out.",
            show_default=False,
        ),
    ] = None,
    config: Machine = "eie-64-45nm",
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 30,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Compare an artifact on several backends with the original in ONNX Runtime: differences, latency, cycles, energy, size."""
    names = [registry.find(name.strip()).name for name in backends.split(",") if name.strip()]
    if not names:
        raise UserError("names no backend", where="--backends")
    if html is not None:
        check_writable(html)
    machine = Config.load(config)
    bars = Bars(verbose=False)
    with bars.shown():
        bars.stage("compare", len(names))
        original = Session(model, "ort")
        feeds, what = one_input(model, data, lambda candidate: original.run(None, candidate))
        found = compare(model, artifact, list(dict.fromkeys(names)), feeds, runs=runs, config=machine, progress=bars)
        found["input"], found["made_up"] = what, data is None
    if html is not None:
        with write_beside(html) as stream:
            stream.write(page(found).encode())
    if json:
        print_json(finite(found))
        return
    _show(found)
    if html is not None:
        console().print(f"page       {html}", highlight=False)


def _show(found: dict[str, Any]) -> None:
    screen = console()
    base = found["base"]
    columns = [
        Column("backend"), Column("activations", 3), Column("largest", 2), Column("RMS", 4), Column("SQNR"), Column("top-1"),
        Column("latency us"), Column("of original"), Column("cycles", 5), Column("energy uJ", 5),
    ]  # fmt: skip
    us = base["latency_us"]
    rows = [["original", "", "", "", "", "", f"{us['median']:,.0f} ({us['low']:,.0f}-{us['high']:,.0f})", "1.00", "", ""]]
    for name, b in found["backends"].items():
        numbers = [o for o in b["outputs"] if "largest" in o]
        us = b["latency_us"]
        spread = "" if us["low"] == us["high"] else f" ({us['low']:,.0f}-{us['high']:,.0f})"
        rows.append([
            name, b["activations"], f"{max((o['largest'] for o in numbers), default=0):.3g}",
            f"{max((o['rms'] for o in numbers), default=0):.3g}", decibels(b["sqnr_db"]),
            "" if b["top1_agreement"] is None else f"{b['top1_agreement']:.0%}", f"{us['median']:,.0f}{spread}",
            f"{us['median'] / base['latency_us']['median']:.2f}", f"{b['cycles']:,}" if "cycles" in b else "",
            f"{b['energy_uj']:,.2f}" if "energy_uj" in b else "",
        ])  # fmt: skip
    print_fitted(screen, columns, rows)
    ratio = base["bytes"] / max(1, found["artifact_bytes"])
    screen.print(f"\ninput      {printable(found['input'])}", highlight=False)
    screen.print(
        f"size       {size(base['bytes'])} before, {size(found['artifact_bytes'])} after: {ratio:.1f} times smaller",
        highlight=False,
    )
    if found["hardware"]:
        screen.print(
            f"hardware   {found['hardware']['config']}: its latency is that of the machine, in i16", highlight=False
        )
