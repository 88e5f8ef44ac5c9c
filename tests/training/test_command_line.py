"""``optimize --train`` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from commands import call
from eie.compiler.recipe import Recipe, presets

from .conftest import Arrays


def test_train_from_the_command_line(mlp: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    model, data, recipe, trained = (tmp_path / n for n in ("m.onnx", "d.npz", "used.toml", "trained.onnx"))
    onnx.save(mlp, model)
    np.savez(data, **blobs)
    own = tmp_path / "own.toml"
    own.write_text('passes = ["prune{density=0.4}", "cluster{bits=4}", "retrain{epochs=2,rate=0.2}", "encode"]\n'
                   '[train]\nepochs = 6\nlr = 0.01\noptimizer = "adam"\nbatch = 50\nthreads = 1\n')  # fmt: skip
    done = call(
        "optimize", model, "--train", data, "--data", data, "--recipe", own, "--checkpoint", tmp_path / "c",
        "--save-recipe", recipe, "--save-trained", trained, "--json",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["accuracy"]["before"] < 0.6 < 0.9 < found["accuracy"]["after"]
    assert [e["phase"] for e in found["training"]["epochs"]] == ["prune"] * 6 + ["retrain"] * 2
    assert sum(e["kept"] for e in found["training"]["epochs"]) == 2
    assert Recipe.load(recipe).train is not None
    kept = {t.name: t for t in onnx.load(trained).graph.initializer}
    assert np.count_nonzero(onnx.numpy_helper.to_array(kept["w1"])) == round(0.4 * 512)
    assert (tmp_path / "m.eie.onnx").exists() and (tmp_path / "c" / "phase-01.pt").exists()


@pytest.mark.parametrize("name", presets())
def test_presets_can_be_read_and_written(name: str) -> None:
    found = Recipe.load(name)
    assert Recipe.parse(found.to_toml(every=True), name).to_toml(every=True) == found.to_toml(every=True)
    assert bool(found.learns) == (found.train is not None)
