"""Plots, drawn with matplotlib, which is loaded only here."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from .table import elided

_COLORS = ("#3566a8", "#e0a030", "#5a9a5a", "#b8bcc4", "#b55555", "#775588", "#333333")
_QUIET = _COLORS[3]
_FORMATS = ("svg", "png", "pdf")


def sweep_plot(found: Sequence[dict[str, Any]], kind: str) -> bytes:
    """Cycles, busy share and energy over the first swept parameter, a line for each combination of the others.

    Raises:
        UserError: no such format.
    """
    figure, axes = _figure(3)
    names = list(found[0]["parameters"])
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for point in found:
        values = tuple(point["parameters"].values())
        lines.setdefault(values[1:], []).append(point)
    for others, members in lines.items():
        x = [p["parameters"][names[0]] for p in members]
        label = ", ".join(f"{n} = {v}" for n, v in zip(names[1:], others, strict=True))
        for axis, key in zip(axes, ("cycles", "efficiency", "energy_uj"), strict=True):
            axis.plot(x, [p["total"][key] for p in members], marker="o", markersize=3, label=label or None)
    numbers = all(isinstance(p["parameters"][names[0]], int | float) for p in found)
    for axis, title in zip(axes, ("cycles", "busy share of elements", "energy, uJ"), strict=True):
        axis.set_xlabel(names[0])
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if numbers and min(p["parameters"][names[0]] for p in found) > 0:
            axis.set_xscale("log", base=2)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1)
    if len(names) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return _drawn(figure, kind)


def sensitivity_plot(layers: Sequence[dict[str, Any]], kind: str) -> bytes:
    """Bits a weight over each layer's SQNR, a line a layer, and how much of each one's error reaches the outputs.

    Raises:
        UserError: no such format.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, max(4.0, 1.2 + 0.22 * len(layers))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for number, layer in enumerate(layers):
        weights = max(1, math.prod(layer["shape"]))
        points = [(p["sqnr_db"], 8 * p["bytes"] / weights) for p in layer["points"] if p["passes"] != "as it is"]
        front: list[tuple[float, float]] = []
        for sqnr, bits in sorted(p for p in points if math.isfinite(p[0]))[::-1]:  # the best first
            if not front or bits < front[-1][1]:
                front.append((sqnr, bits))
        color = colormaps["viridis"](number / max(1, len(layers) - 1))
        left.plot([p[0] for p in front], [p[1] for p in front], marker="o", markersize=2.5, linewidth=1, color=color)
    left.set_xlabel("SQNR of the layer's output, dB")
    left.set_ylabel("bits a weight")
    left.set_title("What each layer's error costs (first layer dark, last bright)", fontsize=10)
    left.set_xlim(0, 60)
    left.set_ylim(0, 10)
    left.grid(alpha=0.3)
    names = [_plain(elided(layer["name"], 30)) for layer in layers]
    reach = [10 * math.log10(max(layer["reach"], 1e-9)) for layer in layers]
    right.barh(range(len(layers)), reach, color=[colormaps["viridis"](k / max(1, len(layers) - 1)) for k in range(len(layers))])
    right.set_yticks(range(len(layers)), names, fontsize=7)
    right.invert_yaxis()
    right.set_title("How much of it reaches the outputs, dB", fontsize=10)
    right.grid(alpha=0.3, axis="x")
    return _drawn(figure, kind)


