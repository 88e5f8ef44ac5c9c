"""Prune by magnitude: the weights of least |w| become zero.

Deep Compression (ICLR 2016), section 2: a threshold on |w|, a layer at a time. The paper sets it as a quality parameter times
the layer's standard deviation; ``density`` sets it so that a given share is kept. ESE (FPGA 2017), section 3.2: every processing
element keeps the same number (``balanced``), so that none waits for another. ``block`` and ``n:m`` keep what vector units like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eie.runtime.weight import Pattern, Weight

from ..analysis.layers import Layer
from ..errors import UserError
from ..ir.graph import Model
from .base import Layers, LedgerEntry, Pass, PassResult, Select, all_layers, every, option

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_KERNELS = {"Conv", "ConvTranspose"}

BLOCK = 4  # weights along the input that a block holds


@dataclass(frozen=True)
class Sparsify(Pass):
    """Keep the weights of largest magnitude, in a pattern. A threshold, where one is given, replaces the density."""

    name: ClassVar[str] = "sparsify"

    density: float = option(1.0, "share of weights kept", low=0.0, high=1.0)
    threshold: float = option(
        0.0, "keep |w| >= threshold standard deviations of the layer's weights; 0: by density", low=0.0
    )
    pattern: str = option("unstructured", "unstructured, balanced, block, or N:M such as 2:4")
    lanes: int = option(
        16, "balanced: row r belongs to lane r mod lanes; every lane keeps the same count", low=1, high=4096
    )
    window: int = option(
        0,
        "balanced: instead of lanes, every row keeps the same count in each so many columns; 0: lanes",
        low=0,
        high=65536,
    )

    def __post_init__(self) -> None:
        if self.pattern not in {"unstructured", "balanced", "block"} and self._n_of_m() is None:
            raise UserError(
                f"pattern = {self.pattern!r} is none of unstructured, balanced, block, N:M",
                where="sparsify",
                hint="N of every M weights along the input are kept, for example 2:4.",
            )

    def _n_of_m(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"(\d{1,3}):(\d{1,3})", self.pattern)
        return (int(match[1]), int(match[2])) if match and 0 < int(match[1]) <= int(match[2]) else None

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        entries, changed = [], False
        for layer in filter(select, all_layers(model, layers)):
            before = layer.array()
            mask = self.mask(before, layer.op)
            if (before[~mask] != 0).any() or layer.pattern != self.kind:
                self._apply(layer, before, mask)
                changed = True
            after = np.where(mask, before, 0)
            entries.append(
                LedgerEntry(
                    layer.name,
                    f"kept {np.count_nonzero(after) / max(1, after.size):.1%}",
                    kept=np.count_nonzero(after) / max(1, after.size),
                    error=relative_error(before, after),
                )
            )
        return PassResult(changed, tuple(entries))

    @property
    def kind(self) -> Pattern:
        """The pattern's name, as a Weight has it."""
        named: dict[str, Pattern] = {"balanced": "balanced", "block": "block", "unstructured": "unstructured"}
        return named.get(self.pattern, "n:m")

    def _apply(self, layer: Layer, array: Array, mask: Mask) -> None:
        if layer.weight is not None:
            codes = np.where(mask, layer.weight.codes, 0).astype(np.uint8)
            layer.set_weight(Weight(codes, layer.weight.codebook, self.kind))
        else:
            layer.set_array(np.where(mask, array, 0), self.kind)

    def mask(self, weight: Array, op: str = "Gemm") -> Mask:
        """Which weights are kept, the shape of ``weight``: [..., out, in], or a kernel [out, in/group, k...] of ``op``."""
        magnitude = np.abs(weight)
        if magnitude.size == 0:
            return np.ones(weight.shape, np.bool_)
        if self.threshold > 0:
            return np.asarray(magnitude >= self.threshold * weight.std())
        # a row an output
        rows = magnitude.reshape(len(weight), -1) if op in _KERNELS else magnitude.reshape(-1, weight.shape[-1])
        two = self._n_of_m()
        if two is not None:
            mask = _groups(rows, two[1], two[0])
        elif self.density >= 1:
            mask = np.ones(rows.shape, np.bool_)
        elif self.pattern == "balanced":
            mask = _banks(rows, self.density, self.window) if self.window else self._balanced(rows)
        elif self.pattern == "block":
            return _blocks(magnitude, self.density, _input_axis(magnitude, op))
        else:
            mask = largest(rows.reshape(-1), round(self.density * rows.size)).reshape(rows.shape)
        return mask.reshape(weight.shape)

    def _balanced(self, rows: Array) -> Mask:
        mask = np.zeros(rows.shape, np.bool_)
        lanes = min(self.lanes, len(rows))
        shortest = len(rows) // lanes * rows.shape[1]  # a lane may have one row less than another
        for lane in range(lanes):
            part = rows[lane::lanes]
            mask[lane::lanes] = largest(part.reshape(-1), round(self.density * shortest)).reshape(part.shape)
        return mask


