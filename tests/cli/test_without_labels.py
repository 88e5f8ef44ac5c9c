"""Promises, sensitivity and explain through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from artifacts import f32, model
from commands import assert_refused, call
from eie.compiler import PromiseError, Recipe, optimize

Array = np.ndarray[Any, Any]


def digits(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Ten clusters in 64 dimensions, far enough apart to be told apart most of the time."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    centres = np.random.default_rng(7).normal(0, 1, (10, 64))
    return (centres[labels] + 0.9 * rng.normal(0, 1, (count, 64))).astype(np.float32), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two layers (the second the nearest centre in what the first keeps), and samples."""
    where = tmp_path_factory.mktemp("without-labels")
    centres = np.random.default_rng(7).normal(0, 1, (10, 64)).astype(np.float32)
    mix = f32(96, 64) / np.float32(8)
    inverse = np.linalg.pinv(np.vstack([mix, -mix]).astype(np.float64)).astype(np.float32)
    text = "g (float[N,64] x) => (float[N,10] y) { h = Gemm <transB=1> (x, a, b)\n r = Relu(h)\n y = Gemm <transB=1> (r, c, d) }"
    both = np.vstack([mix, -mix])
    made = model(text, a=both, b=np.zeros(192, np.float32), c=2 * centres @ inverse, d=-np.square(centres).sum(1))
    for node, name in zip(made.graph.node, ("first", "act", "second"), strict=True):
        node.name = name
    onnx.save(made, where / "m.onnx")
    x, labels = digits(300)
    np.savez(where / "x.npz", x=x)
    np.savez(where / "labelled.npz", x=x, label=labels)
    return where


def optimized(folder: Path, *more: str, data: str = "x.npz", code: int = 0) -> dict[str, Any]:
    done = call(
        "optimize",
        folder / "m.onnx",
        "--data",
        folder / data,
        "-o",
        folder / "a.onnx",
        "--no-cache",
        "--json",
        *more,
        code=code,
    )
    return dict(json.loads(done.stdout)) if code == 0 else {"stderr": done.stderr}


def test_the_default_with_samples_keeps_25_db_on_those_held_back(folder: Path) -> None:
    found = optimized(folder)
    promise = found["promise"]
    assert promise["kept"] and promise["held_back"] and promise["samples"] == 60 and promise["ratio"] <= 1
    assert 25 <= found["verify"]["sqnr_db"] < 30  # and is not much better than it has to be
    assert sum(promise["shares"].values()) == pytest.approx(1)
    assert found["ratio"] > 5


def test_promises_from_mild_to_strong(folder: Path) -> None:
    sizes = [optimized(folder, "--max-error", e)["output_bytes"] for e in ("1%", "20dB")]
    sizes.append(optimized(folder, "--max-drop", "2%")["output_bytes"])
    assert sizes[0] > 1.5 * sizes[1] > sizes[2]
    labelled = optimized(folder, "--max-drop", "2%", data="labelled.npz")
    accuracy = labelled["accuracy"]
    assert accuracy["before"] > 0.9 and accuracy["before"] - accuracy["after"] < 0.03
    assert accuracy["interval_before"][0] < accuracy["before"] <= accuracy["interval_before"][1]
    assert accuracy["interval_change"][0] <= accuracy["after"] - accuracy["before"] <= accuracy["interval_change"][1]


def test_a_size_is_kept_and_used(folder: Path) -> None:
    found = optimized(folder, "--size", "6kB")
    assert 5000 < found["output_bytes"] <= 6000


def test_within_a_time_the_smallest_that_keeps_the_outputs(folder: Path) -> None:
    plain, timed = (optimized(folder, *options) for options in ((), ("--latency", "1s")))
    assert timed["output_bytes"] <= 1.05 * plain["output_bytes"]  # more densities are tried where time counts
    assert timed["promise"]["kept"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--size", "200B"), "200 bytes or less"),
        (("--size", "8kB", "--max-error", "60dB"), "misses on 60 samples held back"),
        (("--latency", "0.001us"), "0.001 us or less"),
    ],
)
def test_what_can_not_be_kept_is_refused_with_the_reason(folder: Path, options: tuple[str, ...], says: str) -> None:
    (folder / "a.onnx").unlink(missing_ok=True)
    done = optimized(folder, *options, code=1)
    assert says in done["stderr"].replace("\n", " ")
    assert not (folder / "a.onnx").exists()


