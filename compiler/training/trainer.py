"""Fits a network's parameters to data. It knows no method of compression: passes make the parametrizations, and may change
them before each step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import LABEL
from ..errors import UserError
from ..ir.graph import Constant, Model
from ..progress import Progress
from ..usercode import source_of
from .augment import pictures, shifted
from .checkpoint import Checkpoints, fingerprint, graph_fingerprint
from .data import Arrays, Source, TrainingData
from .losses import Objective, as_tensors, classes, shares, soft
from .network import Network, without_gradient
from .settings import Settings

State = dict[str, Any]
_LABELS = 256  # that are looked at to see what they are
_KEPT_ANSWERS = 1 << 26  # values of the teacher's that are kept for all samples


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data came to.

    Attributes:
        phase: the training pass, and which of its parts.
        epoch: from 1.
        rate: learning rate at the end.
        loss, right: on the training data while it was learnt; ``right`` is a share, None where there are no classes.
        held_loss, held_right: on the validation data; NaN and None where there is none.
        seconds: of time.
        kept: its parameters are those the phase ended with.
    """

    phase: str
    epoch: int
    rate: float
    loss: float
    right: float | None
    held_loss: float
    held_right: float | None
    seconds: float
    kept: bool = False

    @property
    def judged(self) -> tuple[float, float]:
        """(share right, 0 where there are no classes; loss): of the validation data if there is any."""
        loss, right = (self.loss, self.right) if math.isnan(self.held_loss) else (self.held_loss, self.held_right)
        return (right if right is not None else 0.0, loss)

    def __str__(self) -> str:
        text = f"epoch {self.epoch}: loss {self.loss:.4g}" + _percent(self.right)
        return (
            text
            if math.isnan(self.held_loss)
            else f"{text}; validation {self.held_loss:.4g}{_percent(self.held_right)}"
        )


def _percent(share: float | None) -> str:
    return "" if share is None else f", {share:.2%} right"


