"""``eie optimize``: the main job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..files import check_writable, write_beside
from ..ir.writer import writing
from ..passes.base import parse_pipeline
from ..pipeline import optimize
from ..recipe import DEFAULT, WITH_DATA, Recipe, presets
from ..report.result import Result
from ..report.table import console, hanging, report
from .common import Bars, Format, Json, ModelPath, activations, print_json, shapes
from .promises import (
    Cached,
    Dask,
    Jobs,
    Latency,
    MaxDrop,
    MaxError,
    Metric,
    Objective,
    Samples,
    Size,
    budget,
)

NAME = "optimize"


Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", help="The artifact; MODEL with the ending .eie.onnx when left out.", show_default=False
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Samples to choose by and to verify on: an .npz with arrays named after the inputs; with label, accuracy.",
        show_default=False,
    ),
]
Train = Annotated[
    str | None,
    typer.Option(
        help="Samples to train on: an .npz as for --data, or module:function (file.py:function) that gives them.",
        show_default=False,
    ),
]
Loss = Annotated[
    str | None, typer.Option(help="A loss of one's own for training: module:function.", show_default=False)
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="A folder: training that was interrupted goes on from there.", show_default=False),
]
SaveTrained = Annotated[
    Path | None,
    typer.Option(help="Write the model as the last training pass left it, too, as plain ONNX.", show_default=False),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help=f"A TOML file or a preset: {', '.join(presets())}; {WITH_DATA} with --data, {DEFAULT} without, when left out.",
        show_default=False,
    ),
]
Passes = Annotated[
    str | None,
    typer.Option(
        "-p",
        "--passes",
        help='Passes instead of a recipe: "sparsify{density=0.1},cluster{bits=4},encode".',
        show_default=False,
    ),
]
Ratio = Annotated[
    float | None,
    typer.Option(help="How many times fewer bytes weights take, for recipes with a total budget.", show_default=False),
]
Shape = Annotated[list[str] | None, typer.Option(help="Shape of made-up input: name:1,3,224,224.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write the artifact.")]
SaveRecipe = Annotated[
    Path | None, typer.Option(help="Write the recipe that was used, search results filled in.", show_default=False)
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail (exit code 1) when a weight that should be compressed can't be, or the budget is missed.",
    ),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Every pass, every reason.")]


def command(
    model: ModelPath,
    output: Output = None,
    data: Data = None,
    train: Train = None,
    loss: Loss = None,
    checkpoint: Checkpoint = None,
    save_trained: SaveTrained = None,
    recipe: RecipeName = None,
    passes: Passes = None,
    ratio: Ratio = None,
    max_drop: MaxDrop = None,
    max_error: MaxError = None,
    size: Size = None,
    latency: Latency = None,
    objective: Objective = None,
    metric: Metric = None,
    samples: Samples = None,
    format: Format = None,
    shape: Shape = None,
    dry_run: DryRun = False,
    save_recipe: SaveRecipe = None,
    strict: Strict = False,
    cached: Cached = True,
    jobs: Jobs = 1,
    dask: Dask = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a model smaller: prune, share weights, entropy-code; verify; write the artifact."""
    target = output if output is not None else model.with_name(model.stem + ".eie.onnx")
    written = None if dry_run else target
    _check_paths(model, written, save_recipe, save_trained)
    if save_trained is not None and train is None:
        raise UserError("nothing is trained without --train", where="--save-trained")
    chosen = _recipe(recipe, passes, ratio, data is not None)
    asked = budget(model, max_drop, max_error, size, latency, objective, metric, samples, data is not None)
    bars = Bars(verbose)
    with bars.shown(), _interrupted(train is not None, checkpoint):
        result = optimize(
            model, data, chosen, train=train, loss=loss, checkpoint=checkpoint, budget=asked, activations=activations(format),
            shapes=shapes(shape or []), strict=strict, refuse=any(v is not None for v in (max_drop, max_error, size, latency)),
            cache=cached, jobs=jobs, dask=dask, progress=bars,
        )  # fmt: skip
        _write(result, written, save_recipe, save_trained)
    if json:
        print_json(result.json())
        return
    screen = console()
    where = "(not written: --dry-run)" if dry_run else str(target)
    for part in report(result, where, verbose=verbose, width=screen.width):
        screen.print(hanging(part), highlight=False)
    if save_trained is not None:
        screen.print(f"trained    {save_trained}", highlight=False, soft_wrap=True)


@contextmanager
def _interrupted(training: bool, checkpoint: Path | None) -> Iterator[None]:
    """Says what is left of training that somebody ends."""
    try:
        yield
    except KeyboardInterrupt:
        if training and checkpoint is not None and any(checkpoint.glob("phase-*.pt")):
            say = f"interrupted; the same command goes on from {checkpoint}"
        elif training:
            say = "interrupted; nothing was kept: with --checkpoint FOLDER the same command would go on"
        else:
            say = "interrupted; nothing was written"
        console(stderr=True).print(say, highlight=False, soft_wrap=True)
        raise


def _recipe(recipe: str | None, passes: str | None, ratio: float | None, data: bool) -> Recipe | None:
    """What was asked for; None: the default."""
    if passes is not None and recipe is not None:
        raise UserError("--passes and --recipe exclude each other", where="--passes")
    chosen = None
    if passes is not None:
        chosen = Recipe(name="--passes", passes=tuple(parse_pipeline(passes)))
    elif recipe is not None:
        chosen = Recipe.load(recipe)
    if ratio is not None:
        chosen = (chosen or Recipe.load(WITH_DATA if data else DEFAULT)).with_ratio(ratio)
    return chosen


def _write(result: Result, target: Path | None, recipe: Path | None, trained: Path | None) -> None:
    """All files, or none; without a target the artifact is only measured."""
    with ExitStack() as files:
        if recipe is not None:
            files.enter_context(write_beside(recipe)).write(result.recipe.to_toml(every=True).encode())
        if trained is not None and result.trained_model is not None:
            files.enter_context(writing(result.trained_model, trained))
        if target is None:
            result.measure()
        else:
            result.save(target)


def _check_paths(model: Path, target: Path | None, recipe: Path | None, trained: Path | None) -> None:
    """Nothing is written over the model, nor twice, nor where nothing can be written."""
    if target is not None:
        check_writable(target)
        if target.exists() and model.exists() and target.samefile(model):
            raise UserError(
                "the artifact would overwrite the model", where=str(target), hint="Give another path with -o."
            )
    if recipe is not None:
        check_writable(recipe)
        if recipe.resolve() in (model.resolve(), target.resolve() if target else None):
            raise UserError(
                "the recipe would overwrite the model or the artifact", where=str(recipe), hint="Give another path."
            )
    if trained is not None:
        check_writable(trained)
        others = [p.resolve() for p in (model, target, recipe) if p is not None]
        if trained.resolve() in others:
            raise UserError(
                "the trained model would overwrite another file", where=str(trained), hint="Give another path."
            )