def _figure(columns: int, width: float = 4.2, height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, axes


def _drawn(figure: Any, kind: str) -> bytes:
    if kind not in _FORMATS:
        raise UserError(
            f"can't draw a {kind!r}", where="--plot", hint=f"Name a file that ends in .{', .'.join(_FORMATS)}"
        )
    held = io.BytesIO()
    figure.savefig(held, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return held.getvalue()


def comparison_plots(found: dict[str, Any]) -> list[tuple[str, str, list[bytes]]]:
    """What the page of a comparison shows: (title, caption, drawings as SVG)."""
    drawn = [_sizes(found["layers"])]
    hardware = found["hardware"]
    if hardware and hardware["layers"]:
        drawn += [_where_cycles_went(hardware), _loads(hardware), _energy(hardware)]
    return drawn


def _bars(names: Sequence[str], title: str) -> tuple[Any, Any]:
    """An axis with a row a layer, as wide as half a page: two stand beside each other, or below on a phone."""
    figure, (axis,) = _figure(1, 5.0, 1.1 + 0.2 * len(names))
    axis.set_yticks(range(len(names)), [_plain(elided(n, 26)) for n in names], fontsize=8)
    axis.invert_yaxis()
    axis.grid(alpha=0.3, axis="x")
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title(title, fontsize=9)
    return figure, axis


def _plain(text: str) -> str:
    """Text that matplotlib draws as it is: between dollars it would read mathematics."""
    return text.replace("$", r"\$")


def _stacked(names: Sequence[str], title: str, parts: dict[str, list[float]]) -> bytes:
    figure, axis = _bars(names, title)
    begin = [0.0] * len(names)
    for (part, values), color in zip(parts.items(), _COLORS, strict=False):
        axis.barh(range(len(names)), values, left=begin, color=color, label=part)
        begin = [b + v for b, v in zip(begin, values, strict=True)]
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return _drawn(figure, "svg")


def _sizes(layers: Sequence[dict[str, Any]]) -> tuple[str, str, list[bytes]]:
    names, places = [layer["name"] for layer in layers], range(len(layers))
    figure, axis = _bars(names, "kB of weights, before and after")
    axis.barh(places, [layer["bytes_before"] / 1e3 for layer in layers], color=_QUIET, label="before")
    axis.barh(places, [layer["bytes_after"] / 1e3 for layer in layers], color=_COLORS[0], height=0.5, label="after")
    axis.set_xscale("log")
    left = _drawn(figure, "svg")
    figure, axis = _bars(names, "% of weights kept")
    axis.barh(places, [100 * layer["kept"] for layer in layers], color=_COLORS[0])
    axis.set_xlim(0, 100)
    caption = "Bytes of each layer's weights as float32 and in the artifact (logarithmic), and how many are not zero."
    return "Size and density", caption, [left, _drawn(figure, "svg")]


def _where_cycles_went(hardware: dict[str, Any]) -> tuple[str, str, list[bytes]]:
    layers = hardware["layers"]
    names = [layer["name"] for layer in layers]
    kinds = {"compute": "compute", "io": "in and out", "load": "loading", "switch": "switch"}
    cycles = {label: [layer[f"{kind}_cycles"] / 1e3 for layer in layers] for kind, label in kinds.items()}
    shares = {"busy": [100 * layer["efficiency"] for layer in layers]}
    for cause in ("starved", "empty", "hazard", "idle"):
        shares[cause] = [
            100 * layer["stalls"][cause] / max(1, layer["entries_visited"]) * layer["efficiency"] for layer in layers
        ]
    caption = (
        "Cycles of each layer; and what elements did while it computed: worked on entries, waited for an activation, passed a "
        "column they hold nothing of (empty), or were done before the others (idle)."
    )
    drawn = [_stacked(names, "thousand cycles", cycles), _stacked(names, "% of the elements' cycles", shares)]
    return f"Cycles on {hardware['config']}", caption, drawn


def _loads(hardware: dict[str, Any]) -> tuple[str, str, list[bytes]]:
    loads = hardware["loads"]
    figure, axis = _bars(list(loads), "entries an element worked on, by the mean of its layer")
    grid = [[v / max(1.0, sum(row) / len(row)) for v in row] for row in loads.values()]
    shown = axis.imshow(grid, aspect="auto", cmap="coolwarm", vmin=0, vmax=2, interpolation="nearest")
    axis.set_xlabel("element", fontsize=8)
    axis.grid(visible=False)
    figure.colorbar(shown, ax=axis, shrink=0.8).ax.tick_params(labelsize=8)
    return "Load of each element", "1 is balanced; the slowest element sets the time.", [_drawn(figure, "svg")]


def _energy(hardware: dict[str, Any]) -> tuple[str, str, list[bytes]]:
    layers = hardware["layers"]
    modules = list(dict.fromkeys(m for layer in layers for m in layer["energy_by_module_uj"]))
    parts = {m: [layer["energy_by_module_uj"].get(m, 0.0) for layer in layers] for m in modules}
    caption = "By module, from the published power of each and the accesses counted here (docs/hardware.md)."
    return "Energy", caption, [_stacked([layer["name"] for layer in layers], "uJ", parts)]
