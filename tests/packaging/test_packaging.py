"""What users install: the wheel, without a compiler, and the sdist, with the README's command. Clean environments, slow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def call(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(a) for a in arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of a copy of what git tracks, and the wheel made from that sdist."""
    copy, out = tmp_path_factory.mktemp("copy") / "eie", tmp_path_factory.mktemp("dist")
    files = call("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY).splitlines()
    for file in files:
        if (REPOSITORY / file).is_file():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / file, copy / file)
    call(sys.executable, "-m", "build", "--outdir", out, cwd=copy)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def environment(folder: Path) -> Path:
    """The interpreter of a new virtual environment."""
    call(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin" / "python"


def test_the_wheel_holds_both_packages_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[1]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"eie"}
    assert "eie/compiler/presets/post-training.toml" in names
    assert "eie/compiler/py.typed" in names
    assert any(n.startswith("eie/runtime/_core") for n in names)
    assert any(n.startswith("eie/runtime/_ortops") for n in names)
    assert "cp311-abi3" in built[1].name


def test_the_wheel_works_without_a_compiler(built: tuple[Path, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    path = {**os.environ, "CC": "/bin/false", "PATH": str(python.parent)}
    call(python, "-m", "pip", "install", "-q", built[1], cwd=tmp_path, env=path)
    shutil.copy(REPOSITORY / "models" / "lenet-300-100.onnx", tmp_path / "m.onnx")
    assert "times smaller" in call(python.parent / "optimize", "m.onnx", cwd=tmp_path, env=path)
    script = """
import numpy as np
from eie.runtime import Session
x = np.random.default_rng(0).random((3, 1, 28, 28), np.float32)
answers = [Session("m.eie.onnx", b, activations="u8").run(None, {"x": x})[0] for b in ("cpu", "ort", "reference")]
assert all((a == answers[0]).all() for a in answers)
print("equal")
"""
    assert call(python, "-c", script, cwd=tmp_path, env=path) == "equal\n"
    assert '"problems": []' in call(python.parent / "eie", "doctor", "--json", cwd=tmp_path, env=path)


def test_the_readmes_command_works_in_an_unpacked_sdist(built: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert {"tests", "models", "csrc", "docs", "Makefile", "README.md"} <= {p.name for p in folder.iterdir()}
    assert "times smaller" in call("make", "run", f"PYTHON={sys.executable}", cwd=folder)
    call("make", ".venv/.tested", cwd=folder)
    call(".venv/bin/python", "-m", "pytest", "-q", "tests/runtime/test_session.py", cwd=folder)
