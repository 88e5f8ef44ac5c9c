"""The real command line, as users and scripts call it: what it prints where, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from commands import assert_refused, call

REPOSITORY = Path(__file__).parents[2]
LENET = REPOSITORY / "models" / "lenet-300-100.onnx"


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The bundled model, optimized with no options but --json."""
    artifact = tmp_path_factory.mktemp("lenet") / "lenet.eie.onnx"
    done = call("optimize", LENET, "-o", artifact, "--json")
    return artifact, json.loads(done.stdout)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs for the bundled model, labelled with what the original says of them."""
    x = np.random.default_rng(0).random((50, 1, 28, 28), np.float32)
    session = onnxruntime.InferenceSession(str(LENET))
    path = tmp_path_factory.mktemp("digits") / "x.npz"
    np.savez(path, x=x, label=session.run(None, {"x": x})[0].argmax(1))
    return path


def test_optimize_json_is_the_contract(lenet: tuple[Path, dict[str, Any]]) -> None:
    artifact, found = lenet
    assert found["input_bytes"] == LENET.stat().st_size
    assert found["output_bytes"] == artifact.stat().st_size
    assert found["ratio"] == pytest.approx(found["input_bytes"] / found["output_bytes"])
    assert found["ratio"] > 5
    assert 0 < found["weight_bytes_after"] < found["weight_bytes_before"]
    assert [layer["name"] for layer in found["layers"]] == ["ip1", "ip2", "ip3"]
    for layer in found["layers"]:
        assert {
            "name",
            "op",
            "shape",
            "kept",
            "bits",
            "bytes_before",
            "bytes_after",
            "kernel",
            "why",
            "error",
        } <= layer.keys()
        assert sum(layer["bytes"].values()) == layer["bytes_after"]
        assert 0 < layer["kept"] <= 1
        assert 1 <= layer["bits"] <= 8
        assert 0 < layer["error"] < 0.035  # the default's 30 dB, and what lies between the points that were tried
    assert all({"name", "op", "why"} <= item.keys() for item in found["left_alone"])
    assert found["verify"]["sqnr_db"] > 20
    assert found["verify"]["top1_agreement"] >= 0.8  # of 16 samples of noise: docs/decisions/0004 says why not more


def test_the_artifact_is_valid_onnx(lenet: tuple[Path, dict[str, Any]]) -> None:
    onnx.checker.check_model(onnx.load(lenet[0]))


def test_optimize_by_itself_prints_a_table(tmp_path: Path) -> None:
    done = call(LENET, "-o", tmp_path / "a.eie.onnx", program="optimize")
    assert "times smaller" in done.stdout
    for word in ("ip1", "Gemm", "300x784", "codes", "indices", "codebook", "coverage"):
        assert word in done.stdout


def test_dry_run_writes_nothing_and_says_the_size(tmp_path: Path, lenet: tuple[Path, dict[str, Any]]) -> None:
    done = call("optimize", LENET, "-o", tmp_path / "a.eie.onnx", "--dry-run", "--json")
    assert json.loads(done.stdout)["output_bytes"] == lenet[1]["output_bytes"]
    assert list(tmp_path.iterdir()) == []


def test_the_saved_recipe_gives_the_same_artifact(tmp_path: Path, lenet: tuple[Path, dict[str, Any]]) -> None:
    recipe, again = tmp_path / "used.toml", tmp_path / "again.eie.onnx"
    call("optimize", LENET, "-o", tmp_path / "a.eie.onnx", "--save-recipe", recipe)
    call("optimize", LENET, "-o", again, "--recipe", recipe)
    assert again.read_bytes() == lenet[0].read_bytes()


def test_passes_from_the_command_line(tmp_path: Path) -> None:
    done = call(
        "optimize", LENET, "-o", tmp_path / "a.eie.onnx", "-p", "sparsify{density=0.1},cluster{bits=4},encode", "--json"
    )
    for layer in json.loads(done.stdout)["layers"]:
        assert layer["kept"] == pytest.approx(0.1, abs=0.002)
        assert layer["bits"] <= 4


@pytest.mark.parametrize("backend", ["cpu", "ort", "reference"])
@pytest.mark.parametrize("activations", ["f32", "i16", "u8"])
def test_run_and_evaluate(
    tmp_path: Path, lenet: tuple[Path, dict[str, Any]], digits: Path, backend: str, activations: str
) -> None:
    out = tmp_path / "y.npz"
    call("run", lenet[0], "--input", digits, "--output", out, "--backend", backend, "--activations", activations)
    x, original = np.load(digits)["x"], onnxruntime.InferenceSession(str(LENET))
    expected, got = original.run(None, {"x": x})[0], np.load(out)["logits"]
    assert got.shape == (50, 10)
    assert np.linalg.norm(got - expected) < 0.15 * np.linalg.norm(expected)
    done = call("evaluate", lenet[0], "--data", digits, "--backend", backend, "--activations", activations, "--json")
    found = json.loads(done.stdout)
    assert (found["samples"], found["backend"]) == (50, backend)
    assert found["top1"] == pytest.approx((got.argmax(1) == np.load(digits)["label"]).mean())


def test_a_plain_model_runs_too(tmp_path: Path, digits: Path) -> None:
    call("run", LENET, "--input", digits, "--output", tmp_path / "y.npz", "--backend", "ort")
    found = json.loads(call("evaluate", LENET, "--data", digits, "--json").stdout)
    assert found["top1"] == 1.0


def test_optimize_with_labels_reports_accuracy(tmp_path: Path, digits: Path) -> None:
    found = json.loads(call("optimize", LENET, "-o", tmp_path / "a.eie.onnx", "--data", digits, "--json").stdout)
    assert found["accuracy"]["before"] == 1.0
    assert found["accuracy"]["samples"] == 10 and found["accuracy"]["given"] == 50 and found["accuracy"]["held_back"]
    assert found["verify"]["made_up"] is False


def test_layers_and_inspect(lenet: tuple[Path, dict[str, Any]]) -> None:
    assert [row["name"] for row in json.loads(call("layers", LENET, "--json").stdout)["layers"]] == [
        "ip1",
        "ip2",
        "ip3",
    ]
    assert "ip2" in call("layers", LENET).stdout
    found = json.loads(call("inspect", lenet[0], "--json").stdout)
    assert found["file_bytes"] == lenet[0].stat().st_size
    assert [row["shape"] for row in found["payloads"]] == [[300, 784], [100, 300], [10, 100]]
    assert "ip1" in call("inspect", lenet[0]).stdout


def test_doctor() -> None:
    found = json.loads(call("doctor", "--json").stdout)
    assert found["problems"] == []
    assert "scalar" in found["instruction_sets_available"]


def test_help_names_every_command() -> None:
    text = call("--help").stdout
    for name in ("optimize", "layers", "inspect", "run", "evaluate", "doctor"):
        assert name in text


def tiny(path: Path, weight: np.ndarray[Any, Any]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


# -- the user's mistakes: what, where, what to do; exit code 2; nothing written -----------------------------------------


def test_files_that_are_no_models(tmp_path: Path) -> None:
    assert_refused("optimize", tmp_path / "missing.onnx", says="missing.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"GIF89a" + bytes(200))
    assert_refused("optimize", bad, says="bad.onnx")
    bad.write_bytes(b"")
    assert_refused("optimize", bad, says="bad.onnx")
    bad.write_bytes(LENET.read_bytes()[:5000])
    assert_refused("optimize", bad, says="bad.onnx")
    assert_refused("optimize", tmp_path, says=tmp_path.name)
    assert list(tmp_path.iterdir()) == [bad]


def test_damaged_artifacts(tmp_path: Path, lenet: tuple[Path, dict[str, Any]], digits: Path) -> None:
    content = lenet[0].read_bytes()
    damaged = tmp_path / "damaged.eie.onnx"
    damaged.write_bytes(content[: len(content) // 2])
    assert_refused("run", damaged, "--input", digits, "--output", tmp_path / "y.npz", says="damaged.eie.onnx")
    payload = max((t for t in onnx.load(lenet[0]).graph.initializer), key=lambda t: len(t.raw_data)).raw_data
    at = content.index(payload) + len(payload) // 2
    damaged.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
    for backend in ("cpu", "reference", "ort"):
        assert_refused(
            "run", damaged, "--input", digits, "--output", tmp_path / "y.npz", "--backend", backend, says="ip1"
        )
    assert_refused("inspect", damaged, says="ip1")
    assert not (tmp_path / "y.npz").exists()


def test_an_artifact_is_not_optimized_again(tmp_path: Path, lenet: tuple[Path, dict[str, Any]]) -> None:
    assert_refused("optimize", lenet[0], "-o", tmp_path / "b.eie.onnx", says="artifact already")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-p", "sparsfy{density=0.1},encode"], "sparsify"),
        (["-p", "sparsify{densty=0.1},encode"], "density"),
        (["-p", "sparsify{density=7},encode"], "density"),
        (["-p", "sparsify{density=0.1}"], "encode"),
        (["-p", "encode,cluster{bits=4}"], "cluster or ternarize or share or ttq or reconstruct before it"),
        (["--recipe", "deep-compresion"], "deep-compression"),
        (["--activations", "f16"], "f32, i16, u8"),
        (["--shape", "x=1,2"], "--shape"),
        (["--shape", "z:1,2"], "no input 'z'"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--nonsense"], "nonsense"),
        (["--shape", "x:99999999999999999999,64"], "--shape"),
        (["-o", "n" * 300], "File name too long"),
        (["--save-recipe", "nodir/r.toml"], "r.toml"),
    ],
)
def test_wrong_options(tmp_path: Path, options: list[str], says: str) -> None:
    done = call("optimize", LENET, "-o", tmp_path / "a.eie.onnx", *options, code=2)
    assert done.stdout == ""
    assert says in done.stderr.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("[budget]\nseed = -1\n", "seed"), ("x = " + "[" * 5000 + "]" * 5000, "nested"), ("passes = 3", "passes")],
)
def test_recipes_that_make_no_sense(tmp_path: Path, text: str, says: str) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(text)
    assert_refused("optimize", LENET, "-o", tmp_path / "a.eie.onnx", "--recipe", recipe, says=says)
    assert list(tmp_path.iterdir()) == [recipe]


def test_names_are_no_markup_and_no_commands_to_the_terminal(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.onnx", np.random.default_rng(0).standard_normal((30, 20)))
    model = onnx.load(path)
    name = "[/red] [bold] :smile: \x1b[2J"
    model.graph.node[0].name = name
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "[/w]"
    onnx.save(model, path)
    artifact = tmp_path / "m.eie.onnx"
    for command in (["optimize", path], ["optimize", path, "-v"], ["layers", path], ["inspect", artifact]):
        done = call(*command)
        text = " ".join(done.stdout.split())
        assert "[/red]" in text or command[0] == "inspect"
        assert "\x1b[2J" not in done.stdout + done.stderr
    recipe = tmp_path / "r.toml"
    recipe.write_text('[[rule]]\nmatch = "[/blue]*"\nskip = true\n')
    assert_refused("optimize", path, "--recipe", recipe, says="[/red]")


def test_a_recipe_is_written_with_its_artifact_or_not_at_all(tmp_path: Path) -> None:
    big, recipe = tiny(tmp_path / "big.onnx", np.random.default_rng(0).standard_normal((400, 300))), tmp_path / "r.toml"
    before = sorted(tmp_path.iterdir())
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        f"sys.argv[1:] = ['optimize', {str(big)!r}, '--save-recipe', {str(recipe)!r}];"
        "from eie.compiler.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "can't write" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_evaluate_without_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((0, 1, 28, 28), np.float32), label=np.zeros(0, np.int64))
    assert_refused("evaluate", LENET, "--data", tmp_path / "x.npz", says="no samples")
    assert_refused("optimize", LENET, "--data", tmp_path / "x.npz", "-o", tmp_path / "a.eie.onnx", says="no samples")


def test_a_rule_that_matches_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('[[rule]]\nmatch = "ip9"\nskip = true\n')
    assert_refused("optimize", LENET, "-o", tmp_path / "a.eie.onnx", "--recipe", recipe, says="ip1")


def test_outputs_that_cannot_be_written(tmp_path: Path, digits: Path) -> None:
    assert_refused("optimize", LENET, "-o", tmp_path / "no" / "such" / "a.eie.onnx", says="a.eie.onnx")
    assert_refused("optimize", LENET, "-o", tmp_path, says=tmp_path.name)
    assert_refused("optimize", LENET, "-o", LENET, says="overwrite")
    assert_refused("run", LENET, "--input", digits, "--output", tmp_path / "no" / "y.npz", says="y.npz")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to fill up")
def test_a_disk_that_fills(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); sys.argv[0] = 'eie';"
        "from eie.compiler.cli.main import main; main()"
    )
    old = tmp_path / "a.eie.onnx"
    old.write_bytes(b"what was there before")
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, "optimize", LENET, "-o", old], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "a.eie.onnx" in done.stderr.replace("\n", "")
    assert old.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [old]


def test_wrong_inputs_to_run(tmp_path: Path, lenet: tuple[Path, dict[str, Any]]) -> None:
    path = tmp_path / "x.npz"
    for arrays, says in (
        ({"X": np.zeros((1, 1, 28, 28), np.float32)}, "'x'"),
        ({"x": np.zeros((1, 784), np.float32)}, "x"),
        ({"x": np.zeros((1, 1, 28, 27), np.float32)}, "x"),
        ({"x": np.zeros((1, 1, 28, 28), np.int64)}, "x"),
    ):
        np.savez(path, **arrays)
        for backend in ("cpu", "ort"):
            assert_refused(
                "run", lenet[0], "--input", path, "--output", tmp_path / "y.npz", "--backend", backend, says=says
            )
    assert_refused("run", lenet[0], "--input", path, "--output", tmp_path / "y.npz", "--backend", "gpu", says="cpu")
    assert not (tmp_path / "y.npz").exists()


def test_weights_that_are_not_finite_are_left_alone(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    weight[3, 5] = np.nan
    model = tiny(tmp_path / "nan.onnx", weight)
    found = json.loads(call("optimize", model, "-o", tmp_path / "a.eie.onnx", "--json").stdout)
    assert found["layers"] == []
    assert "NaN" in found["left_alone"][0]["why"]
    call("optimize", model, "-o", tmp_path / "b.eie.onnx", "--strict", code=1)
    assert not (tmp_path / "b.eie.onnx").exists()


def test_a_recipe_overwrites_neither_model_nor_artifact(tmp_path: Path) -> None:
    model, artifact = tiny(tmp_path / "m.onnx", np.eye(64, 64, dtype=np.float32)), tmp_path / "a.eie.onnx"
    before = model.read_bytes()
    for path in (model, artifact):
        assert_refused("optimize", model, "-o", artifact, "--save-recipe", path, says="overwrite")
    assert model.read_bytes() == before
    assert list(tmp_path.iterdir()) == [model]


def test_an_output_replaces_no_pipe_and_follows_links(tmp_path: Path, digits: Path) -> None:
    pipe, link, real = tmp_path / "pipe", tmp_path / "link.npz", tmp_path / "real.npz"
    os.mkfifo(pipe)
    data = tmp_path / "x.npz"
    np.savez(data, x=np.load(digits)["x"])
    assert_refused("run", LENET, "--input", data, "--output", pipe, says="no regular file")
    assert pipe.is_fifo()
    real.write_bytes(b"before")
    link.symlink_to(real)
    call("run", LENET, "--input", data, "--output", link)
    assert link.is_symlink()
    assert "logits" in np.load(real)
