"""What training makes small, and how right a model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..analysis.fidelity import judged_tensors
from ..data import LABEL
from ..errors import UserError
from ..ir.graph import Model
from ..usercode import calling, load_function
from .settings import Settings

Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Objective:
    """What is compared with what.

    Attributes:
        tensors: those the loss reads; the scores of classes are taken before a final Softmax.
        kind: cross-entropy, mse, teacher, or user.
        teaching: the loss reads what the model as it came says.
        user: the user's function, (outputs, samples) -> loss, both by name.
    """

    tensors: tuple[str, ...]
    kind: str
    teaching: bool
    settings: Settings
    user: Loss | None = None

    @property
    def name(self) -> str:
        """What reports call it."""
        known = {"teacher": "what the model as it came says", "mse": "mean squared error", "user": self.settings.loss}
        said = known.get(self.kind, self.kind)
        return f"{said} and the model as it came" if self.settings.distill and self.kind != "teacher" else said

    @classmethod
    def of(cls, model: Model, settings: Settings, label: Tensor | None) -> Objective:
        """The objective of a model and its data.

        Args:
            label: of some samples, [samples, ...], or None. Rows of shares that sum to 1 are probabilities of classes.

        Raises:
            UserError: the labels fit no loss.
        """
        kind, user = settings.loss, None
        if label is not None and label.numel() == 0:
            raise UserError("the labels hold no values", where=LABEL)
        if ":" in kind:
            kind, user = "user", load_function(settings.loss, "train.loss")
        elif kind == "auto":
            classed = label is not None and (not label.is_floating_point() or shares(label))
            kind = "teacher" if label is None else "cross-entropy" if classed else "mse"
        if kind in ("cross-entropy", "mse") and label is None:
            raise UserError(f"the loss {kind} needs labels", where="train", hint=f"Add an array {LABEL!r} to the data.")
        if kind == "user":
            tensors = tuple(o.name for o in model.graph.outputs)
        elif kind == "cross-entropy":
            tensors = (_scores(model),)
        elif kind == "mse":
            tensors = (model.graph.outputs[0].name,)
        else:
            tensors = tuple(judged_tensors(model))
        return cls(tensors, kind, kind == "teacher" or settings.distill > 0, settings, user)

    def loss(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor], teacher: Sequence[Tensor] | None) -> Tensor:
        """A number for a batch; ``teacher`` as ``outputs``, where the objective teaches."""
        if self.kind == "user":
            assert self.user is not None
            with calling(self.settings.loss):
                found = self.user(dict(zip(self.tensors, outputs, strict=True)), batch)
            if not isinstance(found, Tensor) or found.ndim or found.is_complex():
                what = f"a tensor {list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
                raise UserError(f"the loss function gave no single number but {what}", where=self.settings.loss, hint="Take its mean.")
            own = found
        elif self.kind == "teacher":
            assert teacher is not None
            return sum(
                (_relative(y, t) for y, t in zip(outputs, teacher, strict=True)),
                torch.zeros((), device=outputs[0].device),
            )
        elif self.kind == "mse":
            if outputs[0].numel() != batch[LABEL].numel():
                raise UserError(f"labels of the shape {list(batch[LABEL].shape)} for outputs of {list(outputs[0].shape)}", where=LABEL,
                                hint="Class numbers are whole: label.astype(numpy.int64).")  # fmt: skip
            own = F.mse_loss(outputs[0].reshape(batch[LABEL].shape), batch[LABEL])
        else:
            scores = classes(outputs[0], batch[LABEL])
            labels = _targets(batch[LABEL], scores)
            if len(scores) != len(labels):
                one = "Of one-hot labels, take label.argmax(-1)." if labels.numel() == scores.numel() else None
                raise UserError(f"the model gives {len(scores)} answers for {len(labels)} labels", where=LABEL, hint=one)
            own = F.cross_entropy(scores, labels, label_smoothing=self.settings.smoothing)
        share = self.settings.distill
        if not share:
            return own
        assert teacher is not None
        return (1 - share) * own + share * self._distilled(outputs, teacher, batch)

    def _distilled(self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Hinton, Vinyals, Dean 2015: cross-entropy with the teacher's softened answer, times the temperature squared; the squared
        difference from its answer where there are no classes, or nothing but the user's loss knows them."""
        if self.kind != "cross-entropy":
            pairs = zip(outputs, teacher, strict=True)
            return torch.stack([_relative(y, t) for y, t in pairs if y.is_floating_point()]).mean()
        heat = self.settings.temperature
        soft, wanted = (torch.log_softmax(classes(s[0], batch[LABEL]) / heat, 1) for s in (outputs, teacher))
        return F.kl_div(soft, wanted, reduction="batchmean", log_target=True) * heat**2

    def right(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor | None:
        """How many samples the largest score is right for, by the share of their answers where they have several; None where
        there are no classes."""
        if LABEL not in batch or self.kind not in ("cross-entropy", "user"):
            return None
        if self.kind == "user" and batch[LABEL].is_floating_point():
            return None
        if outputs[0].ndim < 2:
            return None
        scores = classes(outputs[0], batch[LABEL])
        labels = _targets(batch[LABEL], scores)
        if len(scores) != len(labels):
            return None
        labels = labels.argmax(1) if labels.ndim == 2 else labels
        return (scores.argmax(1) == labels).sum() * (len(batch[LABEL]) / len(labels))


def _targets(labels: Tensor, scores: Tensor) -> Tensor:
    """What ``scores`` [samples, classes] are compared with: probabilities of their shape, or numbers of classes [samples]."""
    return labels.reshape(scores.shape).to(scores.dtype) if soft(labels, scores) else labels.reshape(-1).to(torch.int64)


def shares(labels: Tensor) -> bool:
    """Whether rows of labels are probabilities: none negative, each row's sum 1."""
    if labels.ndim < 2:
        return False
    rows = labels.reshape(-1, labels.shape[-1]).to(torch.float64)
    return rows.shape[1] > 1 and bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-3).all())


