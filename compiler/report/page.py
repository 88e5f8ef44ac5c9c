"""The comparison as one page that opens offline: no scripts, plots drawn into it."""

from __future__ import annotations

import html
import math
import re
from typing import Any

from .plots import comparison_plots
from .table import decibels, elided, size

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 3rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; max-width: 46rem; }
.quiet { color: var(--quiet); }
.facts { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 1.2rem 0; }
.facts b { display: block; font-size: 1.6rem; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; align-items: start; }
figure { margin: .6rem 0; background: #fff; border-radius: .4rem; padding: .3rem; max-width: 38rem; }
figure svg { width: 100%; height: auto; display: block; }
"""


def page(found: dict[str, Any]) -> str:
    """HTML of what ``compare`` found."""
    base, ratio = found["base"], found["base"]["bytes"] / max(1, found["artifact_bytes"])
    facts = [("smaller", f"{ratio:.1f}x", f"{size(base['bytes'])} to {size(found['artifact_bytes'])}")]
    measured = {n: b for n, b in found["backends"].items() if n not in ("hardware", "reference")}
    if measured:
        name, best = min(measured.items(), key=lambda item: item[1]["latency_us"]["median"])
        facts.append((f"the original's time, {name}", f"{best['latency_us']['median'] / base['latency_us']['median']:.2f}",
                      f"{_us(base['latency_us']['median'])} to {_us(best['latency_us']['median'])}"))  # fmt: skip
    if found["hardware"]:
        total = found["hardware"]["total"]
        facts.append(
            (
                f"on {found['hardware']['config']}",
                _us(total["microseconds"]),
                f"{total['cycles']:,} cycles, {total['energy_uj']:,.1f} uJ",
            )
        )
    worst = min(b["sqnr_db"] for b in found["backends"].values())
    facts.append(("outputs, the farthest backend", decibels(worst), "signal over noise"))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>{_text(found['artifact'])}</title><style>{_STYLE}</style>",
        f"<h1>{_text(found['artifact'])}</h1><p class=quiet>compared with {_text(found['original'])} in ONNX Runtime; "
        f"input: {_text(found['input'])}</p>",
        "<div class=facts>" + "".join(f"<div>{_text(what)}<b>{_text(value)}</b><span class=quiet>{_text(more)}</span></div>"
                                      for what, value, more in facts) + "</div>",
        "<h2>Backends</h2>", _backends(found),
        "<p class=quiet>Latency: medians and quartiles of interleaved runs in one process; the accelerator's is its cycles at its "
        "clock. i16 is the accelerator's fixed point.</p>",
    ]  # fmt: skip
    for title, caption, drawings in comparison_plots(found):
        figures = "".join(f"<figure>{_inline(drawing)}</figure>" for drawing in drawings)
        parts.append(f"<h2>{_text(title)}</h2><p class=quiet>{_text(caption)}</p><div class=pair>{figures}</div>")
    parts += ["<h2>Layers</h2>", _layers(found)]
    return "\n".join(parts) + "\n"


def _backends(found: dict[str, Any]) -> str:
    head = (
        "backend",
        "activations",
        "largest difference",
        "RMS difference",
        "SQNR",
        "top-1",
        "latency",
        "of the original's",
        "cycles",
        "energy",
    )
    rows = []
    base = found["base"]["latency_us"]["median"]
    for name, b in found["backends"].items():
        differences = [o for o in b["outputs"] if "largest" in o]
        us = b["latency_us"]
        spread = "" if us["low"] == us["high"] else f" ({us['low']:,.0f}-{us['high']:,.0f})"
        rows.append((
            name, b["activations"], _number(max((o["largest"] for o in differences), default=0)),
            _number(max((o["rms"] for o in differences), default=0)), decibels(b["sqnr_db"]),
            "" if b["top1_agreement"] is None else f"{b['top1_agreement']:.1%}", f"{us['median']:,.0f} us{spread}",
            f"{us['median'] / base:.2f}", f"{b['cycles']:,}" if "cycles" in b else "",
            f"{b['energy_uj']:,.2f} uJ" if "energy_uj" in b else "",
        ))  # fmt: skip
    return _table(head, rows)


def _layers(found: dict[str, Any]) -> str:
    machine = {row["name"]: row for row in (found["hardware"] or {}).get("layers", [])}
    head = (
        "layer",
        "operator",
        "before",
        "after",
        "ratio",
        "kept",
        *(("cycles", "busy", "energy, uJ") if machine else ()),
    )
    rows = []
    for layer in found["layers"]:
        ran = machine.get(layer["name"])
        after = layer["bytes_after"]
        rows.append((
            elided(layer["name"], 48), layer["op"], size(layer["bytes_before"]), size(after) if after else "shared",
            f"{layer['bytes_before'] / after:.1f}x" if after else "", f"{layer['kept']:.0%}",
            *(() if not machine else (f"{ran['cycles']:,}", f"{ran['efficiency']:.0%}", f"{ran['energy_uj']:,.2f}") if ran
              else ("host", "", "")),
        ))  # fmt: skip
    return _table(head, rows)


def _table(head: Any, rows: Any) -> str:
    def line(cells: Any, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_text(c)}</{tag}>" for c in cells) + "</tr>"

    return "<div class=wide><table>" + line(head, "th") + "".join(line(r, "td") for r in rows) + "</table></div>"


def _inline(svg: bytes) -> str:
    """A drawing as part of the page: without the XML prologue and fixed size."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"|(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"',
                  lambda m: m[1] or f"{m[2]}{m[3]}", text, count=1)  # fmt: skip


def _us(value: float) -> str:
    return f"{value / 1000:,.2f} ms" if value >= 10_000 else f"{value:,.1f} us"


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _text(value: object) -> str:
    return html.escape(str(value))
