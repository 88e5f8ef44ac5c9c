"""What is done while a recipe is followed: its passes on all layers, training, the search, lowering, and what is noted on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.inliner import inline_local_functions

from eie.runtime.operators import DOMAIN
from eie.runtime.weight import Weight

from .analysis.calibration import Calibration
from .analysis.fidelity import INLINE_LIMIT, Fidelity
from .analysis.form import Form
from .analysis.judge import Judge
from .analysis.layers import Layer, LeftAlone
from .analysis.moments import Moments
from .analysis.undo import restored
from .data import Feeds, inputs_of
from .errors import ModelError
from .ir.graph import Constant, Held, Model, copied
from .ir.reader import read
from .ir.verifier import verify
from .ir.writer import to_proto
from .lowering.artifact import Lowered, lower
from .lowering.names import shorten
from .passes.base import NO_DATA, LedgerEntry, Pass, PassResult, TrainingPass
from .passes.canonicalize import Canonicalize
from .passes.encode import Encode
from .passes.reconstruct import Reconstruct, output_error, reconstruct
from .progress import Progress
from .recipe import Budget, Recipe
from .report.result import Learnt, Step
from .search.choose import Promised, search
from .search.curves import Cache
from .training.settings import Settings

if TYPE_CHECKING:
    from .training.data import TrainingData
    from .training.trainer import Training

Source = str | Path | onnx.ModelProto

COMPARED = 512  # samples that are compared, of those given, where the recipe has no budget to say how many


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


class Run:
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
        self.folded: dict[str, str] = {}
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
        """Load training data; gives inputs to compare outputs on: of samples held back, or, where there are none, of those trained on."""
        from .training.data import load

        settings = self.recipe.train or Settings()
        self.progress.stage("training data", 0)
        self.samples = load(data, model, validation=settings.validation, seed=settings.seed, extra=":" in settings.loss)
        held = self.samples.validation if len(self.samples.validation) else self.samples.train
        rows = np.unique(np.linspace(0, len(held) - 1, min(len(held), COMPARED)).astype(np.int64))
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
        done = self.training
        return Learnt(
            len(data.train), len(data.validation), *self._before, tuple(done.history), done.frozen, done.objective.name
        )

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
        if step.reshapes:
            self.folded.update({e.layer: e.action for e in outcome.ledger if e.action})
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
        if self.recipe.budget is None or skipped or self.samples is not None:  # what training reaches isn't known before
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


def size_of(source: Source, model: Model) -> int:
    """Bytes on disk, external data included."""
    if isinstance(source, onnx.ModelProto):
        return int(source.ByteSize())
    mapped = sum(
        c.nbytes for graph in model.graph.graphs() for c in graph.constants.values() if isinstance(c.content, np.memmap)
    )
    return Path(source).stat().st_size + mapped


def weight_bytes(model: Model) -> int:
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
