"""``eie bench``: kernels on made-up layers, and whole models, beside ONNX Runtime."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from eie.runtime.backends.base import ACTIVATIONS
from eie.runtime.backends.cpu import isas

from ..bench.cases import CASES
from ..bench.layers import Plan, Row
from ..bench.machine import describe
from ..bench.models import geometric_mean, measure
from ..bench.peers import SYSTEMS
from ..bench.timing import CLOCKS
from ..errors import UserError
from ..report.table import Column, console, print_fitted, size
from .common import Bars, Json, Threads, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Time kernels and models beside ONNX Runtime, and show the machine's limits.",
    rich_markup_mode=None,
)
_MOST_BATCH, _MOST_THREADS = 1024, 256
Clock = Annotated[str, typer.Option(help="wall, or cpu: time on the processor, for a machine that others use too.")]
Runs = Annotated[int, typer.Option(min=1, help="Timed runs of each; from memory a fifth of them.")]


def _names(text: str, known: Iterable[str], where: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is none of {', '.join(known)}", where=where)
    if not names:
        raise UserError("names nothing", where=where, hint=f"There are: {', '.join(known)}.")
    return names


def _clock(name: str, threads: int) -> str:
    if name not in CLOCKS:
        raise UserError(f"{name!r} is none of {', '.join(CLOCKS)}", where="--clock")
    if name == "cpu" and threads > 1:
        raise UserError("counts one thread, and there are more", where="--clock", hint="Leave out --threads")
    return name


@app.command("layers")
def layers(
    layer: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(CASES),
    batch: Annotated[str, typer.Option(help="Of the matrices, separated by commas.")] = "1",
    cache: Annotated[
        str, typer.Option(help="warm: weights are in the caches. cold: they come from memory.")
    ] = "warm,cold",
    pattern: Annotated[str, typer.Option(help="unstructured, balanced, block.")] = "unstructured,balanced,block",
    formats: Annotated[str, typer.Option(help="What is computed in: f32, i16, u8.")] = ",".join(ACTIVATIONS),
    isa: Annotated[str, typer.Option(help="Instruction sets, separated by commas; the best one when left out.")] = "",
    threads: Threads = 1,
    runs: Runs = 50,
    clock: Clock = "wall",
    other: Annotated[str, typer.Option("--with", help="Other systems to measure: openvino, deepsparse.")] = "",
    json: Json = False,
) -> None:
    """Time the kernels on the layers of the papers, beside ONNX Runtime's fp32, int8, 4-bit and 2-bit operators."""
    batches = tuple(int(b) for b in batch.split(",") if b.strip().isdecimal() and 1 <= int(b) <= _MOST_BATCH)
    if len(batches) < len(batch.split(",")):
        raise UserError(f"{batch!r} is no list of numbers from 1 to {_MOST_BATCH}", where="--batch")
    others = _names(other, SYSTEMS, "--with") if other else ()
    if threads > _MOST_THREADS:
        raise UserError(f"{threads} is more than {_MOST_THREADS}", where="--threads")
    found = isas()
    formats_ = [f for f in ACTIVATIONS if f in _names(formats, ACTIVATIONS, "--formats")]
    plan = Plan(
        _names(layer, CASES, "--layer"), batches, _names(cache, ("warm", "cold"), "--cache"),
        _names(pattern, ("unstructured", "balanced", "block"), "--pattern"), tuple(formats_),
        _names(isa, found, "--isa") if isa else (), threads, runs, others,
        _clock(clock, threads),
    )  # fmt: skip
    bars = Bars(verbose=not json)
    machine, rows = describe(), []
    if not json:
        _show_machine(machine)
    with bars.shown():
        bars.stage("layers", plan.steps())
        for group in plan.measure():
            rows += group
            bars.step(str(group[0]["layer"]))
            if not json:
                _show_group(group)
    if json:
        print_json({"machine": machine, "rows": rows})
    else:
        _show_means(rows)


