"""The one way through: read, canonicalize, choose, transform, verify after each pass, lower, verify the artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx.inliner import inline_local_functions

from eie.runtime.backends.base import Activations
from eie.runtime.operators import DOMAIN

from .analysis.budget import Choice, Planner
from .analysis.capture import capture
from .analysis.fidelity import INLINE_LIMIT, Fidelity
from .analysis.judge import Judge
from .analysis.layers import Layer, LeftAlone, find_layers
from .analysis.probe import Probe
from .errors import ModelError, PromiseError, UserError
from .ir.graph import Model
from .ir.reader import read
from .ir.verifier import verify
from .ir.writer import to_proto
from .lowering.artifact import Lowered, lower
from .passes.base import NO_DATA, LedgerEntry, Pass, TrainingPass, check_order
from .passes.canonicalize import Canonicalize
from .passes.encode import Encode
from .recipe import DEFAULT, Budget, Recipe, Rule
from .report.result import LayerRow, Learnt, Result, Step
from .training import require_torch
from .training.settings import Settings

if TYPE_CHECKING:
    from .training.trainer import Training

Array = npt.NDArray[Any]
Source = str | Path | onnx.ModelProto

_ATTEMPTS = 6  # searches under an ever tighter layer budget before layers are given back
_TOLERATED_DB = 5.0  # a smaller miss, at the finest codebooks, is reported; for a larger one layers are given back
_SLACK_DB = 0.5  # what float sums in another order may take from what the search measured
_MOST_DB = 60.0  # a layer's SQNR beyond which 8-bit codebooks do not reach anyway


class Progress(Protocol):
    """Hears how far the work is; the command line draws bars from it."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of so many steps begins (0: not known)."""

    def step(self, what: str) -> None:
        """Work on ``what`` begins."""

    def note(self, text: str) -> None:
        """Something worth a line of its own, such as what an epoch of training came to."""


class Silent:
    """The progress nobody looks at."""

    def stage(self, name: str, steps: int) -> None: ...
    def step(self, what: str) -> None: ...
    def note(self, text: str) -> None: ...