def test_a_metric_of_ones_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rating.py").write_text(
        "def right(outputs, data):\n    return float((outputs['y'].argmax(-1).ravel() == data['label']).mean())\n"
    )
    done = call("optimize", folder / "m.onnx", "--data", folder / "labelled.npz", "-o", tmp_path / "a.onnx", "--no-cache", "--json",
                "--max-drop", "0.05", "--metric", "rating:right", cwd=tmp_path)  # fmt: skip
    assert "a drop of up to" in json.loads(done.stdout)["promise"]["says"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-drop", "1%", "--max-error", "5%"), "exclude each other"),
        (("--max-drop", "0.5"), "0.5%"),
        (("--max-drop", "much"), "can't read"),
        (("--max-error", "5"), "5%, or 26dB"),
        (("--size", "small"), "120kB"),
        (("--size", "8"), "8x, or 8kB?"),
        (("--latency", "3"), "2ms"),
        (("--objective", "beauty"), "neither size nor latency"),
        (("--metric", "a:b"), "--max-drop"),
        (("--max-drop", "1%", "--metric", "no_such_module:f"), "can't import"),
    ],
)
def test_options_that_do_not_read(folder: Path, options: tuple[str, ...], says: str) -> None:
    assert_refused(
        "optimize", folder / "m.onnx", "--data", folder / "x.npz", "-o", folder / "b.onnx", *options, says=says
    )


def test_a_drop_needs_samples(folder: Path) -> None:
    assert_refused(
        "optimize", folder / "m.onnx", "-o", folder / "b.onnx", "--max-drop", "1%", says="made-up input mean nothing"
    )