@app.command("model")
def model(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="What `optimize` made.", show_default=False)],
    against: Annotated[Path, typer.Option(help="The model it was made from.", show_default=False)],
    int8: Annotated[Path | None, typer.Option(help="An int8 form of it, for ONNX Runtime.", show_default=False)] = None,
    input: Annotated[
        Path | None, typer.Option(help="An .npz with an array an input; made up when left out.", show_default=False)
    ] = None,
    threads: Threads = 1,
    runs: Runs = 50,
    clock: Clock = "wall",
    json: Json = False,
) -> None:
    """Time an artifact on each backend beside the model it was made from, and how long and how much memory loading takes."""
    rows = measure(artifact, against, int8=int8, input=input, threads=threads, runs=runs, clock=_clock(clock, threads))
    machine = describe()
    if json:
        print_json({"machine": machine, "rows": rows})
        return
    columns = [Column("system"), Column("us, median"), Column("p10 to p90", 2), Column("of original"), Column("load ms", 3),
               Column("load memory", 3), Column("file", 1)]  # fmt: skip
    print_fitted(console(), columns, [
        [row["system"], f"{row['median_us']:,.0f}", f"{row['p10_us']:,.0f} to {row['p90_us']:,.0f}",
         f"{row['median_us'] / rows[0]['median_us']:.2f}", f"{row['load_us'] / 1e3:,.0f}", size(row["load_peak_bytes"]),
         size(row["bytes"])] for row in rows
    ])  # fmt: skip


def _show_machine(machine: dict[str, Any]) -> None:
    limits = machine["limits"]
    screen = console()
    runtime = machine["versions"]["onnxruntime"]
    screen.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}; ONNX Runtime {runtime}", highlight=False
    )
    reads = ", ".join(f"{limits[f'read_{name}_gbs']:,.0f} GB/s from {text}" for name, text in
                      (("16k", "16 KB"), ("1m", "1 MB"), ("8m", "8 MB"), ("memory", "memory")))  # fmt: skip
    peaks = f"{limits['fma_gmacs']:,.0f} GMAC/s f32, {limits['dot_u8_gmacs']:,.0f} GMAC/s u8"
    screen.print(f"one core at most: {peaks}; reading {reads}\n", highlight=False)


def _best_peer(group: Sequence[Row]) -> Row:
    return min((row for row in group if row["system"] != "eie"), key=lambda row: row["median_us"])


def _show_group(group: Sequence[Row]) -> None:
    first, best = group[0], _best_peer(group)
    title = f"{first['layer']}, {first['pattern']} {first['density']:.0%}, batch {first['batch']}, {first['cache']}"
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    for column in ("system", "us, median", "p10 to p90", "over fp32", "over best", "B/non-zero", "GB/s"):
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    fp32 = next(row for row in group if row["system"] == "ort fp32")
    for row in group:
        ours = row["system"] == "eie"
        table.add_row(
            f"eie {row['isa']} {row['format']}" if ours else row["system"], f"{row['median_us']:,.1f}",
            f"{row['p10_us']:,.1f} to {row['p90_us']:,.1f}", f"{fp32['median_us'] / row['median_us']:.2f}",
            f"{best['median_us'] / row['median_us']:.2f}" if ours else "", f"{row['bytes_per_nonzero']:.2f}" if ours else "",
            f"{row['bytes'] / row['median_us'] / 1e3:.1f}" if ours else "",
        )  # fmt: skip
    console().print(table, highlight=False)
    console().print()


def means(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Geometric means, over layers, of how many times faster each of ours is than the best peer and than fp32, and the least."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["layer"], row["pattern"], row["density"], row["batch"], row["cache"]].append(row)
    best: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    fp32: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for group in groups.values():
        peer, base = _best_peer(group), next(row for row in group if row["system"] == "ort fp32")
        for row in group:
            if row["system"] == "eie":
                density = row["density"] if row["kind"] == "conv" else None
                what = row["kind"], row["pattern"], row["batch"], row["cache"], row["isa"], row["format"], density
                best[what].append(peer["median_us"] / row["median_us"])
                fp32[what].append(base["median_us"] / row["median_us"])
    return [
        dict(zip(("kind", "pattern", "batch", "cache", "isa", "format", "density"), what, strict=True))
        | {"layers": len(ratios), "over_best": geometric_mean(ratios), "least": min(ratios), "over_fp32": geometric_mean(fp32[what])}
        for what, ratios in best.items()
    ]  # fmt: skip


def _show_means(rows: Sequence[Row]) -> None:
    title = "geometric means over layers"
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    for column in ("what", "batch", "cache", "format", "layers", "over best", "least", "over fp32"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for mean in means(rows):
        density = f" {mean['density']:.0%}" if mean["density"] else ""
        table.add_row(
            f"{mean['kind']} {mean['pattern']}{density}", str(mean["batch"]), mean["cache"], f"{mean['isa']} {mean['format']}",
            str(mean["layers"]), f"{mean['over_best']:.2f}", f"{mean['least']:.2f}", f"{mean['over_fp32']:.2f}",
        )  # fmt: skip
    console().print(table, highlight=False)