def optimize(
    model: Source,
    data: str | Path | Mapping[str, Array] | None = None,
    recipe: Recipe | str | Path | None = None,
    *,
    train: Any = None,
    loss: str | None = None,
    checkpoint: str | Path | None = None,
    activations: Activations | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Compress a model.

    Args:
        model: an ONNX file, or a model in memory.
        data: samples (an ``.npz`` or a dictionary): arrays named after the inputs, and ``label`` where there is one.
            Without it, input is made up (compiler/analysis/samples.py).
        recipe: a Recipe, a preset's name, or a TOML file; the preset ``post-training`` when left out.
        train: samples to learn from, for passes that train: an ``.npz`` or a dictionary as ``data``, ``module:function``, or what
            such a function returns (compiler/training/data.py). Without it those passes do what can be done without.
        loss: ``module:function`` of a loss of one's own, in the place of the recipe's.
        checkpoint: a folder: training that was interrupted goes on from there.
        activations: what compressed layers compute in; the recipe's choice when left out.
        shapes: input name -> shape of made-up input, where the model leaves dimensions open.
        strict: raise PromiseError when a weight that should be compressed can't be, or the model's budget (the default one
            where the recipe has none) is missed.
        progress: hears of each pass and layer.

    Returns:
        The artifact and what was done to make it; ``save`` writes the file.

    Raises:
        UserError: the model, the data or the recipe is wrong; says where and what to do.
        PromiseError: see ``strict``.
    """
    plan = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe if recipe is not None else DEFAULT)
    if activations is not None:
        plan = replace(plan, activations=activations)
    encoding = next((p for p in plan.passes if isinstance(p, Encode)), None)
    if encoding is None:
        raise UserError(
            "the recipe has no encode pass: nothing would be stored compressed",
            where=plan.name,
            hint='Add "encode" as the last pass.',
        )
    check_order(plan.passes, where=plan.name)
    plan = _learning(plan, train, loss, checkpoint)
    run = _Run(plan, progress or Silent())
    original, working = run.read(model), run.read(model)
    run.progress.stage("samples", 0)
    budget = plan.budget or Budget()
    judge = Judge(original, data, shapes, budget.samples, budget.seed)
    closed = run.canonicalize(working, judge)
    layers, left_alone = find_layers(working)
    plan.check(layers)
    run.progress.stage("activations", 0)
    rows = capture(working, layers, judge.feeds, budget.seed)
    probes = {layer.name: Probe(layer, rows.get(layer.name)) for layer in layers}
    missed = run.search(working, layers, judge, probes)
    if train is not None:
        run.prepare(working, train, checkpoint)
    errors: dict[str, float] | None = None
    for step in run.recipe.passes:
        if not isinstance(step, Canonicalize):
            if step.reshapes and errors is None:  # probes know the shapes that the model came with
                errors = _errors(layers, probes)
            run.transform(step, working, layers, judge)
    errors = _errors(layers, probes) if errors is None else errors
    in_floats = judge.measure(working) if run.recipe.activations != "f32" else None
    lowered = run.lower(working, layers, encoding)
    compressed = {s.layer for s in lowered.stored}
    reached = run.verify(working, judge)
    if (missed or plan.budget or strict) and reached.sqnr_db < budget.model_sqnr_db - _SLACK_DB:
        missed = f"the artifact keeps {reached.sqnr_db:.1f} of {budget.model_sqnr_db:g} dB"
        if in_floats is not None:
            missed += f"; with f32 activations it would be {in_floats.sqnr_db:.1f} dB"
    result = Result(
        model=working,
        recipe=run.recipe,
        layers=[LayerRow.of(s, errors[s.layer], run.recipe.activations) for s in lowered.stored],
        left_alone=[*left_alone, *run.plain([la for la in layers if la.name not in compressed], lowered)],
        steps=run.steps,
        input_bytes=_size_of(model, original),
        weight_bytes_before=_weight_bytes(original),
        made_up=judge.made_up,
        closed_inputs=closed,
        missed=missed,
        verify=reached,
        accuracy=judge.accuracy(original, working) if judge.labels is not None else None,
        learnt=run.learnt(),
        untrained=[] if train is not None else plan.learns,
        trained=run.trained,
    )
    unkept = [f"{item.name} was left alone: {item.why}" for item in result.left_alone if item.wanted]
    if strict and (missed or unkept):
        raise PromiseError(missed or "; ".join(unkept[:3]), where="--strict")
    return result


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
        raise UserError("no pass of the recipe learns from data", where=plan.name,
                        hint="Take the recipe deep-compression, or add retrain before encode.")  # fmt: skip
    require_torch("--train")
    settings = plan.train or Settings()
    return replace(plan, train=settings if loss is None else replace(settings, loss=loss))


def _errors(layers: Sequence[Layer], probes: Mapping[str, Probe]) -> dict[str, float]:
    """Relative error of each layer's output, its own input given."""
    return {layer.name: probes[layer.name].error(layer) for layer in layers}


class _Run:
    """The steps of one run, and what they say of themselves."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe, self.progress = recipe, progress
        self.steps: list[Step] = []
        self._refused: dict[str, str] = {}  # layer -> why a pass left it alone
        self._given_back_layers: set[str] = set()
        self.training: Training | None = None
        self.trained: onnx.ModelProto | None = None  # the model after the last pass that trained
        self._before: tuple[float, float | None] = (float("nan"), None)

    def read(self, source: Source) -> Model:
        self.progress.stage("read", 0)
        model = read(source)
        verify(model)
        if model.extra.functions and sum(c.nbytes for c in model.graph.constants.values()) < INLINE_LIMIT:
            # weights inside of functions are seen only where these are called
            path, model = model.path, read(inline_local_functions(to_proto(model)))
            model.path = path
            verify(model)
        if DOMAIN in model.graph.opsets:
            raise ModelError("this is an artifact already", where=model.path, hint="Give the model it was made from.")
        return model

    def canonicalize(self, model: Model, judge: Judge) -> list[str]:
        """The first pass; names the inputs with a default that it makes constants (docs/decisions/0006)."""
        # before version 4 all initializers had to be listed
        closed = [i.name for i in model.graph.inputs if i.name in model.graph.constants and model.ir_version >= 4]
        step = next((p for p in self.recipe.passes if isinstance(p, Canonicalize)), Canonicalize())
        self.progress.stage(step.name, 0)
        began = time.perf_counter()
        outcome = step.run(model)
        self._finish(step.name, began, model, judge if outcome.changed else None)
        return closed

    def prepare(self, model: Model, data: Any, checkpoint: str | Path | None) -> None:
        """Load training data; from here on passes that learn do so."""
        from .training.checkpoint import Checkpoints
        from .training.data import load
        from .training.trainer import Training

        settings = self.recipe.train or Settings()
        self.progress.stage("training data", 0)
        samples = load(data, model, validation=settings.validation, seed=settings.seed, extra=":" in settings.loss)
        teacher = read(to_proto(model))
        folder = Checkpoints(checkpoint) if checkpoint is not None else None
        self.training = Training(teacher, samples, settings, checkpoints=folder, progress=self.progress)
        self._before = self.training.evaluate(self.training.teacher)

    def learnt(self) -> Learnt | None:
        """What training came to."""
        if self.training is None:
            return None
        data = self.training.data
        return Learnt(
            len(data.train), len(data.validation), *self._before, tuple(self.training.history), self.training.frozen
        )

    def transform(self, step: Pass, model: Model, layers: Sequence[Layer], judge: Judge) -> None:
        """Run one pass: once for each set of options the recipe gives it, on the layers that set is for."""
        groups: dict[Pass, set[str]] = {}
        for layer in layers:
            own = self.recipe.options(layer, step)
            if own is not None:
                groups.setdefault(own, set()).add(layer.name)
        began, changed = time.perf_counter(), False
        if self.training is not None and isinstance(step, TrainingPass):
            chosen = {name: own for own, names in groups.items() for name in names if isinstance(own, TrainingPass)}
            outcome = step.train(model, chosen, self.training)
            self._note(outcome.ledger)
            self._finish(step.name, began, model, judge if outcome.changed else None)
            self.trained = to_proto(model)
            return
        self.progress.stage(step.name, sum(map(len, groups.values())))
        for own, names in groups.items():
            outcome = own.run(model, self._select(names))
            changed = changed or outcome.changed
            self._note(outcome.ledger)
        self._finish(step.name, began, model, judge if changed else None)

    def _select(self, names: set[str]) -> Callable[[Layer], bool]:
        def select(layer: Layer) -> bool:
            if layer.name in names:
                self.progress.step(layer.name)
            return layer.name in names

        return select

    def _note(self, ledger: Sequence[LedgerEntry]) -> None:
        for entry in ledger:
            if entry.reason and entry.reason != NO_DATA:  # that keeps no layer from being compressed
                self._refused.setdefault(entry.layer, entry.reason)  # what the first said, not what followed from it

    def _finish(self, name: str, began: float, model: Model, judge: Judge | None) -> None:
        seconds = time.perf_counter() - began
        verify(model)
        self.steps.append(Step(name, seconds, judge.measure(model) if judge else None))

    def search(self, model: Model, layers: Sequence[Layer], judge: Judge, probes: Mapping[str, Probe]) -> str | None:
        """Add rules to the recipe for what it leaves to its budget; says what of the budget could not be kept."""
        budget = self.recipe.budget
        chosen = [la for la in layers if any(self.recipe.options(la, p) for p in self.recipe.passes)]
        if budget is None or not chosen:
            return None
        began = time.perf_counter()
        self.progress.stage("search", len(chosen))
        planner = Planner(chosen, probes, self.recipe)
        target, reached = budget.layer_sqnr_db, float("-inf")
        best: dict[str, Choice] = {}
        for attempt in range(_ATTEMPTS):
            if attempt:
                self.progress.stage(f"search again at {target:.0f} dB", len(chosen))
            choices = planner.plan(target, self.progress.step)
            found = judge.try_out(model, chosen, choices, self.recipe).sqnr_db
            if not best or found > reached:
                best, reached = choices, found
            short = budget.model_sqnr_db - found
            if short <= 0 or target >= _MOST_DB:
                break
            target = min(_MOST_DB, target + max(1.5, short if np.isfinite(short) else 6.0))
        choices, short = best, budget.model_sqnr_db - reached
        given_back = self._give_back(model, chosen, choices, judge) if short > _TOLERATED_DB else []
        self.recipe = self.recipe.with_rules(
            Rule(match=la.name, skip=True) if la.name in given_back else choices[la.name].rule(la) for la in chosen
        )
        self.steps.append(Step("search", time.perf_counter() - began, None))
        self._given_back_layers.update(given_back)
        for name in given_back:
            self._refused[name] = f"with it compressed, the model would miss {budget.model_sqnr_db:g} dB"
        if not given_back:
            return (
                f"the whole model keeps {reached:.1f} of {budget.model_sqnr_db:g} dB at the finest codebooks"
                if short > 0
                else None
            )
        return (
            f"to keep {budget.model_sqnr_db:g} dB on the whole model, {len(given_back)} layers were left alone: "
            + ", ".join(given_back[:3])
            + ", ..." * (len(given_back) > 3)
        )

    def _give_back(
        self, model: Model, layers: Sequence[Layer], choices: Mapping[str, Choice], judge: Judge
    ) -> list[str]:
        """The fewest layers, those whose output suffers most first, to leave alone so that the model keeps its budget."""
        budget = self.recipe.budget or Budget()
        order = sorted(
            (la for la in layers if np.isfinite(choices[la.name].sqnr_db)), key=lambda la: choices[la.name].sqnr_db
        )
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            left = {la.name for la in order[:middle]}
            found = judge.try_out(model, [la for la in layers if la.name not in left], choices, self.recipe)
            if found.sqnr_db >= budget.model_sqnr_db:
                high = middle
            else:
                low = middle + 1
        return [la.name for la in order[:low]]

    def lower(self, model: Model, layers: Sequence[Layer], encoding: Encode) -> Lowered:
        began = time.perf_counter()
        self.progress.stage("lower", sum(la.constant.weight is not None for la in layers))
        lowered = lower(
            model,
            layers,
            self.recipe.activations,
            codec=encoding.chosen,
            index_bits=encoding.index_bits or None,
            progress=self.progress.step,
        )
        model.graph.prune()
        verify(model)
        self.steps.append(Step("lower", time.perf_counter() - began, None))
        return lowered

    def plain(self, layers: Sequence[Layer], lowered: Lowered) -> list[LeftAlone]:
        """Why layers that could have been compressed are not."""
        found = []
        for layer in layers:
            skipped = not any(self.recipe.options(layer, p) for p in self.recipe.passes)
            why = (
                lowered.kept_plain.get(layer.name)
                or self._refused.get(layer.name)
                or ("the recipe leaves it alone" if skipped else "no pass of the recipe shares its weights")
            )
            wanted = layer.name in self._given_back_layers
            found.append(LeftAlone(layer.name, layer.op, why, layer.constant.nbytes, wanted))
        return found

    def verify(self, model: Model, judge: Judge) -> Fidelity:
        self.progress.stage("verify", 0)
        return judge.artifact(model)


def _size_of(source: Source, model: Model) -> int:
    """Bytes on disk, external data included."""
    if isinstance(source, onnx.ModelProto):
        return int(source.ByteSize())
    mapped = sum(
        c.nbytes for graph in model.graph.graphs() for c in graph.constants.values() if isinstance(c.content, np.memmap)
    )
    return Path(source).stat().st_size + mapped


def _weight_bytes(model: Model) -> int:
    """Bytes of all constants: initializers and Constant nodes, bodies included."""
    total = 0
    for graph in model.graph.graphs():
        total += sum(c.nbytes for c in graph.constants.values())
        total += sum(
            len(n.attributes["value"].t.SerializeToString())
            for n in graph.structure
            if n.op == "Constant" and "value" in n.attributes
        )
    return total
