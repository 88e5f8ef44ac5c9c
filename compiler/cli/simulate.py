"""``eie simulate``: a model on the accelerator, or on many."""

from __future__ import annotations

import csv
import io
import json as text_json
from pathlib import Path
from typing import Annotated, Any

import typer

from eie.runtime import Session
from eie.runtime.artifact import eie_nodes
from eie.runtime.backends.hardware import HardwareBackend
from eie.runtime.errors import nearest
from eie.runtime.hardware.config import Config
from eie.runtime.hardware.trace import trace_events
from eie.runtime.modelfile import load_model

from ..data import Feeds
from ..errors import ModelError, UserError
from ..files import check_writable, write_beside
from ..ir.reader import read
from ..ir.writer import to_proto
from ..pipeline import optimize
from ..report.hardware import of_backend
from ..report.plots import sweep_plot
from ..report.table import Column, console, elided, print_fitted, printable
from ..sweep import points, run_points
from .common import Bars, Json, ModelPath, one_input, print_json
from .lower import Machine

NAME = "simulate"
_AT_ONCE = 1 << 20  # an array that is one batch is simulated whole: how vectors share a machine is what is looked at


def command(
    model: ModelPath,
    config: Machine = "eie-64-45nm",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--input",
            help="An .npz with arrays named after the inputs; of a stack of inputs the first. Made up when left out.",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Values of a parameter: fifo=1,2,4,8 or pe=1..256 (doubling). Several are combined.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes of a sweep; -1 for one a core.")] = 1,
    dask: Annotated[
        str | None, typer.Option(help="A Dask scheduler instead: tcp://host:8786.", show_default=False)
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="JSON lines that a sweep appends to, and resumes from.", show_default=False)
    ] = None,
    to_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a sweep's table here.", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a sweep here (.svg, .png, .pdf).", show_default=False)] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write queues and elements over time here, for Perfetto.", show_default=False)
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Which layer is traced; the first when left out.", show_default=False)
    ] = None,
    window: Annotated[str, typer.Option(help="Which of its cycles.")] = "0:2000",
    json: Json = False,
) -> None:
    """Run a model on the accelerator's cycle model: cycles, stalls, energy of every layer; sweep its parameters."""
    machine = Config.load(config)
    for path in (results, to_csv, plot, trace):
        if path is not None:
            check_writable(path)
    if (to_csv or plot or results) and not sweep:
        raise UserError("there is no sweep to write", where="--csv, --plot, --results", hint="Add --sweep fifo=1,2,4,8")
    if trace is not None and sweep:
        raise UserError("one machine is traced, not a sweep", where="--trace")
    if jobs < 1 and jobs != -1:
        raise UserError(f"must be a positive number, or -1, not {jobs}", where="--jobs")
    machines = points(machine, sweep or [])
    bars = Bars(verbose=False)
    with bars.shown():
        artifact, feeds, what = _ready(model, data, bars)
        if sweep:
            bars.stage("sweep", len(machines))
            found = run_points(artifact, feeds, machines, jobs=jobs, dask=dask, results=results, progress=bars)
        else:
            bars.stage("simulate", 0)
            backend = HardwareBackend(machine, *_watched(artifact, layer, window) if trace is not None else ())
            Session(artifact, backend).run(None, feeds)
            one = of_backend(backend)
    if sweep:
        _show_sweep(found, to_csv, plot, json)
        if not json:
            _written(table=to_csv, plot=plot, results=results)
        return
    if trace is not None:
        _write_trace(trace, backend, layer)
    if json:
        print_json({**one, "input": what})
    else:
        _show(one, machine, what)
        _written(trace=trace)


def _written(**paths: Path | None) -> None:
    for what, path in paths.items():
        if path is not None:
            console().print(f"{what:<10} {path}", highlight=False)


def _ready(model: Path, data: Path | None, bars: Bars) -> tuple[bytes, Feeds, str]:
    """The artifact's bytes, made by the default recipe where a plain model is given, input it runs on, and what that is."""
    proto = load_model(model)
    if not any(True for _ in eie_nodes(proto)):
        result = optimize(model, progress=bars)
        if not result.layers:
            raise ModelError("has no weights that can be compressed", where=str(model), hint="`eie layers` says why.")
        artifact = to_proto(result.model).SerializeToString()
    else:
        artifact = model.read_bytes() if not any(t.external_data for t in proto.graph.initializer) else to_proto(
            read(model)).SerializeToString()  # fmt: skip
    session = Session(artifact, "cpu")
    feeds, what = one_input(model, data, lambda candidate: session.run(None, candidate), batch=_AT_ONCE)
    return artifact, feeds, what


