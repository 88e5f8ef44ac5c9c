"""How training goes: the ``[train]`` table of a recipe. No torch here: recipes are read without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import UserError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("cosine", "linear", "step", "constant")
LOSSES = ("auto", "cross-entropy", "mse", "teacher")


@dataclass(frozen=True)
class Settings:
    """Attributes:
    epochs: passes over the training data that a training pass takes which does not say its own.
    lr: learning rate; passes multiply it by their own ``rate``.
    optimizer: sgd (with ``momentum``, Nesterov's), adam, adamw or rmsprop, as torch has them.
    momentum: of sgd and rmsprop, 0 to 1.
    weight_decay: L2 on weights, not on biases or codebooks.
    schedule: how the rate falls over a pass: cosine to 0, linear to 0, step (a tenth after one half and again after three
        quarters), or constant.
    warmup: share of a pass over which the rate rises from 0.
    batch: samples a step.
    seed: of the split, of the order of samples, and of torch.
    loss: auto, cross-entropy, mse, teacher, or module:function of the user's. auto: cross-entropy for whole labels, mse for
        others, and without labels the outputs of the model as it came (teacher).
    distill: share of the loss that compares with the model as it came (knowledge distillation), 0 to 1.
    temperature: of distillation.
    smoothing: of labels, 0 to 1.
    patience: epochs without a better validation score after which a pass ends; 0: never.
    validation: share of the training data held back to choose the epoch that is kept, 0 to 0.9.
    keep: best (by validation) or last, the epoch a pass ends with.
    shift: samples with at least two axes of their own (images) are moved along the last two by up to so many places each way,
        drawn anew each time; 0: as they are.
    clip: largest norm of all gradients together; 0: any.
    threads: of torch; 0: its own choice.
    """

    epochs: int = 10
    lr: float = 0.01
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    batch: int = 128
    seed: int = 0
    loss: str = "auto"
    distill: float = 0.0
    temperature: float = 2.0
    smoothing: float = 0.0
    patience: int = 0
    validation: float = 0.1
    keep: str = "best"
    shift: int = 0
    clip: float = 0.0
    threads: int = 0

    def __post_init__(self) -> None:
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("keep", self.keep, ("best", "last"))
        if ":" not in self.loss:
            _choice("loss", self.loss, LOSSES, "Or module:function.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} = {value!r} is outside {low:g} to {high:g}", where="train")

    @classmethod
    def parse(cls, table: Mapping[str, Any], where: str) -> Settings:
        """The table of a recipe.

        Raises:
            UserError: an unknown key, a value of the wrong type or out of range.
        """
        known = {f.name: f for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in known:
                raise UserError(f"unknown key {key!r}", where=f"{where}, [train]", hint=nearest(key, known))
            kind = {"int": int, "float": float, "str": str}[str(known[key].type)]
            wrong = isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind)
            if wrong:
                names = {int: "whole number", float: "number", str: "string"}
                raise UserError(f"{key} = {value!r} is no {names[kind]}", where=f"{where}, [train]")
            values[key] = kind(value)
        return cls(**values)

    def table(self, *, every: bool = False) -> dict[str, Any]:
        """What ``parse`` reads back: the values that are no defaults, or all."""
        default = Settings()
        return {k: v for k, v in asdict(self).items() if every or v != getattr(default, k)}


_RANGES = {
    "epochs": (0, 100_000),
    "lr": (0.0, 100.0),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, 10.0),
    "warmup": (0.0, 1.0),
    "batch": (1, 1 << 20),
    "seed": (0, (1 << 63) - 1),
    "distill": (0.0, 1.0),
    "temperature": (0.01, 1000.0),
    "smoothing": (0.0, 0.999),
    "patience": (0, 100_000),
    "validation": (0.0, 0.9),
    "shift": (0, 1024),
    "clip": (0.0, 1e9),
    "threads": (0, 4096),
}


def _choice(name: str, value: str, known: tuple[str, ...], more: str = "") -> None:
    if value not in known:
        hint = f"{nearest(value, known)} {more}".strip()
        raise UserError(f"{name} = {value!r} is none of {', '.join(known)}", where="train", hint=hint)