class Training:
    """What a training pass is given: data, settings, the model as it came, a place for checkpoints.

    Args:
        original: the model as it came, canonical: the teacher of distillation. It is not changed.
        data: training and validation samples.
        settings: the ``[train]`` table.
        checkpoints: a folder, or None.
        progress: hears of each phase and epoch.

    Raises:
        UserError: the labels fit no loss.
    """

    def __init__(
        self,
        original: Model,
        data: TrainingData,
        settings: Settings,
        *,
        checkpoints: Checkpoints | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.original, self.data, self.settings = original, data, settings
        self.checkpoints, self.progress = checkpoints, progress
        self.history: list[Epoch] = []
        self.frozen: dict[str, str] = {}  # constants that no gradient reaches, and why
        label = data.train.take(np.arange(min(len(data.train), _LABELS))).get(LABEL)
        self.objective = Objective.of(original, settings, None if label is None else torch.as_tensor(np.asarray(label)))
        self._teacher: Network | None = None
        self._classes: int | None = None
        self._soft = False
        self.moved = pictures(original, data) if settings.shift else {}
        if settings.shift and not self.moved and progress is not None:
            progress.note("shift: no input holds images that can be moved; samples stay as they are")
        if self.objective.kind == "cross-entropy":
            self._check_labels()
        self._answers: list[Tensor] | None = None
        self._phases = 0

    # -- for passes ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        network: Network,
        phase: str,
        *,
        epochs: int | None = None,
        rate: float = 1.0,
        before: Callable[[float], None] | None = None,
        settled: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> list[Epoch]:
        """Train a network's parameters in place; at the end they are those of the epoch that is kept, or, but in the first phase, as
        they came where no epoch made them better.

        Args:
            network: what is trained; its parametrizations hold all state.
            phase: what it is called.
            epochs: over the training data; those of the settings when None.
            rate: times the settings' learning rate.
            before: called before each step with the share of the phase that is done, 0 to 1, and with 1 at the end; may change
                masks and codebooks.
            settled: share of the phase after which ``before`` changes masks no more: only epochs that begin later are kept, or
                the last.
            options: what else decides how it goes, by layer: a checkpoint of other options is refused.

        Raises:
            UserError: nothing that is trained has a gradient, the loss is not finite, or a checkpoint is of another run.
        """
        self._check(network)
        run = _Phase(
            self, network, phase, self.settings.epochs if epochs is None else epochs, rate, before, settled, options
        )
        index, self._phases = self._phases, self._phases + 1
        with _own_torch(self.settings.threads, network.device):
            found = run.run(index)
        self.history += found
        return found

    def evaluate(self, network: Network, source: Source | None = None) -> tuple[float, float | None]:
        """Mean loss, and share of right answers where there are classes, over the validation data or ``source``."""
        samples = self.data.validation if source is None else source
        if not len(samples):
            return math.nan, None
        total, right, batch = 0.0, 0.0, self.settings.batch
        network.eval()
        with torch.no_grad(), _own_torch(self.settings.threads, network.device):
            for begin in range(0, len(samples), batch):
                rows = np.arange(begin, min(begin + batch, len(samples)))
                given = self.batch(samples, rows, network.device)
                outputs = self.outputs(network, given)
                teacher = self.outputs(self.teacher, given) if self.objective.teaching else None
                total += float(self.objective.loss(outputs, given, teacher)) * len(rows)
                hits = self.objective.right(outputs, given)
                right = -1.0 if hits is None or right < 0 else right + float(hits)
        return total / len(samples), None if right < 0 else right / len(samples)

    def outputs(self, network: Network, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors the loss reads, for a batch."""
        names = {i.name for i in network.graph.inputs}
        feeds = {k: v for k, v in batch.items() if k in names and k not in network.graph.constants}
        if self.data.stacked:
            return network.each(feeds, self.objective.tensors, self.data.alike)
        return network(feeds, self.objective.tensors)

    def batch(self, source: Source, rows: np.ndarray[Any, Any], device: torch.device) -> dict[str, Tensor]:
        """Samples as tensors.

        Raises:
            UserError: a label is of no class.
        """
        found = source.take(rows)
        if self._classes is not None and LABEL in found:
            self._check_range(found[LABEL])
        return as_tensors(found, device)

    def unreached(self, model: Model, constants: Sequence[Constant]) -> dict[str, str]:
        """Constants of ``model`` that no gradient reaches: name -> why."""
        return without_gradient(model.graph, self.objective.tensors, constants)

    @cached_property
    def marks(self) -> dict[str, str]:
        """Fingerprints of what all phases depend on: the data, the model as it came, and the user's loss."""
        loss = "" if self.objective.user is None else source_of(self.objective.user)
        return {"data": self.data.fingerprint, "model": graph_fingerprint(self.original.graph), "loss": fingerprint(loss)}

    @property
    def teacher(self) -> Network:
        """The model as it came."""
        if self._teacher is None:
            self._teacher = Network(self.original).eval()
        return self._teacher

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _check_labels(self) -> None:
        """Labels are numbers of the model's classes."""
        source = self.data.train
        with torch.no_grad():
            scores = self.outputs(self.teacher, as_tensors(source.take(np.arange(1)), self.teacher.device))[0]
        first = torch.as_tensor(source.take(np.arange(1))[LABEL])
        scores = classes(scores, first)
        self._soft = soft(first, scores)
        self._classes = scores.shape[1]
        if self._classes == 1:
            raise UserError("the model gives one score, and cross-entropy compares several", where="train",
                            hint="Labels of floats are compared by squares; a loss of your own: --loss module:function.")  # fmt: skip
        for part in (self.data.train, self.data.validation):
            if isinstance(part, Arrays) and len(part):  # others are looked at batch by batch
                self._check_range(part.arrays[LABEL][part.rows])

    def _check_range(self, labels: np.ndarray[Any, Any]) -> None:
        assert self._classes is not None
        if self._soft:
            if not shares(torch.as_tensor(labels)):
                raise UserError("some rows of the labels are probabilities of classes, and others are none", where=LABEL,
                                hint='For other numbers: loss = "mse" in [train].')  # fmt: skip
            return
        if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
            raise UserError("the labels are no whole numbers, and cross-entropy takes indices of classes", where=LABEL)
        if not 0 <= labels.min() <= labels.max() < self._classes:
            raise UserError(f"the labels go from {labels.min()} to {labels.max()}, and the model tells {self._classes} classes apart",
                            where=LABEL, hint=f"They are indices, 0 to {self._classes - 1}.")  # fmt: skip

    def _check(self, network: Network) -> None:
        constants = [t.constant for t in network.trained]
        lost = without_gradient(network.graph, self.objective.tensors, constants)
        if len(lost) == len(constants):
            name, why = next(iter(lost.items()), ("train", "no layer is chosen, and nothing else has floats of 16 or 32 bits to train"))
            raise UserError(
                f"nothing can be trained: {why}", where=name, hint="Train the model before it is quantized."
            )
        self.frozen |= lost

    def answers(self, rows: np.ndarray[Any, Any], given: Mapping[str, Tensor]) -> list[Tensor] | None:
        """What the teacher says to training samples; computed once where that fits in memory."""
        if not self.objective.teaching:
            return None
        with torch.no_grad():
            if self.moved or not isinstance(self.data.train, Arrays):
                return self.outputs(self.teacher, given)
            if self._answers is None:
                self._answers = self._all_answers()
            if not self._answers:
                return self.outputs(self.teacher, given)
            return [a[torch.from_numpy(rows).to(a.device)] for a in self._answers]

    def _all_answers(self) -> list[Tensor]:
        source, parts, batch = self.data.train, [], self.settings.batch
        for begin in range(0, len(source), batch):
            rows = np.arange(begin, min(begin + batch, len(source)))
            parts.append(self.outputs(self.teacher, as_tensors(source.take(rows), self.teacher.device)))
            if sum(p.numel() for p in parts[0]) * len(source) > _KEPT_ANSWERS * min(batch, len(source)):
                return []
            if any(p.ndim == 0 or len(p) != len(rows) for p in parts[-1]):
                return []  # outputs that do not count samples along the first axis
        return [torch.cat([p[i] for p in parts]) for i in range(len(parts[0]))]


@contextmanager
def _own_torch(threads: int, device: torch.device) -> Iterator[None]:
    """While it lasts torch has so many threads (0: its own choice); afterwards they and its random numbers are the caller's again."""
    held = torch.get_num_threads()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            if threads:
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(held)


class _Phase:
    """One ``fit``."""

    def __init__(
        self,
        training: Training,
        network: Network,
        name: str,
        epochs: int,
        rate: float,
        before: Callable[[float], None] | None,
        settled: float,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.options = sorted((name, str(value)) for name, value in (options or {}).items())
        self.training, self.network, self.name, self.epochs = training, network, name, epochs
        self.before, self.settled = before, settled
        self.settings = replace(training.settings, lr=training.settings.lr * rate)
        self.samples = training.data.train
        self.steps = -(-len(self.samples) // self.settings.batch)
        self.optimizer = _optimizer(network, self.settings)
        self.found: list[Epoch] = []
        self.best: tuple[State, int] | None = None
        self.start: Epoch | None = None  # what it began with, judged; None where that can't be kept
        self.index = 0

    def run(self, index: int) -> list[Epoch]:
        """Every epoch that is still to do."""
        self.index = index
        checkpoints, marks = self.training.checkpoints, dict[str, str]()
        # with ``before`` masks or codebooks are not yet what was asked for; and the model as it came has mostly been trained on what is
        # held back now, so that nothing would seem better
        if self.before is None and index > 0:
            self._judge(Epoch(self.name, 0, 0.0, math.nan, None, *self.training.evaluate(self.network), 0.0))
        if checkpoints is not None:
            marks = self._marks()
            try:
                self._resume(checkpoints.load(index, marks))
                self._tired()  # reads all that was loaded: damage shows here
            except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise checkpoints.damaged(index) from error
            if self.found and self.training.progress is not None:
                self.training.progress.note(f"resumed: {self.name} after epoch {len(self.found)}, from {checkpoints.path(index)}")
        if self.training.progress is not None:
            self.training.progress.stage(self.name, self.epochs)
        while len(self.found) < self.epochs and not self._tired():
            self.found.append(self._epoch(len(self.found)))
            if self.training.progress is not None:
                self.training.progress.step(str(self.found[-1]))
                self.training.progress.note(f"{self.name}: {self.found[-1]}")
            self._judge(self.found[-1])
            if checkpoints is not None:
                checkpoints.save(index, self._state(marks), must=len(self.found) == self.epochs or self._tired())
        if self.settings.keep == "best" and self.best is not None:
            self.network.load_state_dict(self.best[0])
            kept = self.best[1]
        else:
            kept = len(self.found)
        if kept == 0 and self.found and self.training.progress is not None:
            self.training.progress.note(f"{self.name}: no epoch was better than what it began with, which is kept")
        found = [replace(e, kept=e.epoch == kept) for e in self.found]
        if self.before is not None:
            self.before(1.0)
            held_loss, held_right = self.training.evaluate(self.network)  # of what is stored
            found = [replace(e, held_loss=held_loss, held_right=held_right) if e.kept else e for e in found]
        return found

    def _judge(self, epoch: Epoch) -> None:
        counted = self._counted()
        if epoch.epoch == 0:
            counted = [epoch]
            self.start = None if math.isnan(epoch.held_loss) else epoch
        if counted and self._best(counted) is epoch:
            held = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
            self.best = (held, epoch.epoch)

    def _counted(self) -> list[Epoch]:
        """What may be kept: epochs that began when the form was final, the last, and what the phase began with."""
        final = self.settled * self.epochs - 1e-9
        found = [e for e in self.found if e.epoch - 1 >= final or e.epoch == self.epochs]
        return found if self.start is None else [self.start, *found]

    def _tired(self) -> bool:
        """Whether too many epochs brought nothing better."""
        if not self.settings.patience or not self.found:
            return False
        counted = self._counted()
        return bool(counted) and len(counted) - 1 - counted.index(self._best(counted)) >= self.settings.patience

    def _best(self, epochs: Sequence[Epoch]) -> Epoch:
        """The one of least loss, of those whose accuracy is within a standard error of the best seen until then: a few
        samples of a small validation set are no reason to keep an epoch that has not learnt enough."""
        samples = max(1, len(self.training.data.validation) or len(self.samples))
        best, top = epochs[0], epochs[0].judged[0]
        for epoch in epochs[1:]:
            right, loss = epoch.judged
            top = max(top, right)
            likely = (top * samples + 1) / (samples + 2)  # Laplace's rule: all right does not mean certainly right
            least = top - math.sqrt(likely * (1 - likely) / samples)
            if right >= least and (best.judged[0] < least or loss < best.judged[1]):
                best = epoch
        return best

    def _epoch(self, number: int) -> Epoch:
        began = time.perf_counter()
        seed = [self.settings.seed, 2, self.index, number]
        rng = np.random.default_rng(seed)
        torch.manual_seed(int(rng.integers(1 << 62)))
        order = rng.permutation(len(self.samples))
        loss, right, now = torch.zeros((), device=self.network.device), 0, 0.0
        self.network.train()
        for step in range(self.steps):
            done = (number * self.steps + step) / (self.epochs * self.steps)
            if self.before is not None:
                self.before(done)
            now = self.settings.lr * schedule(self.settings, done)
            for group in self.optimizer.param_groups:
                group["lr"] = now
            rows = order[step * self.settings.batch : (step + 1) * self.settings.batch]
            value, hits = self._step(rows)
            loss = loss + value * len(rows)
            right = -1 if hits is None or right < 0 else right + hits
        mean = float(loss) / len(self.samples)
        held_loss, held_right = self.training.evaluate(self.network)
        wrong = ""
        if not math.isfinite(mean):
            wrong = "the loss is"
        elif not all(bool(torch.isfinite(p).all()) for p in self.network.parameters()):
            wrong = "weights are"
        elif len(self.training.data.validation) and not math.isfinite(held_loss):
            wrong = "the loss of the validation data is"
        if wrong:
            raise UserError(f"{wrong} not finite in epoch {number + 1}", where=self.name,
                            hint="A lower learning rate (lr), or clip = 1.0 in [train], helps; "
                                 "or samples hold NaN or infinity.")  # fmt: skip
        return Epoch(
            self.name, number + 1, now, mean, None if right < 0 else float(right) / len(self.samples), held_loss, held_right,
            time.perf_counter() - began,
        )  # fmt: skip

    def _step(self, rows: np.ndarray[Any, Any]) -> tuple[Tensor, Any]:
        given = self.training.batch(self.samples, rows, self.network.device)
        given = shifted(given, self.settings.shift, self.training.moved)
        outputs = self.training.outputs(self.network, given)
        loss = self.training.objective.loss(outputs, given, self.training.answers(rows, given))
        if not loss.requires_grad:
            raise UserError("the loss has no gradient: it does not depend on the outputs, or not by way of torch", where=self.settings.loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.network.observe()
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimizer.step()
        self.network.project()
        return loss.detach(), self.training.objective.right([o.detach() for o in outputs], given)

    # -- checkpoints -----------------------------------------------------------------------------------------------------

    def _marks(self) -> dict[str, str]:
        settings = asdict(replace(self.settings, threads=0))
        held = [v for _, v in sorted(self.network.state_dict().items())]
        return {
            **self.training.marks,
            "recipe": fingerprint(self.name, self.epochs, settings, self.settled, self.options),
            "beginning": fingerprint(graph_fingerprint(self.network.graph), *held),
        }

    def _state(self, marks: Mapping[str, str]) -> State:
        return {
            "fingerprint": dict(marks),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": [asdict(e) for e in self.found],
            "best": None if self.best is None else {"network": self.best[0], "epoch": self.best[1]},
        }

    def _resume(self, state: State | None) -> None:
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.found = [Epoch(**e) for e in state["epochs"]]
        best = state["best"]
        self.best = None if best is None else (best["network"], best["epoch"])


def schedule(settings: Settings, done: float) -> float:
    """The learning rate as a share of the largest, ``done`` of a phase."""
    if done < settings.warmup:
        return (done + 1e-3) / (settings.warmup + 1e-3)
    done = (done - settings.warmup) / max(1e-9, 1 - settings.warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if settings.schedule == "linear":
        return 1 - done
    if settings.schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    return 1.0


def _optimizer(network: Network, settings: Settings) -> torch.optim.Optimizer:
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for trained in network.trained:
        weights = trained.parametrization.decayed() if trained.weight else []
        for parameter in trained.parametrization.parameters():
            (decayed if any(parameter is w for w in weights) else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=settings.lr, momentum=settings.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(groups, lr=settings.lr)
