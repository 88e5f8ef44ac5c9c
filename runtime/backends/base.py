"""What a backend is: something that turns one compressed layer into a function on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy.typing as npt

from ..weight import Weight

if TYPE_CHECKING:
    from ..followers import Follower
    from .cpu import Verdict

Activations = Literal["f32", "i16", "u8"]
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)

Array = npt.NDArray[Any]
Run = Callable[[Sequence[Array | None]], list[Array | None]]
"""Takes the node's inputs that are no payloads, in their order (None for one left out); gives all its outputs."""


@dataclass(frozen=True)
class LayerSpec:
    """One ``ai.eie`` node: what it computes, without saying how.

    Attributes:
        op: ``Gemm``, ``Conv``, ``ConvTranspose``, ``LSTM``, ``GRU``, ``Gather`` or ``Decode`` (docs/format.md).
        name: what errors and reports call it.
        attributes: the node's attributes as Python values, ``activations`` left out.
        weights: the decoded payloads in the order of the node's inputs (two for LSTM and GRU).
        activations: the format it computes in.
        outputs: which of the node's outputs are asked for, in order (recurrent layers have up to three).
    """

    op: str
    name: str
    attributes: Mapping[str, Any]
    weights: tuple[Weight, ...]
    activations: Activations = "f32"
    outputs: tuple[bool, ...] = (True,)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A layer made ready; calling it runs it.

    Attributes:
        run: computes the layer.
        kernel: what that is called in reports.
        why: one sentence; "" where every layer runs this way.
        bytes: of the weight in memory; 0 where that is not known.
        follow: the same layer with followers behind it: takes the node's inputs, as many as the operator has at most, then
            the operands of the followers that have one. None where operators behind the layer run by themselves.
    """

    run: Run
    kernel: str
    why: str = ""
    bytes: int = 0
    follow: Callable[[Sequence[Follower]], Run] | None = None

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        return self.run(inputs)


@runtime_checkable
class Backend(Protocol):
    """Compiles layers. Compiled functions may be called from any thread and keep no state between calls."""

    name: str
    formats: tuple[Activations, ...]
    """Activation formats it computes in; the first where nobody asks for one and the artifact's is none of them."""

    def compile(self, spec: LayerSpec) -> Compiled: ...


@runtime_checkable
class InsideBackend(Protocol):
    """Computes layers inside ONNX Runtime: their nodes stay in the model, as custom operators."""

    name: str
    formats: tuple[Activations, ...]

    def verdict(self, spec: LayerSpec) -> Verdict | None:
        """Packed or dense; None where there is no choice."""

    def kernel(self, spec: LayerSpec) -> tuple[str, str]:
        """What runs a layer that stays packed, and why."""

    def register(self, options: Any) -> None:
        """Make the operators known to a session with these ``SessionOptions``."""

    def errors(self, where: str) -> AbstractContextManager[None]:
        """Turns what a session of such a model says no with into our errors."""