def _watched(artifact: bytes, layer: str | None, window: str) -> tuple[tuple[int, int], list[str]]:
    first, colon, last = window.partition(":")
    if not colon or not first.isdigit() or not last.isdigit() or not int(first) < int(last) < 1 << 62:
        raise UserError(f"{window!r} is no window", where="--window", hint="For example: --window 0:2000")
    names = [node.name for node in eie_nodes(load_model(artifact))]
    if layer is not None and layer not in names:
        raise UserError(f"no layer is called {layer!r}", where="--layer", hint=nearest(layer, names))
    return (int(first), int(last)), [layer] if layer is not None else names


def _write_trace(path: Path, backend: HardwareBackend, layer: str | None) -> None:
    name = layer or next((n for n, cost in backend.costs.items() if cost.events), None)
    if name is None or name not in backend.costs or not backend.costs[name].events:
        raise UserError(
            "nothing happens in that window", where="--window", hint="The layer may be shorter, or run on the host"
        )
    drawn = trace_events(backend.costs[name].events, backend.machines[name], name)
    with write_beside(path) as stream:
        stream.write(text_json.dumps(drawn).encode())


def _show(found: dict[str, Any], config: Config, what: str) -> None:
    screen = console()
    total = found["total"]
    columns = [
        Column("layer", footer=f"{len(found['layers'])} layers"),
        Column("cycles", footer=f"{total['cycles']:,}"),
        Column("us", footer=f"{total['microseconds']:,.1f}"),
        Column("compute", 1, footer=f"{total['compute_cycles']:,}"),
        Column("in and out", 2, footer=f"{total['io_cycles']:,}"),
        Column("loading", 3, footer=f"{total['load_cycles']:,}"),
        Column("vectors", 6),
        Column("busy", footer=f"{total['efficiency']:.0%}"),
        Column("fillers", 5),
        Column("blocked", 4),
        Column("starved", 4),
        Column("idle", 4),
        Column("energy uJ", footer=f"{total['energy_uj']:,.2f}"),
    ]
    rows = []
    for row in found["layers"]:
        stalled, every = row["stalls"], max(1, row["compute_cycles"] * config.processing_elements)
        rows.append([
            elided(row["name"], 40), f"{row['cycles']:,}", f"{row['microseconds']:,.1f}", f"{row['compute_cycles']:,}",
            f"{row['io_cycles']:,}", f"{row['load_cycles']:,}", f"{row['vectors']:,}", f"{row['efficiency']:.0%}",
            f"{row['fillers_visited'] / max(1, row['entries_visited']):.0%}", f"{stalled['blocked']:,}",
            f"{(stalled['starved'] + stalled['empty']) / every:.0%}", f"{stalled['idle'] / every:.0%}", f"{row['energy_uj']:,.2f}",
        ])  # fmt: skip
    print_fitted(screen, columns, rows)
    channels = f"{config.channels} channels of " * (config.channels > 1)
    area = f", {total['area_mm2']:.1f} mm2" * (total["area_mm2"] > 0)
    screen.print(f"\n{config.name}: {channels}{config.processing_elements} elements at {config.clock_mhz:g} MHz, "
                 f"{total['power_mw']:,.0f} mW mean{area}; input: {printable(what)}", highlight=False)  # fmt: skip


def _show_sweep(found: list[dict[str, Any]], to_csv: Path | None, plot: Path | None, json: bool) -> None:
    columns = ("cycles", "microseconds", "efficiency", "energy_uj", "power_mw", "area_mm2")
    names = list(found[0]["parameters"])
    rows = [[*point["parameters"].values(), *(point["total"][c] for c in columns)] for point in found]
    if to_csv is not None:
        held = io.StringIO()
        writer = csv.writer(held)
        writer.writerows([[*names, *columns], *rows])
        with write_beside(to_csv) as stream:
            stream.write(held.getvalue().encode())
    if plot is not None:
        with write_beside(plot) as stream:
            stream.write(sweep_plot(found, plot.suffix.lstrip(".") or "svg"))
    if json:
        print_json({"points": found})
        return
    n = len(names)
    print_fitted(
        console(),
        [*map(Column, names), Column("cycles"), Column("us"), Column("busy", 1), Column("energy uJ"), Column("power mW", 2),
         Column("area mm2", 2)],
        [[*(f"{v:g}" if isinstance(v, float) else str(v) for v in row[:n]), f"{row[n]:,}", f"{row[n + 1]:,.1f}",
          f"{row[n + 2]:.1%}", f"{row[n + 3]:,.2f}", f"{row[n + 4]:,.0f}", f"{row[n + 5]:.1f}"] for row in rows],
    )  # fmt: skip
