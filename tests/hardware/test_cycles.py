"""The cycle model: against the machine stepped register by register, the published simulator, and numpy."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eie.runtime import numerics
from eie.runtime.errors import InputError, UserError
from eie.runtime.hardware import Config, Image, simulate_layer
from eie.runtime.hardware import machine as model
from hardware.stepped import Element, Machine

BOOK = np.concatenate([[0], np.linspace(-1, 1, 15)]).astype(np.float32)


def layer(outputs: int, inputs: int, density: float, active: float, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((outputs, inputs)) < density, rng.integers(1, 16, (outputs, inputs)), 0).astype(
        np.uint8
    )
    x = np.where(rng.random(inputs) < active, rng.standard_normal(inputs), 0).astype(np.float32)
    return codes, x


def slices(image: Image, e: int) -> list[list[int | None]]:
    """An element's columns as the accumulators of their entries, None for a filler."""
    codes, runs, pointers = image.element(e)
    found = []
    for begin, end in itertools.pairwise(pointers):
        rows = np.cumsum(runs[begin:end].astype(int) + 1) - 1
        found.append([int(r) if c else None for r, c in zip(rows, codes[begin:end], strict=True)])
    return found


def test_figures_2_and_3_of_the_paper() -> None:
    """Element 0 of 4: rows 0, 4, 8, 12 of the 16 x 8 matrix."""
    matrix = np.zeros((16, 8), np.uint8)
    for k, (row, column) in enumerate([(0, 0), (8, 0), (12, 0), (4, 1), (0, 2), (12, 2), (0, 4), (4, 4), (0, 5), (12, 5), (0, 6),
                                       (8, 7), (12, 7)]):  # fmt: skip
        matrix[row, column] = k + 1
    config = Config(processing_elements=4, bias_column=False)
    v, z, p = Image.encode(matrix, np.arange(16, dtype=np.float32), config).element(0)
    assert v.tolist() == list(range(1, 14))
    assert z.tolist() == [0, 1, 0, 1, 0, 2, 0, 0, 0, 2, 0, 2, 0]
    assert p.tolist() == [0, 3, 4, 6, 6, 8, 10, 11, 13]


def test_a_long_gap_takes_fillers() -> None:
    """Section III of the paper: [0, 0, 1, 2, eighteen zeros, 3]."""
    matrix = np.array([0, 0, 1, 2, *[0] * 18, 3], np.uint8)[:, None]
    image = Image.encode(matrix, np.arange(4, dtype=np.float32), Config(processing_elements=1, bias_column=False))
    v, z, _ = image.element(0)
    assert (v.tolist(), z.tolist(), image.fillers) == ([1, 2, 0, 3], [2, 0, 15, 2], 1)


