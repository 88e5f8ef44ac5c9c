"""Layers on the accelerator's cycle model: bit-equal to ``cpu`` and ``reference`` in i16, and every cycle counted.

The model sums the products; quantization, scaling, biases and a recurrent cell's functions are the reference's.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..errors import FormatError
from ..hardware.config import Config
from ..hardware.execute import Cost, execute
from ..hardware.lower import as_matrix, lower_matrix, widened
from ..hardware.program import LayerProgram
from ..weight import Weight
from .base import Activations, Array, Compiled, LayerSpec
from .reference import Matrix, Place, ReferenceBackend, Taps

_AT_ONCE = 1 << 24  # activations gathered for one call of the model


class HardwareBackend(ReferenceBackend):
    """Lowers layers to programs and runs these.

    Args:
        config: the machine; codes are widened for layers that share more values than they name.
        window: cycles [from, to) whose events are kept, of the first run of each layer in ``watched``.

    Attributes:
        config: as given.
        programs: of the layers, in the order they were compiled.
        costs: layer -> what its runs took so far.
        machines: layer -> the machine it was lowered for.
    """

    name = "hardware"
    formats: tuple[Activations, ...] = ("i16",)

    def __init__(self, config: Config | None = None, window: tuple[int, int] | None = None,
                 watched: Collection[str] = ()) -> None:  # fmt: skip
        self.config = config or Config()
        self._window, self._watched = window, watched
        self.programs: list[LayerProgram] = []
        self.costs: dict[str, Cost] = {}
        self.machines: dict[str, Config] = {}
        self._lock = threading.Lock()

    def compile(self, spec: LayerSpec) -> Compiled:
        before = len(self.programs)
        run = super().compile(spec).run
        if len(self.programs) == before:
            return Compiled(run, "host", "no sums of products: numpy reads the table")
        mine, machine = self.programs[before:], self.machines[spec.name]
        tiles = sum(len(p.images) for p in mine)
        where = (
            "its weights stay in SRAM" if all(p.resident for p in mine) else f"{tiles} tiles are loaded for each vector"
        )
        wide = "" if machine.code_bits == self.config.code_bits else f"; codes widened to {machine.code_bits} bits"
        return Compiled(run, machine.name, f"{sum(p.entries for p in mine):,} entries: {where}{wide}")

    def clear(self) -> None:
        """Forget what runs took so far."""
        with self._lock:
            self.costs.clear()

    def matrix(self, spec: LayerSpec, weight: Weight) -> Matrix:
        return _Matrix(self, spec, weight) if weight.size else super().matrix(spec, weight)

    def taps(self, spec: LayerSpec) -> Taps:
        return _Taps(self, spec)

    def lowered(self, spec: LayerSpec, weight: Weight) -> LayerProgram:
        """The program of one matrix of a layer."""
        machine = widened(self.config, max(w.codebook.size for w in spec.weights))
        self.machines[spec.name] = machine
        program = lower_matrix(weight, machine, spec.name, spec.op)
        self.programs.append(program)
        return program

    def sums(self, name: str, program: LayerProgram, q: Array) -> Array:
        """Run a program on vectors [m, inputs] of whole numbers."""
        window = self._window if name in self._watched and name not in self.costs else None
        if not len(q):
            return np.zeros((0, program.outputs), np.int64)
        found, cost = execute(program, q.astype(np.int16), self.machines[name], window)
        with self._lock:
            self.costs[name] = self.costs[name] + cost if name in self.costs else cost
        return found


def _check_format(spec: LayerSpec) -> None:
    if spec.activations != "i16":
        raise FormatError(f"the accelerator computes in i16, not {spec.activations}", where=f"layer {spec.name!r}")


class _Matrix(Matrix):
    def __init__(self, backend: HardwareBackend, spec: LayerSpec, weight: Weight) -> None:
        _check_format(spec)
        super().__init__(weight, spec.activations)
        self._backend, self._name, self._program = backend, spec.name, backend.lowered(spec, weight)

    def sums(self, q: Array) -> Array:
        return self._backend.sums(self._name, self._program, q)


class _Taps(Taps):
    """One vector a position of the output: what lies under the kernel there, channel after channel, tap after tap. This is
    the channel-wise matrix-vector product the paper suggests (section VII.D), its taps summed in the accumulators."""

    def __init__(self, backend: HardwareBackend, spec: LayerSpec) -> None:
        _check_format(spec)
        super().__init__(spec)
        self._backend, self._name = backend, spec.name
        self._program = backend.lowered(spec, as_matrix(spec.weights[0], self.group, self.transposed))

    def sums(self, q: Array, sizes: Sequence[int], places: Sequence[Place], out: int) -> Array:
        found = np.zeros((len(q), out, *sizes))
        positions = int(np.prod(sizes, dtype=np.int64))
        for sample, y in zip(q, found.reshape(len(q), out, positions), strict=True):
            for first, vectors in self._gathered(sample.astype(np.int16), sizes, places):
                y[:, first : first + len(vectors)] = self._backend.sums(self._name, self._program, vectors).T
        return found

    def _gathered(self, x: Array, sizes: Sequence[int], places: Sequence[Place]) -> Iterator[tuple[int, Array]]:
        """Vectors [some positions, taps x channels] of one sample [channels, ...], with the first one's place: slabs of the
        output's first axis, so that memory stays bounded."""
        row = int(np.prod(sizes[1:], dtype=np.int64))
        slab = max(1, _AT_ONCE // max(1, row * len(places) * len(x)))
        for top in range(0, sizes[0], slab):
            height = min(slab, sizes[0] - top)
            columns = np.zeros((len(places), len(x), height, *sizes[1:]), np.int16)
            for target, place in zip(columns, places, strict=True):
                to, of = _within(place.to[0], place.of[0], top, height)
                target[(slice(None), to, *place.to[1:])] = x[(slice(None), of, *place.of[1:])]
            yield top * row, columns.reshape(-1, height * row).T


def _within(to: slice, of: slice, top: int, height: int) -> tuple[slice, slice]:
    """Two slices of as many places, cut to those whose ``to`` lies in [top, top + height), counted from top."""
    kept = [(t, f) for t, f in itertools.zip_longest(_range(to), _range(of)) if top <= t < top + height]
    if not kept:
        return slice(0, 0), slice(0, 0)
    (t0, f0), (t1, f1) = kept[0], kept[-1]
    return slice(t0 - top, t1 - top + 1, to.step or 1), slice(f0, f1 + 1, of.step or 1)


def _range(part: slice) -> range:
    return range(part.start, part.stop, part.step or 1)
