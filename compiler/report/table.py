"""What people read in a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..analysis.layers import LeftAlone
from .result import KINDS, LayerRow, Learnt, Result

_OTHERS = 130  # columns that everything but the layer's name takes
_FAR_DB = 10.0  # outputs that moved by a third of themselves: hardly the same model any more
_NAME = 24  # columns that names of layers get at least, where they need them
_GAP = 2  # columns between two of a table
_NARROW = 150  # columns below which the bytes by kind are left out of the table


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; 160 columns where the output goes elsewhere. It prints text as it is: names in
    models hold brackets and colons, which are no markup."""
    plain = Console(stderr=stderr, markup=False, emoji=False)
    return plain if plain.is_terminal else Console(stderr=stderr, width=160, markup=False, emoji=False)


def printable(name: str) -> str:
    """A name from a file, control characters written out: a terminal would obey them."""
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def size(count: float) -> str:
    """Bytes for people: 812 B, 26.2 kB, 1.07 MB (powers of ten, as file sizes are sold)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            value = count / scale
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    return f"{count:.0f} B"


def decibels(value: float) -> str:
    """A signal-to-noise ratio for people."""
    return "equal" if math.isinf(value) and value > 0 else f"{value:.1f} dB"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: over it.
        spare: 0 for what is always shown; on a narrow terminal columns with the largest number go first, those of the same number
            together.
        text: to the left, as words are; numbers stand to the right.
        footer: below it.
        dim: quieter than the others.
    """

    title: str
    spare: int = 0
    text: bool = False
    footer: str = ""
    dim: bool = False


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> tuple[Table, list[str]]:
    """A table that fits a terminal, and the titles of the columns that were left out for it.

    The first column holds names: it is folded where it is too long, but never below 24 columns (a table that shows no names says
    nothing); all others stay on one line.

    Args:
        width: of the terminal.
    """
    widest = [
        max(map(cell_len, (column.title, column.footer, *(row[i] for row in rows)))) for i, column in enumerate(columns)
    ]
    first = min(_NAME, widest[0])
    shown = set(range(len(columns)))

    def needed() -> int:
        return first + sum(widest[i] + _GAP for i in shown if i)

    while needed() > width and any(columns[i].spare for i in shown):
        least = max(columns[i].spare for i in shown)
        shown -= {i for i in shown if columns[i].spare == least}
    footers = any(c.footer for c in columns)
    table = Table(box=None, pad_edge=False, show_footer=footers, header_style="bold", footer_style="bold")
    for i in sorted(shown):
        column = columns[i]
        table.add_column(
            column.title, footer=column.footer, justify="left" if column.text or i == 0 else "right",
            style="dim" if column.dim else "", no_wrap=i > 0, overflow="fold" if i == 0 else "ellipsis",
            min_width=first if i == 0 else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*(row[i] for i in sorted(shown)))
    return table, [c.title for i, c in enumerate(columns) if i not in shown]


