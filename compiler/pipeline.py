"""The one way through: read, canonicalize, choose, transform, verify after each pass, lower, verify the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from eie.runtime.backends.base import Activations

from .analysis.fidelity import Fidelity
from .analysis.judge import Judge
from .analysis.layers import Layer, find_layers
from .errors import PromiseError, UserError
from .passes.base import check_order
from .passes.encode import Encode
from .progress import Progress, Silent
from .recipe import DEFAULT, WITH_DATA, Budget, Recipe
from .report.result import LayerRow, Result
from .run import COMPARED, Run, Source, designed_too, size_of, weight_bytes
from .search.choose import checked
from .search.curves import Cache
from .training import require_torch
from .training.settings import Settings

Array = npt.NDArray[Any]

_NEARLY = 1.01  # a ratio of bytes is met
_SLACK_DB = 0.5  # what float sums in another order may take from what the search measured


def optimize(
    model: Source,
    data: str | Path | Mapping[str, Array] | None = None,
    recipe: Recipe | str | Path | None = None,
    *,
    train: Any = None,
    loss: str | None = None,
    checkpoint: str | Path | None = None,
    budget: Mapping[str, Any] | None = None,
    activations: Activations | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    strict: bool = False,
    refuse: bool = False,
    cache: bool = True,
    jobs: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Compress a model.

    Args:
        model: an ONNX file, or a model in memory.
        data: samples (an ``.npz`` or a dictionary): arrays named after the inputs, and ``label`` where there is one.
            Without it, input is made up (compiler/analysis/samples.py).
        recipe: a Recipe, a preset's name, or a TOML file; when left out, the preset ``calibrated`` with data, ``post-training`` without.
        budget: fields of the recipe's budget (``compiler.recipe.Budget``) that are to be different.
        train: samples to learn from, for passes that train: an ``.npz`` or a dictionary as ``data``, ``module:function``, or what
            such a function returns (compiler/training/data.py). Without it those passes do what can be done without.
        loss: ``module:function`` of a loss of one's own, in the place of the recipe's.
        checkpoint: a folder: training that was interrupted goes on from there.
        activations: what compressed layers compute in; the recipe's choice when left out.
        shapes: input name -> shape of made-up input, where the model leaves dimensions open.
        strict: raise PromiseError when a weight that should be compressed can't be, or the model's budget (the default one
            where the recipe has none) is missed.
        refuse: raise PromiseError when the budget is missed.
        cache: keep what was measured of layers, and use what was kept (compiler/search/curves.py says where).
        jobs: processes that measure layers; -1 for one a core.
        dask: a scheduler's address, to measure them there.
        progress: hears of each pass and layer.

    Returns:
        The artifact and what was done to make it; ``save`` writes the file.

    Raises:
        UserError: the model, the data or the recipe is wrong; says where and what to do.
        PromiseError: see ``strict`` and ``refuse``.
    """
    plan = planned(recipe, data is not None, budget, activations)
    encoding = _encoding(plan)
    plan = _learning(plan, train, loss, checkpoint)
    run = Run(plan, progress or Silent())
    original, working = run.read(model), run.read(model)
    before, spent = size_of(model, original), plan.budget or Budget()
    if train is not None:
        if spent.latency_us:
            raise UserError("what training does to a model's time isn't known before", where="--latency",
                            hint="Train first (--save-trained), then compress what that wrote within the time.")  # fmt: skip
        held = run.load(original, train)
        data = held if data is None else data  # nothing is made up where there is something real
    run.progress.stage("samples", 0)
    judge = Judge(original, data, shapes, spent.samples if plan.budget or data is None else COMPARED, spent.seed)
    closed = run.canonicalize(working, judge)
    layers, left_alone = find_layers(working, designed_too(plan, judge))
    plan.check(layers)
    promised = run.search(working, layers, judge, encoding, Cache() if cache else None, jobs, dask, before)
    fitted = run.fitted(promised)
    if not fitted:
        judge.check_all()
    if train is not None:
        run.prepare(working, checkpoint)
    errors = run.passes(working, layers, judge)
    if train is not None and plan.budget is not None:
        promised = checked(working, judge, plan.budget, held_back=data is not held and not fitted)
    in_floats = judge.measure(working) if run.recipe.activations != "f32" else None
    lowered = run.lower(working, layers, encoding, judge.tensors)
    reached = run.verify(working, judge)
    result = Result(
        model=working,
        recipe=run.recipe,
        layers=[LayerRow.of(s, errors[s.layer], run.recipe.activations) for s in lowered.stored],
        left_alone=[*left_alone, *run.plain(layers, lowered)],
        steps=run.steps,
        input_bytes=before,
        weight_bytes_before=weight_bytes(original),
        made_up=judge.made_up,
        closed_inputs=closed,
        missed=None,
        verify=reached,
        accuracy=judge.accuracy(original, working, fitted=fitted) if judge.labels is not None else None,
        learnt=run.learnt(),
        untrained=[] if train is not None else plan.learns,
        trained_model=run.trained,
        promised=promised,
        notes=run.notes,
        folded=run.folded,
    )
    result.budgeted = _budgets(result, layers)
    result.missed = _missed(result, plan, in_floats, strict, trained=train is not None)
    _insist(result, strict, refuse)
    return result