def soft(labels: Tensor, scores: Tensor) -> bool:
    """Whether labels are a probability for each of ``scores`` [samples, classes], and not numbers of classes."""
    return labels.is_floating_point() and labels.numel() == scores.numel() and scores.shape[1] > 1


def classes(scores: Tensor, labels: Tensor | None = None) -> Tensor:
    """[answers, classes]: a sample has one answer, axes of size 1 dropped, or one for each of its labels."""
    if scores.ndim == 2:
        return scores
    answers = scores.shape[:-1]
    if labels is not None and labels.ndim >= 2 and labels.shape in (answers, (*answers, 1), scores.shape):
        return scores.reshape(-1, scores.shape[-1])
    wide = [a for a in range(1, scores.ndim) if scores.shape[a] > 1]
    if len(wide) != 1:
        raise UserError(f"cross-entropy needs an output [samples, classes], the first is {list(scores.shape)}", where="train",
                        hint="Give a loss of your own: --loss module:function.")  # fmt: skip
    return scores.reshape(len(scores), scores.shape[wide[0]])


def _relative(y: Tensor, t: Tensor) -> Tensor:
    """|y - t|^2 / |t|^2."""
    return (y - t).square().sum() / t.square().sum().clamp_min(1e-12)


def _scores(model: Model) -> str:
    """The tensor the first output is the Softmax of, or that output."""
    name = model.graph.outputs[0].name
    judged = judged_tensors(model)[0]
    node = model.graph.producer(judged)
    while node is not None and node.op in ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose"):
        node = model.graph.producer(node.inputs[0])
    if node is not None and node.op in ("Softmax", "LogSoftmax"):
        return node.inputs[0]
    return judged if model.graph.producer(name) is not None else name


def as_tensors(batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Arrays of a batch as tensors."""
    from .operators.shapes import tensor_of

    return {name: tensor_of(array, False, device) for name, array in batch.items()}