def print_fitted(screen: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the screen, and what it had no room for."""
    table, missing = fitted(columns, rows, screen.width)
    screen.print(table, highlight=False)
    if missing:
        screen.print(f"no room for: {', '.join(missing)} (a wider terminal, or --json)", style="dim", highlight=False)


def layer_table(rows: Sequence[LayerRow], width: int, *, full: bool = False) -> Table:
    """A row a compressed weight, totals below; long names are cut short unless ``full``."""
    before, after = sum(r.bytes_before for r in rows), sum(r.bytes_after for r in rows)
    weights = sum(math.prod(r.shape) for r in rows)
    kept = sum(r.kept * math.prod(r.shape) for r in rows) / max(1, weights)
    wide = width >= _NARROW
    columns = [
        Column("layer", footer=f"{len(rows)} weight{'s' * (len(rows) != 1)}"),
        Column("operator", 3, text=True),
        Column("shape", 4, text=True),
        Column("kept", footer=f"{kept:.0%}"),
        Column("bits", 1),
        Column("before", 2, footer=size(before)),
        Column("after", footer=size(after)),
        Column("ratio", footer=f"{before / after:.1f}x" if after else ""),
    ]
    if wide:
        columns += [Column(kind, footer=size(sum(r.bytes_by_kind[kind] for r in rows)), dim=True) for kind in KINDS]
    columns += [Column("error"), Column("runs", text=True)]
    cells = []
    for row in rows:
        kinds = [size(row.bytes_by_kind[kind]) if row.bytes_by_kind[kind] else "" for kind in KINDS] if wide else []
        cells.append([
            printable(row.name) if full else elided(row.name, max(24, min(36, width - (_OTHERS if wide else 76)))),
            row.op,
            "x".join(map(str, row.shape)),
            f"{row.kept:.0%}",
            str(row.bits),
            size(row.bytes_before),
            size(row.bytes_after),
            f"{row.bytes_before / max(1, row.bytes_after):.1f}x",
            *kinds,
            f"{row.error:.1%}" if row.error else "0",
            _runs(row),
        ])  # fmt: skip
    return fitted(columns, cells, width)[0]


def _runs(row: LayerRow) -> str:
    """How a layer will run on the cpu backend; packed: and the speed-up expected over dense."""
    return "dense" if row.verdict.dense else f"packed {row.verdict.speedup:.1f}x" if row.verdict.speedup else "packed"


def elided(name: str, most: int = 36) -> str:
    """A name that exporters made too long for a table: of several joined by semicolons the first, of that the end.
    `eie layers` and -v have all of it."""
    first = printable(name.split(";")[0])
    return first if len(first) <= most else f"...{first[len(first) - most + 3 :]}"


def left_alone(items: Sequence[LeftAlone], *, every: bool) -> RenderableType | None:
    """Which constants stay as they are, and why: grouped by reason, or each of them."""
    if not items:
        return None
    reasons: dict[str, list[LeftAlone]] = {}
    for item in items:
        reasons.setdefault(item.why, []).append(item)
    lines = []
    for why, group in sorted(reasons.items(), key=lambda pair: -sum(i.bytes for i in pair[1])):
        shown = group if every else group[:3]
        names = ", ".join(f"{printable(i.name) if every else elided(i.name)} ({i.op})" for i in shown) + (
            f" and {len(group) - len(shown)} more" if len(group) > len(shown) else ""
        )
        lines.append(Text.assemble(("  " + names, "dim"), f": {why}; {size(sum(i.bytes for i in group))}"))
    return Group(Text("left alone", style="bold"), *lines)


def reasons(rows: Sequence[LayerRow], *, every: bool) -> RenderableType | None:
    """Why each kernel was chosen: one example a kernel and reason, or every layer."""
    if not rows:
        return None
    shown: dict[str, LayerRow] = {}
    for row in rows:
        kind = re.sub(r"[\d.]+", "", row.verdict.why)  # the same reason with other numbers
        shown.setdefault(row.name if every else f"{row.verdict.kernel}: {kind}", row)
    lines = [
        Text.assemble(
            ("  " + (printable(row.name) if every else row.verdict.kernel), "dim"),
            f": {row.verdict.why}",
            "" if every else (f" ({elided(row.name)})", "dim"),
        )
        for row in shown.values()
    ]
    return Group(Text("kernels", style="bold"), *lines)


def _learnt(learnt: Learnt, counted: bool) -> Iterable[RenderableType]:
    """What training came to: a line a phase; and accuracy on validation data where none was ``counted`` on other data."""
    last = next((e for e in reversed(learnt.epochs) if e.kept), None)
    if not counted and learnt.right_before is not None and last is not None and last.held_right is not None:
        yield (
            f"accuracy   {learnt.right_before:.2%} before, {last.held_right:.2%} after training on {learnt.held:,} samples held back, "
            "on which epochs were chosen (--data counts on others)"
        )
    before = f", {learnt.right_before:.2%} of these right before" if learnt.right_before is not None else ""
    yield f"training   on {learnt.samples:,} samples by {learnt.loss}, {learnt.held:,} held back for validation{before}"
    for name, epochs in groupby(learnt.epochs, key=lambda e: e.phase):
        all_of = list(epochs)
        kept = next((str(e) for e in all_of if e.kept), "what it began with: none was better")
        yield f"           {printable(name)}: {len(all_of)} epochs, {sum(e.seconds for e in all_of):.0f} s, kept {kept}"

    for name, why in list(learnt.frozen.items())[:3]:
        yield Text(f"           {elided(name)} was not trained: {why}", style="yellow")


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"


def hanging(part: RenderableType) -> RenderableType:
    """A part of a report for a screen: what does not fit into a line of a word and what is said of it goes on below what is said."""
    text = Text(part) if isinstance(part, str) else part
    if not isinstance(text, Text) or not re.match(r"[a-z ]{9}  \S", text.plain):
        return part
    grid = Table.grid()
    grid.add_column(width=11, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(text[:11], text[11:])
    return grid


def _rightness(result: Result) -> Iterable[RenderableType]:
    """How right the artifact still is, and what training and promises have to do with it."""
    compressed = sum(math.prod(r.shape) * 4 for r in result.layers)
    plain = sum(i.bytes for i in result.left_alone)
    layers = f"{len(result.layers)} compressed layer{'s' * (len(result.layers) != 1)}"
    yield f"coverage   {compressed / max(1, compressed + plain):.1%} of the weights are in {layers}"
    kind = "samples of made-up input" if result.made_up else "of the given samples"
    agreement = "" if result.verify.top1_agreement is None else f", top-1 agrees on {result.verify.top1_agreement:.1%}"
    apart = "equal to" if math.isinf(result.verify.sqnr_db) else f"{decibels(result.verify.sqnr_db)} from"
    worst = (
        f" (output {elided(result.verify.worst)})"
        if result.verify.worst and len(result.model.graph.outputs) > 1
        else ""
    )
    or_nearer = "" if math.isinf(result.verify.sqnr_db) or result.verify.samples < 4 else " or nearer on three quarters of"
    yield f"outputs    {apart} the original's{or_nearer or ' on'} {result.verify.samples} {kind}{worst}{agreement}"
    if result.accuracy:
        a = result.accuracy
        low, high = (100 * end for end in a.interval_change)
        which = "" if a.held_back and a.samples == a.given else f" held back of {a.given:,}" if a.held_back else " it was chosen on"
        yield (
            f"accuracy   {a.before:.2%} before ({_interval(a.interval_before)}), {a.after:.2%} after ({_interval(a.interval_after)}): "
            f"{(a.after - a.before) * 100:+.2f} points ({low:+.2f} to {high:+.2f}) on {a.samples:,} samples{which}"
        )
        if result.learnt and high < 0:
            yield Text(
                f"warning    accuracy fell by {-high:.2f} to {-low:.2f} points: compress less, or train longer ([train] epochs)",
                style="yellow",
            )
    if result.learnt:
        yield from _learnt(result.learnt, counted=result.accuracy is not None)
    for name, what in result.folded.items():
        yield f"folded     {elided(name)}: {what}"
    if result.promised and result.promised.reading and not result.missed:
        count = result.promised.samples
        which = "samples" if count > 1 else "sample"
        held = " held back" if result.promised.held_back else " of made-up input" if result.made_up else " it was chosen on"
        few = "; too few to say more of others" if count < 4 and not result.made_up else ""
        yield f"promise    kept on {count:,} {which}{held}: {result.promised.reading.text}{few}"


def _sizes(result: Result, path: str) -> Iterable[RenderableType]:
    """What weights and the file took, and take."""
    yield f"weights    {size(result.weight_bytes_before)} before, {size(result.weight_bytes_after)} after"
    for asked, reached in result.budgeted:
        yield f"ratio      compressed weights take {reached:.3g} times fewer bytes, {asked:g} times asked for"
    if result.output_bytes:
        yield Text.assemble(
            ("file       ", "bold"),
            (
                f"{size(result.input_bytes)} before, {size(result.output_bytes)} after: "
                f"{result.ratio:.1f} times smaller",
                "bold",
            ),
            f"   {path}",
        )
        if result.output_bytes >= result.input_bytes:
            yield Text("the artifact is no smaller than the model: what it holds was compact already", style="yellow")


def report(result: Result, path: str, *, verbose: bool, width: int) -> Iterable[RenderableType]:
    """The whole answer of ``optimize``: table, what was left alone, totals, and how right it still is."""
    if result.layers:
        yield layer_table(result.layers, width, full=verbose)
        if width < _NARROW:
            yield "of these: " + ", ".join(f"{size(sum(r.bytes_by_kind[k] for r in result.layers))} {k}" for k in KINDS)
        yield ""
        chosen = reasons(result.layers, every=verbose)
        if chosen:
            yield chosen
    alone = left_alone(result.left_alone, every=verbose)
    if alone:
        yield alone
    if verbose and result.notes:
        yield Text("reconstruction", style="bold")
        for name, note in result.notes.items():
            yield Text(f"  {printable(name)}: {note}")
    unknown = [name for name, note in result.notes.items() if "white" in note]
    if unknown and not verbose and not result.made_up:
        some = ", ".join(elided(name) for name in unknown[:3]) + ", ..." * (len(unknown) > 3)
        yield f"inputs of {len(unknown)} layers could not be seen, and were taken to be white: {some} (-v says why)"
    if verbose:
        yield Text("passes", style="bold")
        for step in result.steps:
            moved = decibels(step.fidelity.sqnr_db) if step.fidelity else "outputs as before"
            yield Text(f"  {step.name}: {step.seconds:.2f} s, {moved}")
    yield ""
    yield from _rightness(result)
    yield from _sizes(result, path)
    if result.closed_inputs:
        some = ", ".join(elided(name) for name in result.closed_inputs[:3]) + ", ..." * (len(result.closed_inputs) > 3)
        yield f"inputs     {len(result.closed_inputs)} that had a default value are constants now and can't be fed: {some}"
    if result.untrained:
        names = ", ".join(dict.fromkeys(result.untrained))
        yield Text(f"untrained  no training data (--train): {names} did what can be done without", style="yellow")
    if result.verify.sqnr_db < _FAR_DB and result.learnt is None:
        yield Text(
            "warning    the outputs are far from the original's: this takes "
            + (
                "retraining, or a milder recipe"
                if result.recipe.activations == "f32"
                else "f32 activations, or a milder recipe"
            ),
            style="yellow",
        )
    if result.missed:
        yield Text(f"missed     {result.missed}", style="yellow")
