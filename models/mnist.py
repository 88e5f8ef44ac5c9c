"""MNIST in the idx format its authors chose (https://yann.lecun.org/exdb/mnist/), as numpy arrays."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    "test5k": ("test5k-images-idx3-ubyte.gz", "test5k-labels-idx1-ubyte.gz"),
}


def save(folder: Path, to: Path) -> None:
    """Write train.npz and test.npz as `optimize` takes them, into the folder ``to``; test digits are those that are there."""
    to.mkdir(parents=True, exist_ok=True)
    tested = [("test", part) for part in ("test", "test5k") if (folder / FILES[part][0]).exists()]
    for name, part in [("train", "train"), *tested[:1]]:
        images, labels = load(folder, part)
        np.savez(to / f"{name}.npz", x=images, label=labels)


def load(folder: Path, part: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images float32 [n, 1, 28, 28] in 0..1 and labels int64 [n] of ``part`` (a key of FILES)."""
    images, labels = (folder / name for name in FILES[part])
    with gzip.open(images) as stream:
        pixels = np.frombuffer(stream.read(), np.uint8, offset=16)
    with gzip.open(labels) as stream:
        digits = np.frombuffer(stream.read(), np.uint8, offset=8)
    return pixels.reshape(-1, 1, 28, 28).astype(np.float32) / 255, digits.astype(np.int64)
