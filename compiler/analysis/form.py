"""A layer's weight as the matrix that multiplies its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .layers import RECURRENT, Layer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Form:
    """How a weight's axes become [groups, out, values]; ``values`` is what one output reads.

    Attributes:
        op: ONNX operator.
        shape: of the weight, as a Layer has it.
        groups: sets of outputs, each with inputs of its own: a convolution's groups, a recurrent operator's directions.
    """

    op: str
    shape: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, layer: Layer) -> Form:
        if layer.op in {"Conv", "ConvTranspose"}:
            return cls(layer.op, layer.shape, int(layer.node.get("group", 1)))
        return cls(layer.op, layer.shape, layer.shape[0] if layer.op in RECURRENT else 1)

    @property
    def width(self) -> int:
        """Values that an output reads."""
        if self.op == "Conv":
            return int(np.prod(self.shape[1:]))
        return self.shape[0] // self.groups if self.op == "ConvTranspose" else self.shape[-1]

    def matrix(self, weight: Array) -> Array:
        """A weight, or its codes, as [groups, out, values]."""
        if self.op == "ConvTranspose":  # each input position scatters x W: [in, out, k...] read as [out * k, in]
            return weight.reshape(self.groups, self.width, -1).transpose(0, 2, 1)
        return weight.reshape(self.groups, -1, self.width)

    def array(self, matrix: Array) -> Array:
        """The inverse of ``matrix``."""
        if self.op == "ConvTranspose":
            matrix = matrix.transpose(0, 2, 1)
        return np.ascontiguousarray(matrix).reshape(self.shape)

    def rows(self, keep: int) -> tuple[Form, Array] | None:
        """The form of a part of the outputs, about ``keep`` weights, and which outputs [of a group]; None where all are taken."""
        size = int(np.prod(self.shape))
        outputs = size // max(1, self.groups * self.width)
        if size <= keep or self.op == "ConvTranspose" or outputs < 2:
            return None
        picked = np.sort(np.random.default_rng(0).permutation(outputs)[: max(1, outputs * keep // size)])
        if self.op == "Conv":
            shape = (self.groups * picked.size, *self.shape[1:])
        else:
            shape = (
                (self.groups, picked.size, self.width)
                if self.groups > 1 or len(self.shape) > 2
                else (picked.size, self.width)
            )
        return Form(self.op, shape, self.groups), picked
