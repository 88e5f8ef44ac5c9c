"""The one way through: read, canonicalize, choose, transform, verify after each pass, lower, verify the artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.inliner import inline_local_functions

from eie.runtime.backends.base import Activations
from eie.runtime.operators import DOMAIN
from eie.runtime.weight import Weight

from .analysis.calibration import Calibration
from .analysis.fidelity import INLINE_LIMIT, Fidelity
from .analysis.form import Form
from .analysis.judge import Judge
from .analysis.layers import Layer, LeftAlone, find_layers
from .analysis.moments import Moments
from .analysis.undo import restored
from .data import Feeds, inputs_of
from .errors import ModelError, PromiseError, UserError
from .ir.graph import Constant, Held, Model, copied
from .ir.reader import read
from .ir.verifier import verify
from .ir.writer import to_proto
from .lowering.artifact import Lowered, lower
from .lowering.names import shorten
from .passes.base import NO_DATA, LedgerEntry, Pass, PassResult, TrainingPass, check_order
from .passes.canonicalize import Canonicalize
from .passes.encode import Encode
from .passes.reconstruct import Reconstruct, output_error, reconstruct
from .progress import Progress, Silent
from .recipe import DEFAULT, WITH_DATA, Budget, Recipe
from .report.result import LayerRow, Learnt, Result, Step
from .search.choose import Promised, search
from .search.curves import Cache
from .training import require_torch
from .training.settings import Settings

if TYPE_CHECKING:
    from .training.data import TrainingData
    from .training.trainer import Training

Array = npt.NDArray[Any]
Source = str | Path | onnx.ModelProto

_NEARLY = 1.01  # a ratio of bytes is met
_SAMPLES = 512  # that are compared, of those given, where the recipe has no budget to say how many
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
    run = _Run(plan, progress or Silent())
    original, working = run.read(model), run.read(model)
    before, spent = _size_of(model, original), plan.budget or Budget()
    if train is not None:
        held = run.load(original, train)
        data = held if data is None else data  # nothing is made up where there is something real
    run.progress.stage("samples", 0)
    judge = Judge(original, data, shapes, spent.samples if plan.budget or data is None else _SAMPLES, spent.seed)
    closed = run.canonicalize(working, judge)
    layers, left_alone = find_layers(working, designed_too(plan, judge))
    plan.check(layers)
    promised = run.search(working, layers, judge, encoding, Cache() if cache else None, jobs, dask, before)
    if not run.fitted(promised):
        judge.check_all()
    if train is not None:
        run.prepare(working, checkpoint)
    errors = run.passes(working, layers, judge)
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
        weight_bytes_before=_weight_bytes(original),
        made_up=judge.made_up,
        closed_inputs=closed,
        missed=_missed(plan, promised, reached, in_floats, strict),
        verify=reached,
        accuracy=judge.accuracy(original, working, fitted=run.fitted(promised)) if judge.labels is not None else None,
        learnt=run.learnt(),
        untrained=[] if train is not None else plan.learns,
        trained_model=run.trained,
        promised=promised,
        notes=run.notes,
    )
    if spent.size and plan.budget:
        result.measure()
        if result.output_bytes > spent.size:
            result.missed = result.missed or f"the artifact takes {result.output_bytes:,} of {spent.size:,} bytes"
    result.missed = result.missed or _over_ratio(result, layers)
    _insist(result, strict, refuse)
    return result


def _over_ratio(result: Result, layers: Sequence[Layer]) -> str | None:
    """What of a total budget (the last pass's with a ratio) the layers it was for do not keep."""
    step = next((p for p in reversed(result.recipe.passes) if getattr(p, "ratio", 0)), None)
    if step is None:
        return None
    asked = {la.name: getattr(result.recipe.options(la, step), "ratio", 0) for la in layers}
    for ratio in sorted({r for r in asked.values() if r}):
        rows = [row for row in result.layers if asked[row.name] == ratio]
        before, after = sum(row.bytes_before for row in rows), sum(row.bytes_after for row in rows)
        if after * ratio > before * _NEARLY:
            return f"weights take {after:,} bytes, {before / after:.3g} times fewer and not {ratio:g} times"
    return None


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
        raise UserError("no pass of the recipe learns from data", where=plan.name,
                        hint="Take the recipe deep-compression, or add retrain before encode.")  # fmt: skip
    require_torch("--train")
    settings = plan.train or Settings()
    return replace(plan, train=settings if loss is None else replace(settings, loss=loss))


def _missed(
    plan: Recipe, promised: Promised | None, reached: Fidelity, in_floats: Fidelity | None, strict: bool
) -> str | None:
    """What of the budget the artifact does not keep."""
    spent, missed = plan.budget or Budget(), promised.missed if promised is not None else None
    other = bool(spent.max_drop or spent.size or spent.latency_us)
    asked = 0.0 if plan.budget is not None and other else spent.model_sqnr_db
    if (missed or plan.budget or strict) and reached.sqnr_db < asked - _SLACK_DB:
        missed = missed or f"the artifact keeps {reached.sqnr_db:.1f} of {asked:g} dB"
        if in_floats is not None:
            missed += f"; with f32 activations it would be {in_floats.sqnr_db:.1f} dB"
    return missed


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


def designed_too(recipe: Recipe, judge: Judge) -> Callable[[str], bool]:
    """Filter banks and tables are taken for weights where real samples show what that does, or where a rule names them."""
    named = {rule.match for rule in recipe.rules}
    real = not judge.made_up and any(isinstance(p, Reconstruct) for p in recipe.passes)
    return lambda name: real or name in named


def transform(
    step: Pass,
    model: Model,
    layers: Sequence[Layer],
    recipe: Recipe,
    calibration: Calibration,
    progress: Callable[[str], None] = lambda name: None,
) -> PassResult:
    """Run one pass on all the model's layers, each with the options the recipe gives it there."""
    own = {layer.name: options for layer in layers if (options := recipe.options(layer, step)) is not None}
    if isinstance(step, Reconstruct):
        chosen = {name: options for name, options in own.items() if isinstance(options, Reconstruct)}
        return reconstruct(model, [la for la in layers if la.name in chosen], chosen, calibration, progress)
    groups: dict[Pass, set[str]] = {}
    for name, options in own.items():
        groups.setdefault(options, set()).add(name)
    changed = False
    entries: list[LedgerEntry] = []
    for options, names in groups.items():

        def select(layer: Layer, names: set[str] = names) -> bool:
            if layer.name in names:
                progress(layer.name)
            return layer.name in names

        outcome = options.run(model, select, layers)
        changed = changed or outcome.changed
        entries += outcome.ledger
    return PassResult(changed, tuple(entries))


class _Run:
    """The steps of one run, and what they say of themselves."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe, self.progress = recipe, progress
        self.steps: list[Step] = []
        self.calibration = Calibration.none()
        self.notes: dict[str, str] = {}  # layer -> what the reconstruction said of it
        self._errors: dict[str, float] = {}
        self._shown: Sequence[Feeds] = ()
        self._refused: dict[str, str] = {}  # layer -> why a pass left it alone
        self._given_back_layers: set[str] = set()
        self.samples: TrainingData | None = None
        self.training: Training | None = None
        self.trained: Model | None = None  # the model after the last pass that trained
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

    def load(self, model: Model, data: Any) -> dict[str, Any]:
        """Load training data; gives inputs of it that are not trained on, where there are any, to compare outputs on."""
        from .training.data import load

        settings = self.recipe.train or Settings()
        self.progress.stage("training data", 0)
        self.samples = load(data, model, validation=settings.validation, seed=settings.seed, extra=":" in settings.loss)
        held = self.samples.validation if len(self.samples.validation) else self.samples.train
        rows = np.unique(np.linspace(0, len(held) - 1, min(len(held), _SAMPLES)).astype(np.int64))
        names = {i.name for i in inputs_of(model)}
        return {name: array for name, array in held.take(rows).items() if name in names}

    def prepare(self, model: Model, checkpoint: str | Path | None) -> None:
        """From here on passes that learn do so."""
        from .training.checkpoint import Checkpoints
        from .training.trainer import Training

        assert self.samples is not None
        settings, teacher = self.recipe.train or Settings(), copied(model, None)[0]
        folder = Checkpoints(checkpoint) if checkpoint is not None else None
        self.training = Training(teacher, self.samples, settings, checkpoints=folder, progress=self.progress)
        self._before = self.training.evaluate(self.training.teacher)

    def learnt(self) -> Learnt | None:
        """What training came to."""
        if self.training is None:
            return None
        data = self.training.data
        return Learnt(len(data.train), len(data.validation), *self._before, tuple(self.training.history), self.training.frozen)

    def passes(self, model: Model, layers: Sequence[Layer], judge: Judge) -> dict[str, float]:
        """Run the recipe's passes; gives the error of each layer's output."""
        contents = {layer.constant: layer.constant.held for layer in layers}
        errors: dict[str, float] | None = None
        for step in self.recipe.passes:
            if isinstance(step, Canonicalize):
                continue
            if step.reshapes and errors is None:  # inputs fit the shapes that the model came with
                errors = self.errors(model, layers, contents)
            self.transform(step, model, layers, judge)
        return self.errors(model, layers, contents) if errors is None else errors

    def transform(self, step: Pass, model: Model, layers: Sequence[Layer], judge: Judge) -> None:
        """Run one pass: once for each set of options the recipe gives it, on the layers that set is for."""
        began = time.perf_counter()
        if self.training is not None and isinstance(step, TrainingPass):
            own = {layer.name: self.recipe.options(layer, step) for layer in layers}
            chosen = {name: options for name, options in own.items() if isinstance(options, TrainingPass)}
            outcome = step.train(model, layers, chosen, self.training)
            self.trained, _ = copied(model, None)
        else:
            self.progress.stage(step.name, len(layers))
            outcome = transform(step, model, layers, self.recipe, self.calibration, self.progress.step)
        self._note(outcome.ledger)
        if isinstance(step, Reconstruct):
            if self.calibration.feeds:  # else it looked at no inputs, and errors are those of inputs that are made up
                self._errors.update({e.layer: e.error for e in outcome.ledger})
            self.notes.update({e.layer: e.action for e in outcome.ledger})
        self._finish(step.name, began, model, judge if outcome.changed else None)

    def _note(self, ledger: Sequence[LedgerEntry]) -> None:
        for entry in ledger:
            if entry.reason and entry.reason != NO_DATA:  # that keeps no layer from being compressed
                self._refused.setdefault(entry.layer, entry.reason)  # what the first said, not what followed from it

    def _finish(self, name: str, began: float, model: Model, judge: Judge | None) -> None:
        seconds = time.perf_counter() - began
        verify(model)
        self.steps.append(Step(name, seconds, judge.measure(model) if judge else None))

    def search(
        self,
        model: Model,
        layers: Sequence[Layer],
        judge: Judge,
        encoding: Encode,
        cache: Cache | None,
        jobs: int,
        dask: str | None,
        input_bytes: int,
    ) -> Promised | None:
        """Add rules to the recipe for what it leaves to its budget; says what was promised, and whether it is kept."""
        feeds = judge.feeds(judge.calibrate)
        trusted = not judge.made_up
        self._shown = feeds[:16]
        self.progress.stage("inputs of layers", 0)
        self.calibration = Calibration.planned(model, layers, feeds if trusted else [], (self.recipe.budget or Budget()).seed)
        skipped = not any(self.recipe.options(la, p) for la in layers for p in self.recipe.passes)
        if self.recipe.budget is None or skipped:
            return None
        began = time.perf_counter()
        watched = self.calibration if trusted else Calibration(feeds, self.recipe.budget.seed)
        promised = search(
            model, layers, judge, self.recipe, self.calibration, watched, transform=transform, encoding=encoding, cache=cache,
            jobs=jobs, dask=dask, progress=self.progress,
        )  # fmt: skip
        self.recipe = self.recipe.with_rules(promised.rules)
        self.steps.append(Step("search", time.perf_counter() - began, None))
        for name in promised.given_back:
            self._given_back_layers.add(name)
            self._refused[name] = "with it compressed, the promise would not be kept or the file not be smaller"
        return promised

    def fitted(self, promised: Promised | None) -> bool:
        """Whether the artifact was made for some of the samples: fitted to them, or chosen on them."""
        return promised is not None or any(isinstance(p, Reconstruct) for p in self.recipe.passes)

    def errors(
        self, model: Model, layers: Sequence[Layer], contents: Mapping[Constant, Held]
    ) -> dict[str, float]:
        """Relative error (root mean square) of each layer's output, its own inputs unchanged."""
        found = {la.name: 0.0 for la in layers} | self._errors
        changed = [la for la in layers if la.name not in self._errors and la.constant.content is not contents[la.constant][0]]
        now = {la.name: la.constant.weight or la.array() for la in changed}
        with restored({la.constant: contents[la.constant] for la in changed}):
            calibration = self.calibration if self.calibration.feeds else Calibration(self._shown)
            for part, moments in calibration.whole(model, changed):
                for layer in part:
                    weight = now[layer.name]
                    dense = weight.dense() if isinstance(weight, Weight) else weight
                    known = moments.get(layer.name) or Moments.white(Form.of(layer).width)
                    found[layer.name] = output_error(layer, layer.array(), dense, known)
        return found

    def lower(self, model: Model, layers: Sequence[Layer], encoding: Encode, keep: Sequence[str]) -> Lowered:
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
        if encoding.names == "short":
            shorten(model, keep)
        verify(model)
        self.steps.append(Step("lower", time.perf_counter() - began, None))
        return lowered

    def plain(self, layers: Sequence[Layer], lowered: Lowered) -> list[LeftAlone]:
        """Why layers that could have been compressed are not."""
        found, compressed = [], {s.layer for s in lowered.stored}
        for layer in layers:
            if layer.name in compressed:
                continue
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
