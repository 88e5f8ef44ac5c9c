"""Machines: presets, files, values that can't be; energy and area; the published tables."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eie.runtime.errors import InputError, UserError
from eie.runtime.hardware import Config, presets
from eie.runtime.hardware.energy import area_mm2, energy, power_mw, steady_state, tree_nodes
from eie.runtime.hardware.ese import ProjectedLstm
from eie.runtime.hardware.machine import Activity


def validation() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "validation.py"
    spec = importlib.util.spec_from_file_location("validation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["validation"] = module
    spec.loader.exec_module(module)
    return module


PUBLISHED = validation()


@pytest.mark.parametrize("name", presets())
def test_presets_are_read_and_written(name: str) -> None:
    config = Config.preset(name)
    assert config.name == name
    assert Config.parse(config.to_toml(), name) == config
    assert Config.load(name) == config


def test_files_and_short_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("processing_elements = 16\nclock_mhz = 500\n")
    config = Config.load(path)
    assert (config.name, config.processing_elements, config.fifo_slots) == ("mine", 16, 8)
    assert Config.load("eie-64").name == "eie-64-45nm"
    assert config.microseconds(1000) == 2
    odd = config.changed(name='a "b"\n\\c', processing_elements=np.int64(8))
    assert Config.parse(odd.to_toml(), "x") == odd


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("processing_elements = 0", "outside 1 to"), ("processing_elements = 64.0", "no int"), ("fifo_slots = true", "no int"),
        ("elements = 3", "no parameter 'elements'"), ("skip = 'negative'", "none of zero, nonpositive"), ("line_bits = 60", "line of 60"),
        ("process_nm = 7", "45, 28 and 20"), ("clock_mhz = nan", "outside"), ("x = [", "not valid TOML"), ("name = 3", "no str"),
        ("x = " + "[" * 5000, "not valid TOML"),
    ],
)  # fmt: skip
def test_machines_that_can_not_be(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=says):
        Config.load(path)


def test_no_such_machine() -> None:
    with pytest.raises(UserError, match="eie-64-45nm"):
        Config.load("eie-64-54nm")


def test_energy_follows_activity() -> None:
    config = Config()
    idle, busy = Activity(cycles=1000), steady_state(config, 1000)
    assert 0.2 < power_mw(idle, config) / power_mw(busy, config) < 0.21  # the clock network's share
    more = replace(busy, line_reads=2 * busy.line_reads)
    grown = {
        m: energy(more, config).by_module[m] - energy(busy, config).by_module[m] for m in energy(busy, config).by_module
    }
    assert grown["sparse matrix"] > 0
    assert all(v == 0 for m, v in grown.items() if m != "sparse matrix")
    half = config.changed(spmat_bytes=65_536)
    assert energy(busy, half).total < energy(busy, config).total
    assert area_mm2(half) < area_mm2(config)
    assert energy(busy, config, dram_bits=3200).by_module["DRAM"] == 64_000
    assert (tree_nodes(config), tree_nodes(Config(processing_elements=1))) == (21, 0)


def test_table_ii() -> None:
    for row in PUBLISHED.table_ii():
        assert abs(row.off) < 0.02, row


def test_table_v() -> None:
    for row in PUBLISHED.table_v():
        assert abs(row.off) < 0.05, row


def test_table_iv() -> None:
    rows = PUBLISHED.table_iv()
    assert sum(abs(row.off) < 0.15 for row in rows) >= 7
    assert {row.what for row in rows if abs(row.off) >= 0.15} == {"Alex-8", "VGG-6"}  # docs/validation.md says why


def test_ese_tables() -> None:
    rows = {row.what: row for row in PUBLISHED.ese()}
    for row in rows.values():
        assert abs(row.off) < (0.10 if "times" in row.what or "gain" in row.what else 0.15), row


def test_ese_computes_an_lstm_with_projection() -> None:
    weights = PUBLISHED.ese_weights("balanced", 3)
    rng = np.random.default_rng(0)
    bias, peephole = (
        rng.standard_normal((4, 1024)).astype(np.float32),
        rng.standard_normal((3, 1024)).astype(np.float32) / 10,
    )
    x, y, c = (rng.standard_normal((2, n)).astype(np.float32) for n in (153, 512, 1024))
    exact = ProjectedLstm(weights, Config.preset("ese-ku060"), bias, peephole, tables=False)
    got_y, got_c, _ = exact.step(x, y, c)
    d = {n: w.dense().astype(np.float64) for n, w in weights.items()}
    gates = {g: x @ d[f"W{g}x"].T + y @ d[f"W{g}r"].T + bias["ifco".index(g)] for g in "ifco"}
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    cell = sigmoid(gates["f"] + peephole[1] * c) * c + sigmoid(gates["i"] + peephole[0] * c) * np.tanh(gates["c"])
    m = sigmoid(gates["o"] + peephole[2] * cell) * np.tanh(cell)
    np.testing.assert_allclose(got_c, cell, atol=5e-3)
    np.testing.assert_allclose(got_y, m @ d["Wym"].T, atol=2e-2)
    tables = ProjectedLstm(weights, Config.preset("ese-ku060"), bias, peephole)
    assert 0 < np.abs(tables.step(x, y, c)[1] - cell).max() < 0.2  # steps of 1/16
    with pytest.raises(InputError, match="has no Wox"):
        ProjectedLstm({n: w for n, w in weights.items() if n != "Wox"}, Config())
    with pytest.raises(InputError, match="Wir has the shape"):
        ProjectedLstm({**weights, "Wym": weights["Wix"]}, Config())