def test_hostile_samples(folder: Path, tmp_path: Path) -> None:
    x, labels = digits(40)
    spoilt = np.where(np.arange(40)[:, None] == 3, np.nan, x).astype(np.float32)
    for name, arrays, says in (
        ("nan", {"x": spoilt}, "not finite on 1 of 40"),
        ("name", {"z": x}, "no array for input 'x'"),
        ("empty", {"x": x[:0]}, "no samples"),
        ("hollow", {"x": x[:, None][:, :0]}, "empty on all samples"),  # runs of no sample each
        ("labels", {"x": x, "label": labels + 90}, "labels.npz, array 'label': the labels go from"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        for command in ("optimize", "sensitivity"):
            more = ("-o", tmp_path / "o.onnx", "--max-drop", "1%") if command == "optimize" else ()
            assert_refused(
                command, folder / "m.onnx", "--data", tmp_path / f"{name}.npz", *more, "--no-cache", says=says
            )


@pytest.mark.parametrize("count", [1, 2, 5, 17])
@pytest.mark.parametrize("constant", [False, True])
def test_few_samples_and_constant_ones(folder: Path, count: int, constant: bool) -> None:
    x = np.full((count, 64), 0.25, np.float32) if constant else digits(count)[0]
    result = optimize(folder / "m.onnx", {"x": x}, cache=False)
    assert result.promised is not None
    assert result.promised.held_back == (count >= 4)
    assert result.verify.sqnr_db >= 24.5 or result.missed
    result.measure()
    assert result.output_bytes < result.input_bytes


def test_recipes_that_are_saved_give_the_same_artifact(folder: Path) -> None:
    recipe = str(folder / "r.toml")
    optimized(folder, "--save-recipe", recipe)
    first = (folder / "a.onnx").read_bytes()
    optimized(folder, "--recipe", recipe)
    assert (folder / "a.onnx").read_bytes() == first
    assert "step = " in (folder / "r.toml").read_text()


def test_a_budget_over_the_plain_passes(folder: Path) -> None:
    recipe = Recipe.parse(
        'passes = ["sparsify", "cluster", "encode"]\n[budget]\nlayer_sqnr_db = 0\nmodel_sqnr_db = 20\nsamples = 200\n'
    )
    x = digits(200)[0]
    plain = optimize(folder / "m.onnx", {"x": x}, recipe, cache=False)
    plain.measure()
    ours = optimize(folder / "m.onnx", {"x": x}, budget={"model_sqnr_db": 20.0}, cache=False)
    ours.measure()
    assert plain.missed is None and plain.verify.sqnr_db >= 19.5
    assert ours.output_bytes < 0.8 * plain.output_bytes
    with pytest.raises(PromiseError):
        optimize(folder / "m.onnx", {"x": x}, budget={"size": 300, "model_sqnr_db": 0.0}, refuse=True, cache=False)


def test_sensitivity(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = (
        "sensitivity",
        folder / "m.onnx",
        "--data",
        folder / "x.npz",
        "--bits",
        "2,4",
        "--density",
        "1,0.3",
        "--json",
    )
    first = call(*arguments, "--plot", tmp_path / "p.svg", "--jobs", "2")
    found = json.loads(first.stdout)
    assert [la["name"] for la in found["layers"]] == ["first", "second"]
    for layer in found["layers"]:
        assert layer["inputs_seen"] == 154  # three fifths of 256 and layer["reach"] > 0
        tried = {p["passes"]: p for p in layer["points"]}
        small, large = (tried[f"reconstruct{{step=0,density={d},bits={b}}}"] for d, b in (("0.3", 2), ("1", 4)))
        assert small["bytes"] < large["bytes"] and small["sqnr_db"] < large["sqnr_db"]
        assert small["kept"] <= 0.31 and large["us"] > 0
    assert (tmp_path / "p.svg").read_bytes().startswith(b"<?xml")
    kept = list((tmp_path / "cache" / "eie" / "curves").iterdir())
    assert len(kept) == 1
    assert call(*arguments).stdout == first.stdout
    shown = call(*arguments[:-1], "--plot", tmp_path / "p.svg").stdout
    assert "reach" in shown and f"plot       {tmp_path / 'p.svg'}" in shown.replace("\n", "")
    for spoilt in ("damaged", json.dumps(json.loads(kept[0].read_text())[::-1])):  # the layers in another order
        kept[0].write_text(spoilt)
        assert call(*arguments).stdout == first.stdout
    assert_refused(*arguments, "--plot", tmp_path / "p.bmp", says="bmp")
    assert_refused(*arguments, "--bits", "0", says="--bits")


def test_explain(folder: Path, tmp_path: Path) -> None:
    passes = ("-p", "sparsify{density=0.5},cluster{bits=6},encode")
    call("optimize", folder / "m.onnx", "--data", folder / "x.npz", "-o", tmp_path / "a.onnx", *passes)
    found = json.loads(
        call("explain", folder / "m.onnx", tmp_path / "a.onnx", "--data", folder / "x.npz", "--json").stdout
    )
    causes = {c["layer"]: c for c in found["layers"]}
    assert set(causes) == {"first", "second"}
    assert [c["alone"] for c in found["layers"]] == sorted((c["alone"] for c in found["layers"]), reverse=True)
    for cause in causes.values():
        assert (
            cause["pruning"] > 0.5 * cause["alone"] > 0
        )  # half of the weights went, the others are nearly as they were
    (tmp_path / "spare.toml").write_text(
        'passes = ["sparsify{density=0.5}", "cluster{bits=6}", "encode"]\n' + found["layers"][0]["rule"]
    )
    spared = json.loads(
        call("explain", folder / "m.onnx", tmp_path / "spare.toml", "--data", folder / "x.npz", "--json").stdout
    )
    assert spared["error"] == pytest.approx(found["error"] - found["layers"][0]["spared"], rel=1e-3)
    shown = call("explain", folder / "m.onnx", tmp_path / "a.onnx", "--data", folder / "x.npz").stdout
    worst = found["layers"][0]["layer"]  # of two layers it carries half of the error or more, by itself
    assert shown.count("skip = true") == 1 and f'match = "{worst}"' in shown
    assert "To spare the worst layer, " in shown and "held back, as all decibels above" in shown
    assert_refused("explain", tmp_path / "a.onnx", folder / "m.onnx", says="artifact already. Give the model it was made from first")
    assert_refused("sensitivity", tmp_path / "a.onnx", says="artifact already. Give the model it was made from")
    assert_refused("explain", folder / "m.onnx", folder / "m.onnx", "--data", folder / "x.npz", says="no artifact")
    assert_refused("explain", folder / "m.onnx", tmp_path / "none.toml", says="can't read the recipe")


def test_evaluate_says_how_sure_it_is(folder: Path) -> None:
    found = json.loads(call("evaluate", folder / "m.onnx", "--data", folder / "labelled.npz", "--json").stdout)
    assert found["interval"][0] < found["top1"] <= found["interval"][1]
    against = json.loads(
        call("evaluate", folder / "m.onnx", "--data", folder / "x.npz", "--against", folder / "m.onnx", "--json").stdout
    )
    assert against["agreement"] == 1.0 and against["samples"] == 300
    assert_refused("evaluate", folder / "m.onnx", "--data", folder / "x.npz", says="no array 'label'")
