"""What tests of the runtime share."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

OLDEST = "1.17.3"


@pytest.fixture(scope="session")
def oldest_onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the oldest ONNX Runtime the custom operators promise to work in."""
    folder = tmp_path_factory.mktemp("oldest") / "venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    installed = subprocess.run([*pip, f"onnxruntime=={OLDEST}", "numpy<2"], capture_output=True, text=True, timeout=600)
    if installed.returncode:
        pytest.skip(f"pip can't install onnxruntime {OLDEST} here: {installed.stderr.strip()[-300:]}")
    found = subprocess.run([str(python), "-c", "import onnxruntime; print(onnxruntime.__version__)"],
                           capture_output=True, text=True, timeout=60)  # fmt: skip
    assert found.stdout.strip() == OLDEST, found.stderr
    return python