def _budgets(result: Result, layers: Sequence[Layer]) -> list[tuple[float, float]]:
    """Of each total budget of the recipe (its last pass's with a ratio): what was asked for, and what its layers came to."""
    asked: dict[str, float] = {}
    for step in reversed(result.recipe.passes):
        asked = {la.name: getattr(result.recipe.options(la, step), "ratio", 0.0) for la in layers}
        if any(asked.values()):
            break
    found = []
    for ratio in sorted({r for r in asked.values() if r}):
        rows = [row for row in result.layers if asked[row.name] == ratio]
        after = sum(row.bytes_after for row in rows)
        found.append((ratio, sum(row.bytes_before for row in rows) / after if after else float("inf")))
    return found


def _insist(result: Result, strict: bool, refuse: bool) -> None:
    """Raises PromiseError where the result is not what was asked for, and that is not to pass."""
    unkept = [f"{item.name} was left alone: {item.why}" for item in result.left_alone if item.wanted]
    if (strict and (result.missed or unkept)) or (refuse and result.missed):
        raise PromiseError(result.missed or "; ".join(unkept[:3]), where="--strict" if strict else "budget")


def _encoding(plan: Recipe) -> Encode:
    """The recipe's encode pass.

    Raises:
        UserError: it has none, or its passes are in no order that works.
    """
    found = next((p for p in plan.passes if isinstance(p, Encode)), None)
    if found is None:
        raise UserError("the recipe has no encode pass: nothing would be stored compressed", where=plan.name,
                        hint='Add "encode" as the last pass.')  # fmt: skip
    check_order(plan.passes, where=plan.name)
    return found


def _learning(plan: Recipe, train: Any, loss: str | None, checkpoint: str | Path | None) -> Recipe:
    """The recipe with what was said of training beside it.

    Raises:
        UserError: there is data and nothing that learns from it, or the other way round; or torch is not installed.
    """
    if train is None:
        for what, given in (("loss", loss), ("checkpoint", checkpoint)):
            if given is not None:
                raise UserError("there is no training data", where=what, hint="Give it with --train.")
        return plan
    if not plan.learns:
        raise UserError(f"no pass of the recipe {plan.name} learns from data", where="train",
                        hint="Take --recipe deep-compression, ese, ttq or dsd, or add retrain before encode.")  # fmt: skip
    require_torch("--train")
    settings = plan.train or Settings()
    return replace(plan, train=settings if loss is None else replace(settings, loss=loss))


def _missed(result: Result, plan: Recipe, in_floats: Fidelity | None, strict: bool, *, trained: bool) -> str | None:
    """What of all that was asked for the artifact does not keep: the promise, its error, its size, or a ratio."""
    spent, promised = plan.budget or Budget(), result.promised
    missed = promised.missed if promised is not None else None
    other = bool(spent.max_drop or spent.size or spent.latency_us)
    asked = 0.0 if plan.budget is not None and other else spent.model_sqnr_db
    if (missed or plan.budget or (strict and not trained)) and result.verify.sqnr_db < asked - _SLACK_DB:
        missed = missed or f"the artifact keeps {result.verify.sqnr_db:.1f} of {asked:g} dB"
        if in_floats is not None:
            missed += f"; with f32 activations it would be {in_floats.sqnr_db:.1f} dB"
    if spent.size and plan.budget:
        result.measure()
        if result.output_bytes > spent.size:
            missed = missed or f"the artifact takes {result.output_bytes:,} of {spent.size:,} bytes"
    if missed:
        says_all = promised is None or missed != promised.missed or not (trained and result.budgeted)
        return missed if says_all else f"{missed}; a smaller --ratio, or more epochs, would keep more"
    if plan.budget is None or trained:  # a search is free to spare layers
        for wanted, reached in result.budgeted:
            if reached * _NEARLY < wanted:
                return f"compressed weights take {reached:.3g} times fewer bytes, and not {wanted:g} times"
    return None


def planned(
    recipe: Recipe | str | Path | None,
    data: bool,
    budget: Mapping[str, Any] | None = None,
    activations: Activations | None = None,
) -> Recipe:
    """The recipe to follow, with what was asked for on top of it."""
    default = WITH_DATA if data else DEFAULT
    plan = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe if recipe is not None else default)
    if activations is not None:
        plan = replace(plan, activations=activations)
    if budget:
        base = plan.budget or Recipe.load(default).budget or Budget()
        plan = replace(plan, budget=replace(base, **budget))
    return plan
