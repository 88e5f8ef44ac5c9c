"""``eie sensitivity``: what compressing each layer costs and brings, at several densities and bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ..analysis.calibration import Calibration
from ..analysis.fidelity import decibels as in_decibels
from ..analysis.judge import Judge
from ..analysis.layers import Layer, find_layers
from ..errors import UserError
from ..files import check_writable, write_beside
from ..ir.reader import read
from ..passes.base import parse_pipeline
from ..passes.canonicalize import Canonicalize
from ..pipeline import planned
from ..recipe import Budget, Recipe
from ..report.plots import sensitivity_plot
from ..report.result import finite
from ..report.table import Column, console, print_fitted, printable
from ..run import designed_too
from ..search.choose import curves_of, point_text
from ..search.curves import Cache, Curve, Point, grid_of
from .common import Bars, Json, ModelPath, print_json, read_plain, shapes
from .promises import Cached, Dask, Jobs, Samples

NAME = "sensitivity"
_TARGETS = (40, 30, 20, 10)  # dB of a layer's output, in the table


def command(
    model: ModelPath,
    data: Annotated[Path | None, typer.Option(help="Samples: an .npz with arrays named after the inputs; made up when left out.",
                                              show_default=False)] = None,
    passes: Annotated[
        str, typer.Option("-p", "--passes", help='What is run on each layer: "reconstruct,encode" or "sparsify,cluster,encode".')
    ] = "reconstruct,encode",
    density: Annotated[
        str, typer.Option(help="Densities, separated by commas; with --bits each is tried with each.")
    ] = "1,0.5,0.25,0.1",
    bits: Annotated[str, typer.Option(help="Bits of a code, separated by commas.")] = "2,3,4,6",
    samples: Samples = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Shape of made-up input: name:1,3,224,224.", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves here: .svg, .png or .pdf.", show_default=False)] = None,
    cached: Cached = True,
    jobs: Jobs = 1,
    dask: Dask = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Run the real passes on each layer alone: output error, bytes, expected time, and how far the error reaches."""
    if plot is not None:
        check_writable(plot)
    grid = grid_of(_numbers(density, "--density", 0, 1), [int(b) for b in _numbers(bits, "--bits", 1, 8)])
    recipe = Recipe(
        name="--passes", passes=tuple(parse_pipeline(passes)), budget=Budget(samples=samples or (256 if data else 16))
    )
    recipe = planned(recipe, data is not None)
    bars = Bars(verbose=False)
    with bars.shown():
        bars.stage("read", 0)
        original, working = read(model), read_plain(model, "Give the model it was made from.")
        assert recipe.budget is not None
        judge = Judge(original, data, shapes(shape or []), recipe.budget.samples, 0)
        Canonicalize().run(working)
        layers, _ = find_layers(working, designed_too(recipe, judge))
        feeds = judge.feeds(judge.calibrate)
        calibration = Calibration(feeds) if judge.made_up else Calibration.planned(working, layers, feeds)
        bars.stage("layers", len(layers))
        curves = curves_of(working, layers, judge, recipe, calibration, cache=Cache() if cached else None, jobs=jobs, dask=dask,
                           grid=grid, progress=bars.step)  # fmt: skip
    if plot is not None:
        drawn = sensitivity_plot(
            [_json(la, c) for la, c in zip(layers, curves, strict=True)], plot.suffix.lstrip(".") or "svg"
        )
        with write_beside(plot) as stream:
            stream.write(drawn)
    if json:
        print_json(
            finite({"layers": [_json(la, c) for la, c in zip(layers, curves, strict=True)], "made_up": judge.made_up})
        )
        return
    _show(layers, curves)
    if plot is not None:
        console().print(f"plot       {plot}", highlight=False)


def _numbers(text: str, where: str, low: float, high: float) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or not all(low <= value <= high and value > 0 for value in found):
        raise UserError(f"can't read {text!r}", where=where, hint=f"Numbers up to {high:g}, separated by commas.")
    return found


def _json(layer: Layer, curve: Curve) -> dict[str, Any]:
    return {
        "name": layer.name, "op": layer.op, "shape": list(layer.shape), "bytes": layer.constant.nbytes, "inputs_seen": curve.rows,
        "reach": curve.reach,
        "points": [
            {"passes": point_text(p), "sqnr_db": in_decibels(p.noise), "bytes": p.bytes, "us": p.us, "kept": p.kept, "bits": p.bits}
            for p in curve.points
        ],
    }  # fmt: skip


def _show(layers: list[Layer], curves: list[Curve]) -> None:
    screen = console()
    columns = [
        Column("layer"), Column("operator", 3, text=True), Column("shape", 2), Column("reach", 1), *(Column(f"{t} dB") for t in _TARGETS),
        Column("dense us", 4), Column("best us", 4),
    ]  # fmt: skip
    rows = []
    for layer, curve in zip(layers, curves, strict=True):
        dense, fastest = curve.points[-1].us, min(p.us for p in curve.points)
        rows.append([
            printable(layer.name), layer.op, "x".join(map(str, layer.shape)),
            f"{10 * math.log10(curve.reach):+.0f} dB" if curve.reach > 0 else "", *(_cheapest(layer, curve, t) for t in _TARGETS),
            f"{dense:.1f}" if dense else "", f"{fastest:.1f}" if fastest else "",
        ])  # fmt: skip
    print_fitted(screen, columns, rows)
    screen.print(
        "\nN dB: bits a weight, and the share of weights kept, of the smallest form whose output keeps N dB. reach: how much of a layer's "
        "error arrives at the model's outputs. --json has every point, --plot draws them.", highlight=False, soft_wrap=True,
    )  # fmt: skip


def _cheapest(layer: Layer, curve: Curve, target: float) -> str:
    good: list[Point] = [p for p in curve.points if in_decibels(p.noise) >= target and not p.plain]
    if not good:
        return "-"
    best = min(good, key=lambda p: p.bytes)
    return f"{8 * best.bytes / max(1, layer.size):.1f} {best.kept:.0%}"
