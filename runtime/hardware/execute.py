"""Runs programs: each instruction does what docs/isa.md says, takes its cycles, and is counted."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import machine
from .config import Config
from .energy import Energy, energy
from .isa import Instruction, Op
from .machine import Activity, Event
from .program import LayerProgram

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Cost:
    """What running a layer took.

    Attributes:
        vectors: how many; a convolution has one a position.
        compute, io, load, switch: cycles of multiplying; of vectors in and out; of weights fetched while the layer runs; of
            switching. With weights in DRAM, fetching overlaps with computing, and ``load`` is what was waited for.
        bits: that crossed the memory interface.
        activity: of the elements.
        loads: uint64 [N] entries each element visited.
        events: of multiplying, in the window asked for; cycles are counted from the layer's first multiplication.
    """

    vectors: int
    compute: int
    io: int
    load: int
    switch: int
    bits: int
    activity: Activity
    loads: npt.NDArray[np.uint64]
    events: tuple[Event, ...] = ()

    @property
    def cycles(self) -> int:
        return self.compute + self.io + self.load + self.switch

    def energy(self, config: Config) -> Energy:
        """By module; the elements' clocks run while they wait, too."""
        whole = Activity(
            **{**{f.name: getattr(self.activity, f.name) for f in fields(Activity)}, "cycles": self.cycles}
        )
        return energy(whole, config, self.bits if config.weights == "dram" or self.load else 0)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.vectors + other.vectors, self.compute + other.compute, self.io + other.io, self.load + other.load,
                    self.switch + other.switch, self.bits + other.bits, self.activity + other.activity,
                    self.loads + other.loads, self.events or other.events)  # fmt: skip


def execute(
    program: LayerProgram, x: Array, config: Config, window: tuple[int, int] | None = None
) -> tuple[npt.NDArray[np.int64], Cost]:
    """Run a program on vectors, one after the other, or ``channels`` at a time.

    Args:
        program: checked to fit the machine.
        x: int16 [vectors, inputs].
        window: cycles [from, to) whose events are wanted.

    Returns:
        Exact sums int64 [vectors, outputs], and what they took.
    """
    engine = _Engine(program, x, config, window)
    for instruction in program.setup:  # weights that stay are loaded before anything is timed
        engine.step(instruction, timed=False)
    for instruction in program.body:
        engine.step(instruction, timed=True)
    return engine.outputs, engine.cost()


class _Engine:
    """The machine between two instructions. Every vector takes the same instructions, so each is done for all of them."""

    def __init__(self, program: LayerProgram, x: Array, config: Config, window: tuple[int, int] | None) -> None:
        self.window = window
        self.events: tuple[Event, ...] = ()
        self.program, self.x, self.config = program, x, config
        self.vectors, self.groups = len(x), -(-len(x) // config.channels)
        self.outputs = np.zeros((len(x), program.outputs), np.int64)
        self.activity, self.loads = Activity(), np.zeros(config.processing_elements, np.uint64)
        self.compute = self.io = self.load = self.switch = self.bits = 0
        self.image = 0

    def step(self, i: Instruction, *, timed: bool) -> None:
        config = self.config
        if i.op is Op.INPUT:
            self.source = self.x[:, i.a : i.a + i.b]
            self._transfer(i.b)
        elif i.op is Op.CLEAR:
            self.sums = np.zeros((self.vectors, i.a * config.processing_elements), np.int64)
        elif i.op is Op.WEIGHTS:
            self.image = i.a
            if timed:
                self._fetch(i.a)
        elif i.op is Op.MULTIPLY:
            self._multiply()
        elif i.op is Op.OUTPUT:
            self.outputs[:, i.a : i.a + i.b] = self.sums[:, : i.b]
            self._transfer(i.b)
        elif i.op is Op.SWAP:
            self.switch += config.switch_cycles * self.groups

    def _transfer(self, values: int) -> None:
        bits = values * self.config.activation_bits
        self.bits += bits * self.vectors
        self.io += -(-bits // self.config.bus_bits) * self.vectors

    def _fetch(self, k: int) -> None:
        image, config = self.program.images[k], self.config
        bits = image.entries * (config.code_bits + config.run_bits) + image.pointers.size * config.pointer_bits
        self.bits += bits * self.groups
        self.load += -(-bits // config.bus_bits) * self.groups

    def _multiply(self) -> None:
        image = self.program.images[self.image]
        ran = machine.run(image, self.source, self.config, self._window())
        before = self.activity.cycles
        self.events += tuple(replace(e, cycle=e.cycle + before) for e in ran.events)
        self.sums[:, : image.outputs] += ran.sums
        self.activity += ran.activity
        self.loads += ran.loads[:, 0]
        padded = np.zeros(self.groups * self.config.channels, np.int64)
        padded[: self.vectors] = ran.cycles
        self.compute += int(padded.reshape(self.groups, -1).max(axis=1).sum())

    def _window(self) -> tuple[int, int] | None:
        """The window, counted from the next multiplication."""
        if self.window is None or self.window[1] <= self.activity.cycles:
            return None
        return max(0, self.window[0] - self.activity.cycles), self.window[1] - self.activity.cycles

    def cost(self) -> Cost:
        config = self.config
        if config.weights == "dram":
            # fetched once for all channels, while the layer before computes; pointers stay on the chip
            entries = self.program.entries * (config.code_bits + config.run_bits)
            self.bits += entries * self.groups
            self.load = max(0, -(-entries // config.bus_bits) * self.groups - self.compute)
        return Cost(self.vectors, self.compute, self.io, self.load, self.switch, self.bits, self.activity, self.loads,
                    self.events)  # fmt: skip
