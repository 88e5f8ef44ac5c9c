"""An LSTM step with projection on ESE (FPGA 2017): many channels run the same pruned weights, each on its own sequence.

Weights stream from DRAM through double buffers while the matrix before computes; gates meet in an adder tree that takes one row
a cycle and channel; sigmoid and tanh are tables; an element-wise unit makes the cell. docs/hardware.md says what the paper leaves
open and what is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import numerics
from ..errors import InputError
from ..weight import Weight
from . import machine
from .config import Config
from .energy import Energy, energy
from .image import Image
from .machine import Activity

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
GATES = ("i", "f", "c", "o")
_POINTS = 2048  # of a table
_REACH = {"sigmoid": 64.0, "tanh": 128.0}  # a table covers -reach to reach


@dataclass(frozen=True)
class StepCost:
    """What one step of all channels took.

    Attributes:
        matrices: name -> cycles, from the first activation to the last row in the adder tree.
        elementwise: cycles of the element-wise unit.
        waited: cycles in which nothing computed because weights were still being fetched; part of ``matrices``.
        dram_bits: that crossed the bus.
        activity: of the elements of all channels.
    """

    matrices: Mapping[str, int]
    elementwise: int
    waited: int
    dram_bits: int
    activity: Activity

    @property
    def cycles(self) -> int:
        return sum(self.matrices.values()) + self.elementwise

    def energy(self, config: Config) -> Energy:
        return energy(self.activity, config, self.dram_bits)


class ProjectedLstm:
    """The LSTM of ESE: y_t = W_ym m_t, m_t = o_t tanh(c_t), gates of x_t, y_(t-1) and, by diagonals, the cell.

    Args:
        weights: ``Wix Wfx Wcx Wox`` [hidden, input], ``Wir Wfr Wcr Wor`` [hidden, projected], ``Wym`` [projected, hidden].
        config: the machine; its codes are wide enough for the codebooks.
        bias: float32 [4, hidden], gates in the order i, f, c, o.
        peephole: float32 [3, hidden]: W_ic, W_fc, W_oc.
        tables: sigmoid and tanh from tables of 2048 points, as in the paper; otherwise exact.

    Raises:
        InputError: shapes that do not fit each other.
    """

    def __init__(self, weights: Mapping[str, Weight], config: Config, bias: Floats | None = None,
                 peephole: Floats | None = None, *, tables: bool = True) -> None:  # fmt: skip
        names = [f"W{g}{of}" for of in "xr" for g in GATES] + ["Wym"]
        missing = [n for n in names if n not in weights]
        if missing:
            raise InputError(f"has no {missing[0]}", where="weights", hint=f"It takes {', '.join(names)}")
        self.hidden, self.inputs = weights["Wix"].shape
        self.projected = weights["Wym"].shape[0]
        shapes = {n: (self.hidden, self.inputs if n[-1] == "x" else self.projected) for n in names}
        shapes["Wym"] = (self.projected, self.hidden)
        for n in names:
            if weights[n].shape != shapes[n]:
                raise InputError(
                    f"{n} has the shape {list(weights[n].shape)} instead of {list(shapes[n])}", where="weights"
                )
        self.config, self._tables = config, tables
        own = config.changed(bias_column=False)
        self.images = {n: Image.encode(weights[n].codes, weights[n].codebook, own) for n in names}
        self.bias = np.zeros((4, self.hidden), np.float32) if bias is None else bias
        self.peephole = np.zeros((3, self.hidden), np.float32) if peephole is None else peephole

    def step(self, x: Floats, y: Floats, c: Floats) -> tuple[Floats, Floats, StepCost]:
        """One step of every channel.

        Args:
            x: float32 [channels, input]. y: [channels, projected], c: [channels, hidden], of the step before.

        Returns:
            y and c of this step, and what it took.
        """
        run = _Step(self)
        gates = {}
        for g in GATES:
            gates[g] = run.multiply(f"W{g}x", x) + self.bias[GATES.index(g)]
        for g in GATES:
            gates[g] = gates[g] + run.multiply(f"W{g}r", y)
        sigmoid, tanh = (self._function(name) for name in ("sigmoid", "tanh"))
        i = sigmoid(gates["i"] + self.peephole[0] * c)
        f = sigmoid(gates["f"] + self.peephole[1] * c)
        cell = f * c + i * tanh(gates["c"])
        m = sigmoid(gates["o"] + self.peephole[2] * cell) * tanh(cell)
        run.elementwise = self.hidden + self.config.switch_cycles
        projected = run.multiply("Wym", m.astype(np.float32), fresh=True)
        return projected, cell.astype(np.float32), run.cost()

    def _function(self, name: str) -> Any:
        exact = getattr(numerics, name)
        if not self._tables:
            return exact
        reach = _REACH[name]
        points = (np.arange(_POINTS, dtype=np.float32) + np.float32(0.5)) * np.float32(
            2 * reach / _POINTS
        ) - np.float32(reach)
        table = exact(points)

        def looked_up(v: Floats) -> Floats:
            place = np.floor((v + reach) * (_POINTS / (2 * reach)))
            found: Floats = table[np.clip(place, 0, _POINTS - 1).astype(np.int64)]
            return found

        return looked_up


class _Step:
    """The schedule of one step: matrices in their order, each fetched while the one before computes."""

    def __init__(self, layer: ProjectedLstm) -> None:
        self.layer, self.matrices = layer, dict[str, int]()
        self.waited = self.bits = self.elementwise = self.before = 0
        self.activity = Activity()

    def multiply(self, name: str, v: Floats, *, fresh: bool = False) -> Floats:
        """Vectors [channels, n] through a matrix. ``fresh``: they were made just now, and so are loaded with nothing beside."""
        config, image = self.layer.config, self.layer.images[name]
        q, exponent, finite = numerics.quantize_i16(v)
        ran = machine.run(image, q, config)
        bits = image.entries * (config.code_bits + config.run_bits)
        fetch = -(-bits // config.bus_bits)
        busy = max(int(ran.cycles.max()), image.outputs)  # the adder tree takes a row a cycle
        wait = max(0, fetch - max(self.before, busy))
        self.waited += wait
        self.matrices[name] = busy + wait + config.switch_cycles + (image.inputs if fresh else 0)
        self.before, self.bits = busy, self.bits + bits
        self.activity += ran.activity
        _, unit = numerics.codebook_i16(image.codebook)
        y = numerics.scale_i16(ran.sums, (exponent + unit)[:, None])
        y[~finite] = np.nan
        return y

    def cost(self) -> StepCost:
        # the elements of all channels run through the whole step together
        whole = sum(self.matrices.values()) + self.elementwise
        activity = Activity(**{**self.activity.__dict__, "cycles": whole})
        return StepCost(self.matrices, self.elementwise, self.waited, self.bits, activity)


def balanced_mask(
    rows: int, columns: int, density: float, elements: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """A random mask that leaves each element as many weights: load-balance aware pruning (ESE, section 3.2)."""
    mask = np.zeros((rows, columns), np.bool_)
    for e in range(elements):
        part = np.zeros(mask[e::elements].size, np.bool_)
        part[rng.permutation(part.size)[: round(density * part.size)]] = True
        mask[e::elements] = part.reshape(-1, columns)
    return mask
