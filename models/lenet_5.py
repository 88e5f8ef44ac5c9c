"""Trains LeNet-5 as Caffe and Deep Compression have it (20 and 50 kernels of 5x5, 500 and 10 units; 431,080 parameters) on MNIST and
writes it as ONNX.

    python models/lenet_5.py --mnist FOLDER -o models/lenet-5.onnx

55,000 of the 60,000 training digits train it, moved by up to a place each time they are seen; the other 5,000 choose the epoch that is
kept. Takes five minutes on two cores. Needs torch: pip install 'eie[train]'.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import mnist
import numpy as np
import onnx
from onnx import numpy_helper, parser
from spoken_digits import Lines

from eie.compiler.progress import Progress
from eie.compiler.training.fit import fit, right
from eie.compiler.training.settings import Settings

SETTINGS = Settings(epochs=10, lr=0.001, optimizer="adam", batch=128, shift=1, validation=1 / 12)
_TEXT = """<ir_version: 8, opset_import: ["" : 13]> lenet (float[N,1,28,28] x) => (float[N,10] logits) {
    [conv1] c1 = Conv<kernel_shape=[5,5]>(x, conv1_w, conv1_b) p1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c1)
    [conv2] c2 = Conv<kernel_shape=[5,5]>(p1, conv2_w, conv2_b) p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c2)
    flat = Flatten(p2) [ip1] h = Gemm<transB=1>(flat, ip1_w, ip1_b) r = Relu(h)
    [ip2] logits = Gemm<transB=1>(r, ip2_w, ip2_b) }"""
_SHAPES = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}


def build(seed: int) -> onnx.ModelProto:
    """The model with random weights, normal, of variance one over what a unit reads (two over it before the ReLU)."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(_TEXT)
    model.producer_name = "eie"
    for name, shape in _SHAPES.items():
        spread = np.sqrt((2 if name == "ip1" else 1) / np.prod(shape[1:]))
        weight = rng.normal(0, spread, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}_w"))
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}_b"))
    onnx.checker.check_model(model, full_check=True)
    return model


def train(
    folder: Path,
    seed: int,
    settings: Settings = SETTINGS,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> onnx.ModelProto:
    """The model, trained from nothing."""
    x, label = mnist.load(folder, "train")
    own = replace(settings, seed=seed)
    return fit(build(seed), {"x": x, "label": label}, own, checkpoint=checkpoint, progress=progress).model


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mnist", type=Path, required=True, help="folder with MNIST's .gz files")
    options.add_argument("-o", "--output", type=Path, default=Path("lenet-5.onnx"))
    options.add_argument("--epochs", type=int, default=SETTINGS.epochs)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--checkpoint", type=Path, help="a folder to go on from after an interruption")
    options.add_argument("--npz", type=Path, help="a folder: train.npz and test.npz for `optimize` are written there")
    given = options.parse_args()
    model = train(given.mnist, given.seed, replace(SETTINGS, epochs=given.epochs), given.checkpoint, Lines())
    onnx.save(model, given.output)
    for part in ("test", "test5k"):
        if (given.mnist / mnist.FILES[part][0]).exists():
            images, labels = mnist.load(given.mnist, part)
            print(f"{given.output}: {part}, {right(model, {'x': images, 'label': labels}):.2%} of {len(labels):,}")
    if given.npz is not None:
        mnist.save(given.mnist, given.npz)
        data = f" --data {given.npz}/test.npz" if (given.npz / "test.npz").exists() else ""
        print(f"next: optimize {given.output} --train {given.npz}/train.npz{data} --recipe deep-compression")


if __name__ == "__main__":
    main()
