"""Compresses the bundled LeNet-300-100 and runs it four ways: the original, and the artifact on each backend.

python examples/mnist_digits.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from eie.compiler import optimize
from eie.runtime import Session

MODEL = Path(__file__).parents[1] / "models" / "lenet-300-100.onnx"


def main() -> None:
    x = np.random.default_rng(0).random((4, 1, 28, 28), np.float32)  # noise stands in for digits, which are not bundled
    expected = onnxruntime.InferenceSession(str(MODEL)).run(None, {"x": x})[0]
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "lenet.eie.onnx"
        optimize(MODEL).save(artifact)
        print(f"{MODEL.stat().st_size:,} bytes before, {artifact.stat().st_size:,} after")
        for backend in ("reference", "cpu", "ort"):
            for activations in ("f32", "i16", "u8"):
                logits = Session(artifact, backend, activations=activations).run(None, {"x": x})[0]
                moved = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
                print(f"{backend:9} {activations}: outputs moved by {moved:.1%}, digits {logits.argmax(1).tolist()}")


if __name__ == "__main__":
    main()
