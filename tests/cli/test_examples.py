"""The examples run as their docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eie.compiler import optimize

REPOSITORY = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    path = REPOSITORY / script
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "lenet.eie.onnx"
    optimize(REPOSITORY / "models" / "lenet-300-100.onnx").save(path)
    return path


def test_mnist_digits() -> None:
    lines = run("examples/mnist_digits.py").splitlines()
    assert len(lines) == 10
    for activations in ("i16", "u8"):
        answers = {line.split(":")[1] for line in lines if f" {activations}:" in line}
        assert len(answers) == 1  # equal on every backend


def test_in_onnxruntime(artifact: Path) -> None:
    assert run("examples/in_onnxruntime.py", str(artifact)).startswith("logits (1, 10)")


def test_training(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    sizes, right, *_ = run("examples/training.py", str(tmp_path)).splitlines()
    before, after = (float(part.split("%")[0]) for part in right.replace(" after", "").split(", "))
    assert int(sizes.split(" bytes")[0].replace(",", "")) > 20 * (tmp_path / "drawings.eie.onnx").stat().st_size
    assert after > before - 1 and {p.name for p in tmp_path.iterdir()} >= {"drawings.onnx", "train.npz", "test.npz"}
