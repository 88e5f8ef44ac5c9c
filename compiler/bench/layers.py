"""``eie bench layers``: kernels on made-up layers, beside other systems, checked before they are timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from eie.runtime import Weight
from eie.runtime._core import lib
from eie.runtime.backends import registry
from eie.runtime.backends.base import Activations, LayerSpec
from eie.runtime.backends.cpu import CpuBackend, isas

from ..errors import EieError
from .cases import CASES, CONV_DENSITIES, Case
from .peers import Call, peers
from .timing import Evictor, Times, interleaved

Row = dict[str, Any]
_OPS = {"gemm": "Gemm", "conv": "Conv", "lstm": "LSTM"}
_LOOSE = {"f32": 1e-4, "i16": 1e-3, "u8": 0.05}  # of the largest output: from the dense product in float64


@dataclass(frozen=True)
class Plan:
    """What is measured; docs/benchmarks.md says what each is."""

    layers: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    caches: tuple[str, ...] = ("warm", "cold")
    patterns: tuple[str, ...] = ("unstructured", "balanced", "block")
    formats: tuple[Activations, ...] = ("f32", "i16", "u8")
    isas: tuple[str, ...] = ()
    threads: int = 1
    runs: int = 50
    others: tuple[str, ...] = ()
    clock: str = "wall"

    def groups(self) -> Iterator[tuple[Case, str, float]]:
        """Layer, pattern, density: all that is timed together."""
        for name in self.layers:
            case = CASES[name]
            for pattern in self.patterns:
                if case.kind == "conv" and pattern != "balanced":
                    for density in CONV_DENSITIES if pattern == "unstructured" else CONV_DENSITIES[:1]:
                        yield case, pattern, density
                elif (case.kind, pattern) in (
                    ("lstm", "balanced"),
                    ("projected", "balanced"),
                    ("gemm", "balanced"),
                    ("gemm", "unstructured"),
                ):
                    yield case, pattern, case.density

    def steps(self) -> int:
        return sum(len(self._batches(case)) * len(self.caches) for case, _, _ in self.groups())

    def _batches(self, case: Case) -> tuple[int, ...]:
        return self.batches if case.kind == "gemm" else (1,)

    def measure(self) -> Iterator[list[Row]]:
        """The rows of a group, as they come."""
        evict = Evictor() if "cold" in self.caches else None
        for case, pattern, density in self.groups():
            weights = case.weights(pattern, density)
            dense = [w.dense() for w in weights]
            for batch in self._batches(case):
                x = case.input(batch)
                calls: dict[tuple[str, str, str], Call] = {
                    (name, name.rpartition(" ")[2], ""): call
                    for name, call in peers(case, dense, x, self.threads, self.others).items()
                }
                about: dict[tuple[str, str, str], Row] = {}
                for isa in self.isas or isas()[:1]:
                    for form in self.formats:
                        key = (f"eie {isa} {form}", form, isa)
                        calls[key], about[key] = _ours(case, weights, x, form, isa, self.threads)
                for cache in self.caches:
                    runs = self.runs if cache == "warm" else max(5, self.runs // 5)
                    times = interleaved(
                        {k[0]: c for k, c in calls.items()},
                        runs=runs,
                        evict=evict if cache == "cold" else None,
                        clock=self.clock,
                    )
                    yield [
                        _row(case, batch, cache, pattern, density, key, self.threads, times[key[0]])
                        | {"clock": self.clock}
                        | about.get(key, {})
                        for key in calls
                    ]


def _row(
    case: Case, batch: int, cache: str, pattern: str, density: float, key: tuple[str, str, str], threads: int, t: Times
) -> Row:
    system, form, isa = key
    return {
        "layer": case.name, "kind": case.kind, "batch": batch, "cache": cache, "pattern": pattern, "density": density,
        "system": "eie" if system.startswith("eie ") else system, "format": form, "isa": isa, "threads": threads,
        "median_us": t.median, "p10_us": t.p10, "p90_us": t.p90,
    }  # fmt: skip


def _ours(case: Case, weights: Sequence[Weight], x: Any, form: Activations, isa: str, threads: int) -> tuple[Call, Row]:
    """A bound call of a packed layer, and what is known of it besides its time. What it computes is checked."""
    if lib.eie_isa_select(isa.encode()) != lib.EIE_OK:
        raise EieError(
            f"the instruction set {isa} can't be used here", where="--isa", hint=f"There are: {', '.join(isas())}."
        )
    if case.kind == "projected":
        made = _projected(case, weights, x, form, threads)
        lib.eie_isa_select(isas()[0].encode())
        return made
    attributes = dict(case.attributes) | ({"hidden_size": case.shape[1]} if case.kind == "lstm" else {})
    spec = LayerSpec(_OPS[case.kind], case.name, attributes, tuple(weights), form)
    start = time.perf_counter_ns()
    layer = cast(Any, CpuBackend(threads).compile(spec).run)
    load = (time.perf_counter_ns() - start) / 1e3
    inputs = [x, None] if case.kind != "lstm" else [x, None, None, None, None, None]
    call, outputs = layer.bind(inputs)
    call()
    _check(spec, inputs, outputs[0], form)
    nonzeros = sum(w.nonzeros for w in weights)
    lib.eie_isa_select(isas()[0].encode())
    return call, {
        "kernel": layer.kernel, "load_us": load, "bytes": layer.bytes, "bytes_per_nonzero": layer.bytes / max(1, nonzeros),
    }  # fmt: skip


def _projected(case: Case, weights: Sequence[Weight], x: Any, form: Activations, threads: int) -> tuple[Call, Row]:
    """A step as a graph of ours can say it: an LSTM of the inputs and the projected state side by side, without a recurrence of
    its own, and the projection behind it. The call hands the state and the cells on to the next step."""
    inputs, cells, _ = case.shape
    nothing = Weight(np.zeros((1, 4 * cells, cells), np.uint8), np.zeros(1, np.float32))
    cell = LayerSpec("LSTM", case.name, {"hidden_size": cells}, (weights[0], nothing), form, (False, True, True))
    projection = LayerSpec("Gemm", case.name, {}, (weights[1],), form)
    start = time.perf_counter_ns()
    first, then = (cast(Any, CpuBackend(threads).compile(spec).run) for spec in (cell, projection))
    load = (time.perf_counter_ns() - start) / 1e3
    x = x.copy()
    state, memory = x[0, :, inputs:], np.zeros((1, x.shape[1], cells), np.float32)
    given = [x, None, None, None, memory, None]
    step, (_, h, c) = first.bind(given)
    project, (y,) = then.bind([h[0], None])

    def call() -> None:
        step()
        project()
        state[...] = y
        memory[...] = c

    _check(cell, given, first(given)[1], form)
    _check(projection, [first(given)[1][0], None], then([first(given)[1][0], None])[0], form)
    held = first.bytes + then.bytes
    return call, {
        "kernel": first.kernel,
        "load_us": load,
        "bytes": held,
        "bytes_per_nonzero": held / sum(w.nonzeros for w in weights),
    }


def _check(spec: LayerSpec, inputs: Sequence[Any], y: Any, form: Activations) -> None:
    if spec.op == "Gemm":
        expected = inputs[0].astype(np.float64) @ spec.weights[0].dense().astype(np.float64).T
    else:  # in the layer's own numbers, which are the same on every backend but for the order of sums
        found = registry.load("reference", 1).compile(spec).run(inputs)
        expected = next(a for a in found if a is not None)
    apart = float(np.abs(y - expected).max() / np.abs(expected).max())
    if not apart <= _LOOSE[form]:
        raise EieError(f"{form} is {apart:.1e} of the largest output away from what it should be", where=spec.name)
