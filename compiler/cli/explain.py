"""``eie explain``: which layer, in which pass, cost how much of the error, and the recipe lines that spare it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ..analysis.calibration import Calibration
from ..analysis.explain import Became, Cause, became, changed, explain
from ..analysis.fidelity import decibels as in_decibels
from ..analysis.judge import Judge
from ..analysis.layers import Layer, find_layers
from ..analysis.undo import undone
from ..data import Feeds
from ..errors import UserError
from ..ir.graph import Model
from ..ir.reader import read
from ..passes.canonicalize import Canonicalize
from ..passes.encode import Encode
from ..recipe import Budget, Recipe, presets
from ..report.result import finite
from ..report.table import Column, console, decibels, print_fitted, printable
from ..run import designed_too, transform
from .common import Bars, Json, ModelPath, print_json, read_plain
from .promises import Samples

NAME = "explain"
_SPARED = 3  # layers whose recipe lines are printed, at most
_MOST = 0.5  # of the error: the layers that carry as much are worth sparing


def command(
    model: ModelPath,
    artifact: Annotated[
        Path,
        typer.Argument(metavar="ARTIFACT", help="What `optimize` made of it, or a recipe: a TOML file or a preset.", show_default=False),
    ],
    data: Annotated[Path | None, typer.Option(help="Samples: an .npz with arrays named after the inputs; made up when left out.",
                                              show_default=False)] = None,
    samples: Samples = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Say which layer, in which pass, cost how much of the outputs' error, and how to spare it."""
    bars = Bars(verbose=False)
    with bars.shown():
        bars.stage("read", 0)
        original, working = read(model), read_plain(model, "Give the model it was made from first, then the artifact.")
        judge = Judge(original, data, None, samples or (64 if data is not None else 16), 0)
        Canonicalize().run(working)
        layers, _ = find_layers(working, lambda name: True)
        found = _became(working, layers, artifact, judge)
        bars.stage("explain", len(found))
        whole, causes = explain(working, layers, found, judge, bars.step)
    if json:
        print_json(finite({
            "error": whole, "sqnr_db": in_decibels(whole), "samples": len(judge.check), "held_back": judge.held_back,
            "made_up": judge.made_up, "layers": [c.json() for c in causes],
        }))  # fmt: skip
        return
    _show(whole, causes, judge)


def _became(model: Model, layers: list[Layer], artifact: Path, judge: Judge) -> dict[str, Became]:
    if artifact.suffix == ".toml" or str(artifact) in presets():
        recipe = Recipe.load(str(artifact))
        taken = {la.constant for la in find_layers(model, designed_too(recipe, judge))[0]}
        layers = [la for la in layers if la.constant in taken]
        recipe.check(layers)
        feeds: list[Feeds] = [] if judge.made_up else judge.feeds(judge.calibrate)
        calibration = Calibration.planned(model, layers, feeds, (recipe.budget or Budget()).seed)
        with undone(model):
            for step in recipe.passes:
                if not isinstance(step, Canonicalize | Encode):
                    transform(step, model, layers, recipe, calibration)
            found = changed(layers)
        if not found:
            raise UserError("the recipe compresses no layer of this model", where=str(artifact))
        return found
    return became(read(artifact), layers)


def _show(whole: float, causes: list[Cause], judge: Judge) -> None:
    screen = console()
    columns = [Column("layer"), Column("operator", 1, text=True), Column("kept", 2), Column("bits", 2), Column("alone"),
               Column("of all"), Column("zeros only", 3), Column("spared")]  # fmt: skip
    total = sum(c.alone for c in causes if math.isfinite(c.alone)) or 1.0
    print_fitted(screen, columns, [
        [printable(c.layer), c.op, f"{c.kept:.0%}", str(c.bits), decibels(in_decibels(c.alone)), f"{c.alone / total:.0%}",
         decibels(in_decibels(c.pruning)), _gain(whole, c.spared)] for c in causes
    ])  # fmt: skip
    held = " held back" if judge.held_back else ""
    kind = "samples of made-up input" if judge.made_up else f"samples{held}"
    lines: list[Any] = [
        f"\noutputs    {decibels(in_decibels(whole))} on {len(judge.check)} {kind}, as all decibels above; "
        "alone: each layer changed by itself; zeros only: pruned as it was, its other weights unchanged (sharing adds the rest, or "
        "makes up for it); spared: what the outputs gain when it is left as it was"
    ]
    worst = _worst(causes)
    if worst:
        share = "" if any(not math.isfinite(c.alone) for c in worst) else f", {sum(c.alone for c in worst) / total:.0%} of the error"
        which = "the worst layer" if len(worst) == 1 else f"the {len(worst)} worst layers"
        lines.append(f"\nTo spare {which}{share}, add to the recipe (the last rule that matches wins):\n")
        lines += [c.rule() + "\n" for c in worst]
    for line in lines:
        screen.print(line, highlight=False, soft_wrap=True)


def _worst(causes: list[Cause]) -> list[Cause]:
    """The layers that carry half of the error, at most three; none where that is all of them: a recipe without them
    compresses nothing."""
    total = sum(c.alone for c in causes)
    found: list[Cause] = []
    for cause in causes[:_SPARED]:  # the largest first
        if cause.alone <= 0 or sum(c.alone for c in found) >= _MOST * total:
            break
        found.append(cause)
    return found if len(found) < len(causes) else []


def _gain(whole: float, spared: float) -> str:
    if whole <= 0 or not math.isfinite(whole) or not math.isfinite(spared):
        return ""
    left = whole - spared
    return "all" if left <= 0 else f"{10 * math.log10(whole / left):+.1f} dB"
