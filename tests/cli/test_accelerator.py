"""``eie lower``, ``disasm``, ``simulate`` and ``compare``: what they print, write and refuse; sweeps on processes and a cluster."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from artifacts import compress, f32, model
from commands import assert_refused, call

TEXT = """g (float[N,60] x) => (float[N,10] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model, and its artifact."""
    folder = tmp_path_factory.mktemp("pair")
    dense, artifact = compress(model(TEXT, w=f32(60, 70), v=f32(70, 10)))
    for proto in (dense, artifact):
        for node, name in zip(proto.graph.node, ("first", "", "second"), strict=True):
            node.name = name
    onnx.save(dense, folder / "m.onnx")
    onnx.save(artifact, folder / "m.eie.onnx")
    np.savez(folder / "x.npz", x=f32(2, 60))
    return folder / "m.onnx", folder / "m.eie.onnx"


def test_lower_and_disasm(pair: tuple[Path, Path], tmp_path: Path) -> None:
    program = tmp_path / "m.eie"
    found = json.loads(call("lower", pair[1], "-o", program, "--json").stdout)
    assert found["bytes"] == program.stat().st_size
    assert [p["name"] for p in found["programs"]] == ["first", "second"]
    text = call("disasm", program).stdout
    for words in (
        "; processing_elements = 64",
        "; first (Gemm): [70, 60]",
        "multiply columns=61",
        "output   first=0, count=10",
    ):
        assert words in text
    one = json.loads(call("disasm", program, "--layer", "second", "--element", "3", "--json").stdout)["layers"]
    assert [p["name"] for p in one] == ["second"]
    held = one[0]["element"][0]
    assert held["p"][-1] == len(held["v"]) == len(held["z"])
    assert "p[" in call("disasm", program, "--element", "3").stdout
    assert "fullest element" in call("lower", pair[1], "-o", program, "--config", "eie-256").stdout


def test_what_can_not_be_lowered_or_read(pair: tuple[Path, Path], tmp_path: Path) -> None:
    program = tmp_path / "m.eie"
    assert_refused("lower", pair[0], "-o", program, says="no compressed layers")
    assert_refused("lower", pair[1], "-o", program, "--config", "eie-65", says="eie-64-45nm")
    machine = tmp_path / "small.toml"
    machine.write_text("spmat_bytes = 8\nprocessing_elements = 1\n")
    assert_refused("lower", pair[1], "-o", program, "--config", machine, says="one column does not fit")
    assert not program.exists()
    call("lower", pair[1], "-o", program)
    assert_refused("disasm", program, "--layer", "frist", says="'first'")
    assert_refused("disasm", program, "--element", "64", says="elements 0 to 63")
    content = program.read_bytes()
    program.write_bytes(content[:300] + b"\xff" + content[301:])
    assert_refused("disasm", program, says="checksum")
    for command in (["simulate"], ["layers"], ["run", "--input", pair[0].parent / "x.npz", "--output", tmp_path / "y.npz"]):
        assert_refused(*command, program, says="is an accelerator program, no model")
    assert_refused("disasm", pair[1], says="no program of the accelerator")


def test_simulate_one_machine(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = json.loads(call("simulate", pair[1], "--input", pair[0].parent / "x.npz", "--json").stdout)
    assert [row["name"] for row in found["layers"]] == ["first", "second"]
    assert found["total"]["cycles"] == sum(row["cycles"] for row in found["layers"])
    for row in found["layers"]:
        assert row["vectors"] == 2
        assert row["memory"]["accumulator_writes"] == row["entries_visited"] - row["fillers_visited"]
        assert 0 < row["memory"]["spmat_reads"] <= row["entries_visited"]
        assert row["cycles"] == sum(row[f"{k}_cycles"] for k in ("compute", "io", "load", "switch"))
        assert sum(row["energy_by_module_uj"].values()) == pytest.approx(row["energy_uj"])
    assert found["input"] == "all of x.npz"
    shown = call("simulate", pair[1]).stdout
    assert "64 elements at 800 MHz" in shown and "input: made up" in shown


def test_a_plain_model_is_optimized_first(pair: tuple[Path, Path]) -> None:
    assert json.loads(call("simulate", pair[0], "--json").stdout)["total"]["cycles"] > 0


def test_traces_open_in_perfetto(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    shown = call(
        "simulate",
        pair[1],
        "--input",
        pair[0].parent / "x.npz",
        "--trace",
        path,
        "--layer",
        "second",
        "--window",
        "0:500",
    ).stdout
    assert f"trace      {path}" in shown.replace("\n", "")
    events = json.loads(path.read_text())["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X", "C"}
    assert sum(e["ph"] == "M" for e in events) == 64 + 3  # two processes; a row an element, and the broadcast
    assert all(e["args"]["activations"] >= 0 for e in events if e["ph"] == "C")
    work = [e for e in events if e["ph"] == "X" and e["cat"] == "work"]
    assert work
    assert max(e["ts"] for e in work) < 500
    assert_refused("simulate", pair[1], "--trace", path, "--layer", "third", says="'first'")
    assert_refused("simulate", pair[1], "--trace", path, "--window", "9:3", says="--window 0:2000")
    assert_refused("simulate", pair[1], "--trace", path, "--window", "900000:900001", says="nothing happens")


SWEEP = ["--sweep", "fifo=1,2,8", "--sweep", "pe=4..16"]


def test_sweeps(pair: tuple[Path, Path], tmp_path: Path) -> None:
    table, plot, results = tmp_path / "s.csv", tmp_path / "s.svg", tmp_path / "s.jsonl"
    done = call(
        "simulate", pair[1], *SWEEP, "--csv", table, "--plot", plot, "--results", results, "--jobs", "2", "--json"
    )
    points = json.loads(done.stdout)["points"]
    assert [p["parameters"] for p in points] == [
        {"fifo_slots": f, "processing_elements": n} for f in (1, 2, 8) for n in (4, 8, 16)
    ]
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["cycles"]) for row in rows] == [p["total"]["cycles"] for p in points]
    assert plot.read_bytes().startswith(b"<?xml")
    lines = results.read_text().splitlines()
    assert len(lines) == 9
    # resumed: finished points are not run again, nor is one that a kill cut short lost
    results.write_text("\n".join([*lines[:4], lines[4][:50]]))
    again = json.loads(call("simulate", pair[1], *SWEEP, "--results", results, "--json").stdout)["points"]
    assert again == points
    assert sorted(results.read_text().splitlines()[:4]) == sorted(lines[:4])
    assert len(results.read_text().splitlines()) == 9
    shown = call("simulate", pair[1], *SWEEP, "--results", results, "--plot", plot).stdout.replace("\n", "")
    assert f"plot       {plot}" in shown and f"results    {results}" in shown


def test_wrong_sweeps(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for sweep, says in (("fifo", "gives no values"), ("fifos=1", "'fifo_slots'"), ("x=1", "'clock_mhz'"),
                        ("fifo=1..x!", "no value"), ("fifo=0", "outside 1"),
                        ("pe=8..2", "no range")):  # fmt: skip
        assert_refused("simulate", pair[1], "--sweep", sweep, says=says)
    assert_refused("simulate", pair[1], "--sweep", "pe=4", "--sweep", "processing_elements=8", says="swept twice")
    assert_refused("simulate", pair[1], "--csv", tmp_path / "s.csv", says="no sweep to write")
    assert_refused("simulate", pair[1], "--sweep", "pe=4", "--plot", tmp_path / "s.xyz", says=".svg")
    assert_refused("simulate", pair[1], "--sweep", "pe=4", "--jobs", "0", says="--jobs")
    (tmp_path / "r.jsonl").write_text("no json\n")
    assert_refused("simulate", pair[1], "--sweep", "pe=4", "--results", tmp_path / "r.jsonl", says="line 1")
    assert_refused("simulate", pair[1], "--sweep", "pe=4", "--dask", "nonsense", says="can't reach the scheduler")


@pytest.fixture
def cluster() -> Iterator[str]:
    """A scheduler and two workers, processes of their own."""
    pytest.importorskip("distributed")
    script = (
        "import sys; from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    c = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)\n"
        "    print(c.scheduler_address, flush=True); sys.stdin.read(); c.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def test_a_cluster_gives_the_same(pair: tuple[Path, Path], cluster: str) -> None:
    assert re.match(r"tcp://", cluster)
    x = ["--input", pair[0].parent / "x.npz", *SWEEP, "--json"]
    assert json.loads(call("simulate", pair[1], *x, "--dask", cluster).stdout) == json.loads(
        call("simulate", pair[1], *x).stdout
    )


class Page(HTMLParser):
    """What a page asks a browser for."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given: dict[str, Any] = dict(attrs)
        self.fetched += [
            v for k, v in given.items() if k in ("src", "href", "xlink:href") and v and not v.startswith(("#", "data:"))
        ]


def test_compare(pair: tuple[Path, Path], tmp_path: Path) -> None:
    html = tmp_path / "c.html"
    done = call("compare", *pair, "--input", pair[0].parent / "x.npz", "--runs", "3", "--html", html, "--json")
    found = json.loads(done.stdout)
    assert list(found["backends"]) == ["ort", "cpu", "reference", "hardware"]
    for name, b in found["backends"].items():
        assert b["latency_us"]["median"] > 0
        assert b["sqnr_db"] is None or b["sqnr_db"] > 40, name
        assert b["top1_agreement"] == 1
    assert found["backends"]["hardware"]["cycles"] == found["hardware"]["total"]["cycles"]
    assert found["base"]["bytes"] == pair[0].stat().st_size
    page = Page()
    page.feed(html.read_text())
    assert page.fetched == []  # it opens offline
    assert page.tags.count("svg") == 6
    assert "script" not in page.tags
    shown = call("compare", *pair, "--backends", "cpu", "--runs", "2").stdout
    assert "of original" in shown
    assert "input      made up" in shown
    assert found["made_up"] is False and "the first of 2 runs in x.npz" in html.read_text()


def test_samples_may_be_a_stack_with_labels(pair: tuple[Path, Path], tmp_path: Path) -> None:
    x = f32(3, 1, 60)
    np.savez(tmp_path / "stack.npz", x=x, label=np.arange(3))
    np.savez(tmp_path / "first.npz", x=x[0])
    stacked, first = (
        json.loads(call("compare", *pair, "--data", tmp_path / name, "--backends", "cpu", "--runs", "1", "--json").stdout)
        for name in ("stack.npz", "first.npz")
    )
    assert stacked["input"] == "the first of 3 runs in stack.npz"
    assert first["input"] == "all of first.npz"
    assert stacked["backends"]["cpu"]["outputs"] == first["backends"]["cpu"]["outputs"]
    machine = json.loads(call("simulate", pair[1], "--data", tmp_path / "stack.npz", "--json").stdout)
    assert [row["vectors"] for row in machine["layers"]] == [1, 1]
    np.savez(tmp_path / "other.npz", y=x)
    assert_refused("compare", *pair, "--data", tmp_path / "other.npz", says="no array for input 'x'")


def test_names_are_no_markup_on_the_page(tmp_path: Path) -> None:
    dense, artifact = compress(model(TEXT, w=f32(60, 70), v=f32(70, 10)))
    for proto, name in ((dense, "m.onnx"), (artifact, "m.eie.onnx")):
        proto.graph.node[0].name = "<script>alert(1)</script>$\\frac{$&amp;"
        onnx.save(proto, tmp_path / name)
    html = tmp_path / "c.html"
    call(
        "compare",
        tmp_path / "m.onnx",
        tmp_path / "m.eie.onnx",
        "--runs",
        "1",
        "--backends",
        "cpu,hardware",
        "--html",
        html,
    )
    page = Page()
    page.feed(html.read_text())
    assert "script" not in page.tags


def test_what_can_not_be_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert_refused("compare", pair[1], pair[1], says="is an artifact")
    assert_refused("compare", pair[0], pair[0], says="no compressed layers")
    assert_refused("compare", *pair, "--backends", "cpu,gpu", says="gpu")
    assert_refused("compare", *pair, "--html", tmp_path / "no" / "c.html", says="c.html")
    _, artifact = compress(model("g (float[N,60] x) => (float[N,9] z) { z = MatMul(x, w) }", w=f32(60, 9)))
    onnx.save(artifact, tmp_path / "z.eie.onnx")
    assert_refused("compare", pair[0], tmp_path / "z.eie.onnx", says="no output 'y'")