@settings(max_examples=80, deadline=None)
@given(
    outputs=st.integers(1, 70), inputs=st.integers(1, 40), elements=st.integers(1, 9), slots=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]), active=st.sampled_from([0.0, 0.2, 1.0]), bias=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_cycles_are_those_of_the_machine_stepped_register_by_register(
    outputs: int, inputs: int, elements: int, slots: int, density: float, active: float, bias: bool, seed: int
) -> None:
    codes, x = layer(outputs, inputs, density, active, seed)
    config = Config(processing_elements=elements, fifo_slots=slots, bias_column=bias)
    image = Image.encode(codes, BOOK, config)
    q, _, _ = numerics.quantize_i16(x[None])
    ran = model.run(image, q, config)
    columns = [j for j in range(inputs) if q[0, j]]
    stepped = Machine([Element(slices(image, e)) for e in range(elements)], config.depth,
                      [*columns, *([inputs] if bias else [])], -(-inputs // elements) + bias)  # fmt: skip
    if bias:  # it stands behind the last row of activations
        behind = -(-inputs // elements) * elements
        for e in stepped.elements:
            e.slices = [*e.slices[:inputs], *[[]] * (behind - inputs), e.slices[inputs]]
        stepped.active = [*columns, behind]
    found = ran.activity
    assert found.cycles == stepped.run()
    assert found.blocked_cycles == stepped.blocked
    counted = {k: sum(e.counts[k] for e in stepped.elements) for k in ("work", "filler", "empty", "waiting")}
    assert (found.visited, found.fillers, found.empty_cycles) == (counted["work"], counted["filler"], counted["empty"])
    assert found.starved_cycles + found.idle_cycles == counted["waiting"]
    values, _ = numerics.codebook_i16(BOOK)
    np.testing.assert_array_equal(ran.sums[0], values.astype(np.int64)[codes] @ q[0].astype(np.int64))


@settings(max_examples=60, deadline=None)
@given(elements=st.integers(1, 20), slots=st.integers(1, 9), bypass=st.booleans(), seed=st.integers(0, 1000))
def test_every_element_cycle_is_accounted_for(elements: int, slots: int, bypass: bool, seed: int) -> None:
    codes, x = layer(90, 60, 0.15, 0.5, seed)
    result = simulate_layer(codes, BOOK, x, Config(processing_elements=elements, fifo_slots=slots, bypass=bypass))
    spent = result.entries_visited + sum(result.stalls[k] for k in ("starved", "empty", "hazard", "idle"))
    assert spent == elements * result.cycles
    assert result.loads.sum() == result.entries_visited
    assert result.spmat_reads <= result.entries_visited
    assert (result.stalls["hazard"] > 0) <= (not bypass)


def test_without_bypass_adjacent_sums_wait() -> None:
    codes = np.ones((1, 20), np.uint8)
    x = np.ones(20, np.float32)
    plain, slow = (simulate_layer(codes, BOOK, x, Config(processing_elements=1, bypass=b, bias_column=False))
                   for b in (True, False))  # fmt: skip
    assert plain.activity.bypasses == 19
    assert slow.cycles > plain.cycles
    np.testing.assert_array_equal(slow.output, plain.output)


def test_negative_activations() -> None:
    codes, x = layer(64, 50, 0.2, 1.0, 3)
    both, positive = (simulate_layer(codes, BOOK, x, Config(skip=skip)) for skip in ("zero", "nonpositive"))
    assert both.activity.broadcasts == np.count_nonzero(x) + 1
    assert positive.activity.broadcasts == np.count_nonzero(x > 0) + 1
    np.testing.assert_array_equal(positive.output, simulate_layer(codes, BOOK, np.where(x > 0, x, 0)).output)


def test_a_bias_takes_time_and_is_added() -> None:
    codes, x = layer(64, 50, 0.2, 0.6, 4)
    bias = np.linspace(-1, 1, 64).astype(np.float32)
    with_bias, without = simulate_layer(codes, BOOK, x, bias=bias), simulate_layer(codes, BOOK, x)
    np.testing.assert_array_equal(with_bias.output, without.output + bias)
    assert with_bias.entries == without.entries + 64
    assert with_bias.pointer_reads == without.pointer_reads


def test_events_are_those_of_the_window() -> None:
    codes, x = layer(640, 300, 0.1, 0.5, 5)
    whole = simulate_layer(codes, BOOK, x, window=(0, 1 << 30))
    work = [e for e in whole.events if e.kind == "work"]
    assert sum(e.length for e in work) == whole.entries_visited
    assert max(e.cycle + e.length for e in work) <= whole.cycles
    assert sum(e.kind == "broadcast" for e in whole.events) == whole.activity.broadcasts
    part = simulate_layer(codes, BOOK, x, window=(50, 60)).events
    assert set(part) == {e for e in whole.events if e.cycle < 60 and e.cycle + e.length > 50}


def test_what_does_not_fit_is_said() -> None:
    codes, x = layer(8, 8, 0.5, 1.0, 0)
    with pytest.raises(InputError, match="shape"):
        simulate_layer(codes, BOOK, x[:5])
    with pytest.raises(InputError, match="NaN"):
        simulate_layer(codes, BOOK, np.full(8, np.nan, np.float32))
    with pytest.raises(UserError, match="codes of 4 bits name 16"):
        simulate_layer(codes, np.linspace(0, 1, 20).astype(np.float32), x)
    with pytest.raises(InputError, match="bias"):
        simulate_layer(codes, BOOK, x, bias=np.zeros(3))
    for bad, says in ((codes - 1.5, "whole numbers"), (codes.astype(int) - 1, "go from -1"), (codes[:0], "is needed"),
                      (codes.astype(int) + 300, "up to 256")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            simulate_layer(bad, BOOK, x[: bad.shape[1]])
    for book in (BOOK + 2, BOOK.reshape(4, 4), BOOK[:0], np.where(BOOK > 0.5, np.nan, BOOK)):
        with pytest.raises(UserError, match="begins with 0"):
            simulate_layer(codes * 0, book, x)
    with pytest.raises(InputError, match="no numbers"):
        simulate_layer(codes, BOOK, np.array(["a"] * 8))
    for window in ((-5, 10), (10, 5)):
        with pytest.raises(InputError, match="no window"):
            simulate_layer(codes, BOOK, x, window=window)


@pytest.fixture(scope="module")
def maker(shared: Path) -> Any:
    spec = importlib.util.spec_from_file_location("eie_layers", shared.parent / "reference" / "eie_layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_simulator(shared: Path, maker: Any) -> None:
    """Every layer and queue of ``eie_layers.json``. That simulator stops as soon as nothing is written, which can be early."""
    layers = json.loads((shared.parent / "reference" / "eie_layers.json").read_text())["layers"]
    made: dict[str, Any] = {}
    for found in layers:
        if found["layer"] not in made:
            made = {found["layer"]: maker.make_layer(found["inputs"], found["outputs"], found["weight_density"],
                                                     found["activation_density"], found["seed"], found["kind"], found["pes"])}  # fmt: skip
        config = Config(processing_elements=found["pes"], fifo_slots=found["fifo_slots"], skip="nonpositive")
        result = simulate_layer(made[found["layer"]][0], BOOK, made[found["layer"]][1], config)
        where = f"{found['layer']}, {found['fifo_slots']} slots"
        assert abs(result.cycles - found["cycles"]) <= max(8, 0.01 * found["cycles"]), where
        assert result.entries == found["entries"], where
        assert result.fillers == found["fillers"], where
        assert result.entries_visited == found["entries_visited"], where
        assert abs(result.pointer_reads - found["pointer_reads"]) <= 0.005 * found["pointer_reads"], where
        assert abs(result.spmat_reads - found["spmat_reads"]) <= 0.005 * found["spmat_reads"], where
    assert len(layers) > 50