def largest(magnitude: Array, count: int) -> Mask:
    """True for exactly ``count`` of the largest; of equal ones, the first."""
    mask = np.zeros(magnitude.size, np.bool_)
    if count > 0:
        cut = np.partition(magnitude, magnitude.size - count)[magnitude.size - count]
        mask = magnitude > cut
        ties = np.flatnonzero(magnitude == cut)[: count - int(np.count_nonzero(mask))]
        mask[ties] = True
    return mask


def _groups(rows: Array, size: int, keep: int) -> Mask:
    """The ``keep`` largest of every ``size`` along the input; a shorter last group keeps at most as many."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)), constant_values=-1.0)
    groups = padded.reshape(len(rows), -1, size)
    order = np.argsort(-groups, axis=2, kind="stable")
    mask = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(mask, order[:, :, :keep], True, axis=2)
    return mask.reshape(padded.shape)[:, : rows.shape[1]]


def _banks(rows: Array, density: float, window: int) -> Mask:
    """Every row alike: as many of the largest in each ``window`` columns as make up the density so far."""
    mask = np.zeros(rows.shape, np.bool_)
    for begin in range(0, rows.shape[1], window):
        part = rows[:, begin : begin + window]
        keep = round(density * (begin + part.shape[1])) - round(density * begin)
        if keep > 0:
            at = np.argpartition(-part, keep - 1, axis=1)[:, :keep]
            np.put_along_axis(mask[:, begin : begin + window], at, True, axis=1)
    return mask


def _input_axis(weight: Array, op: str) -> int:
    """The axis of ``weight`` that inputs lie along: [..., out, in], [out, in, k...] of Conv, [in, out, k...] of ConvTranspose."""
    return {"Conv": 1, "ConvTranspose": 0}.get(op, weight.ndim - 1)


def _blocks(magnitude: Array, density: float, axis: int) -> Mask:
    """Blocks of BLOCK neighbours along the input, kept by their energy; as many as make up the density. In a kernel those are
    the weights of neighbouring channels at one place: what a vector unit multiplies at once."""
    last = np.moveaxis(magnitude, axis, -1)
    padded = np.pad(last, (*((0, 0),) * (last.ndim - 1), (0, -last.shape[-1] % BLOCK)))
    energy = np.square(padded.reshape(*last.shape[:-1], -1, BLOCK)).sum(axis=-1)
    kept = largest(energy.reshape(-1), round(density * energy.size)).reshape(energy.shape)
    return np.moveaxis(np.repeat(kept, BLOCK, axis=-1)[..., : last.shape[-1]], -1, axis)


def relative_error(before: Array, after: Array) -> float:
    """|W - W'| / |W|; 0 for a weight of zeros that stays so."""
    norm = float(np.linalg.norm(before.reshape(-1).astype(np.float64)))
    moved = float(np.linalg.norm((before - after).reshape(-1).astype(np.float64)))
    return moved / norm if norm > 0 else float(moved > 0)
