"""A graph ready to run: steps in order, and what flows between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .backends.base import Run

if TYPE_CHECKING:
    import onnx

Values = Mapping[str, Any]


class Step(Protocol):
    """Something that runs: a segment, a compressed layer, a control-flow operator.

    Attributes:
        reads: the values it takes.
        writes: the values it gives, in order ("" for one nobody asked for).
        types: of what it writes.
        passes_on: whether what it gives may be what it was given, or a constant, instead of memory of its own.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    types: dict[str, onnx.TypeProto]
    passes_on: ClassVar[bool]

    def run(self, values: Values) -> Sequence[Any]: ...


@dataclass
class LayerStep:
    """A compressed layer. ``inputs`` are the node's inputs that are no payloads, "" for one left out."""

    inputs: tuple[str, ...]
    writes: tuple[str, ...]
    types: dict[str, onnx.TypeProto]
    compute: Run
    passes_on: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.reads = tuple(n for n in self.inputs if n)

    def run(self, values: Values) -> Sequence[Any]:
        return self.compute([values[n] if n else None for n in self.inputs])


@dataclass
class Program:
    """A graph or body.

    Attributes:
        inputs, outputs: names, in the graph's order.
        output_types: one for each output.
        captures: values it reads from the graphs around it.
        constants: those that steps outside ONNX Runtime read, or that are outputs.
        defaults: values of inputs that need not be fed.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_types: list[onnx.TypeProto]
    captures: tuple[str, ...]
    constants: dict[str, Any]
    steps: list[Step]
    defaults: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._plans: dict[tuple[str, ...], list[tuple[Step, tuple[str, ...]]]] = {}
        own = {name for step in self.steps if not step.passes_on for name in step.writes}
        self._passed_on = frozenset(self.outputs) - own

    def answer(self, values: Values, outputs: tuple[str, ...]) -> list[Any]:
        """As ``run``, for a caller outside, who may write to what he gets: never what he fed, and no constant of the model."""
        found = self.run(values, outputs=outputs)
        if self._passed_on:
            found = [_copied(v) if n in self._passed_on else v for n, v in zip(outputs, found, strict=True)]
        return found

    def run(self, values: Values, around: Values | None = None, outputs: tuple[str, ...] | None = None) -> list[Any]:
        """Compute outputs (all of them, or those named) from input values and the values around."""
        wanted = self.outputs if outputs is None else outputs
        plan = self._plan(wanted)
        if len(plan) == 1 and plan[0][0].writes == wanted and plan[0][0].reads == tuple(values):
            return [np.asarray(v) if isinstance(v, np.generic) else v for v in plan[0][0].run(values)[: len(wanted)]]
        held: dict[str, Any] = {**self.defaults, **self.constants, **(around or {}), **values}
        for step, dead in plan:
            for name, value in zip(step.writes, step.run(held), strict=False):
                if name:
                    held[name] = np.asarray(value) if isinstance(value, np.generic) else value
            for name in dead:
                held.pop(name, None)
        return [held[name] for name in wanted]

    def _plan(self, wanted: tuple[str, ...]) -> list[tuple[Step, tuple[str, ...]]]:
        """The steps the outputs need, each with the values nobody reads after it."""
        plan = self._plans.get(wanted)
        if plan is None:
            needed, reversed_plan = set(wanted), []
            for step in reversed(self.steps):
                if needed.isdisjoint(step.writes):
                    continue
                dead = tuple({*step.reads, *step.writes} - needed - {""})
                needed.update(step.reads)
                reversed_plan.append((step, dead))
            # threads that come here together write the same plan
            plan = reversed_plan[::-1]
            if len(self._plans) < 64:
                self._plans[wanted] = plan
        return plan


def _copied(value: Any) -> Any:
    return [_copied(v) for v in value] if isinstance(value, list) else np.array(value)
