"""The layers that are measured, with made-up weights: codes at a density, in a pattern."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from eie.runtime import Weight

from ..passes.sparsify import Sparsify

FloatArray = npt.NDArray[np.float32]
WINDOW = 64  # columns of which a balanced row keeps the same number each: what a kernel's step can reach


@dataclass(frozen=True)
class Case:
    """A layer.

    Attributes:
        kind: ``gemm``, ``conv``, ``lstm``, or ``projected``, a step of an LSTM whose cells are projected to fewer outputs, which come
            back as its state (Sak et al., 2014, and ESE, Han et al., FPGA 2017).
        shape: of its weight, [out, in] or [out, in/group, k...]; ``lstm``: [inputs, cells]; ``projected``: [inputs, cells, outputs].
        density: share of weights kept.
        side: ``conv``: height and width of the input.
        attributes: of the operator.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    density: float
    side: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)

    def weights(self, pattern: str, density: float | None = None) -> tuple[Weight, ...]:
        """Sixteen values, always the same numbers for the same arguments."""
        kept = self.density if density is None else density
        if self.kind == "projected":
            inputs, cells, outputs = self.shape
            gates = weight((4 * cells, inputs + outputs), kept, pattern, "Gemm")
            return Weight(gates.codes[None], gates.codebook), weight((outputs, cells), kept, pattern, "Gemm")
        if self.kind != "lstm":
            return (weight(self.shape, kept, pattern, "Gemm" if self.kind == "gemm" else "Conv"),)
        inputs, cells = self.shape
        made = (weight((4 * cells, n), kept, pattern, "Gemm") for n in (inputs, cells))
        return tuple(Weight(w.codes[None], w.codebook) for w in made)

    def input(self, batch: int) -> FloatArray:
        """Normal random numbers: [batch, in], [batch, channels, side, side], [1, batch, inputs], or, ``projected``, [1, batch, inputs and
        state]."""
        rng = np.random.default_rng(1)
        if self.kind == "gemm":
            shape: tuple[int, ...] = (batch, self.shape[1])
        elif self.kind == "conv":
            shape = (batch, self.shape[1] * self.attributes.get("group", 1), self.side, self.side)
        else:
            shape = (1, batch, self.shape[0] + (self.shape[2] if self.kind == "projected" else 0))
        return rng.standard_normal(shape, np.float32)


# EIE (Han et al., ISCA 2016), table III: outputs, inputs, density of the weights
_EIE = {
    "Alex-6": (4096, 9216, 0.09), "Alex-7": (4096, 4096, 0.09), "Alex-8": (1000, 4096, 0.25),
    "VGG-6": (4096, 25088, 0.04), "VGG-7": (4096, 4096, 0.04), "VGG-8": (1000, 4096, 0.23),
    "NT-We": (600, 4096, 0.10), "NT-Wd": (8791, 600, 0.11), "NT-LSTM": (2400, 1201, 0.10),
}  # fmt: skip

CASES: dict[str, Case] = {name: Case(name, "gemm", (out, inner), d) for name, (out, inner, d) in _EIE.items()}
CASES |= {
    case.name: case
    for case in (
        Case("resnet-3x3", "conv", (256, 256, 3, 3), 0.10, 14, {"pads": [1] * 4}),
        Case("resnet-1x1", "conv", (256, 1024, 1, 1), 0.10, 14),
        Case("alexnet-conv2", "conv", (256, 48, 5, 5), 0.10, 27, {"pads": [2] * 4, "group": 2}),
        Case("vgg-conv3_2", "conv", (256, 256, 3, 3), 0.10, 56, {"pads": [1] * 4}),
        Case("lstm-1024", "lstm", (153, 1024), 0.112),
        Case("ese-step", "projected", (153, 1024, 512), 0.112),
    )
}
CONV_DENSITIES = (0.10, 0.25, 0.35)


def weight(shape: tuple[int, ...], density: float, pattern: str, op: str) -> Weight:
    """Codes 1 to 15 where a mask of ``pattern`` (Sparsify's, on random magnitudes) keeps them.

    ``balanced`` keeps the same number in every row, and in every ``WINDOW`` columns of a row: bank-balanced sparsity
    (Cao et al., FPGA 2019).
    """
    rng = np.random.default_rng(0)
    made = rng.standard_normal(shape, np.float32)
    options: dict[str, Any] = {"window": WINDOW} if pattern == "balanced" else {}
    mask = Sparsify(density=density, pattern=pattern, **options).mask(made, op)
    codes = np.where(mask, rng.integers(1, 16, shape, np.uint8), 0).astype(np.uint8)
    return Weight(codes, np.concatenate([[0], np.sort(rng.standard_normal(15))]).astype(np.float32))
