"""Trains LeNet-5 as Caffe has it (20 and 50 convolutions of 5x5, 500 and 10 outputs; 431,080 parameters) on MNIST and writes it as ONNX.

    python models/lenet_5.py --mnist FOLDER -o lenet-5.onnx

55,000 of the 60,000 training digits train it, the other 5,000 choose the epoch that is kept. Takes half an hour on one core.
Needs torch: pip install 'eie[train]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mnist
import numpy as np
import onnx
from onnx import numpy_helper, parser
from spoken_digits import Lines

from eie.compiler.training.fit import fit, right
from eie.compiler.training.settings import Settings

_TEXT = """<ir_version: 8, opset_import: ["" : 13]> main (float[N,1,28,28] x) => (float[N,10] logits) {
    [conv1] c1 = Conv(x, conv1_w, conv1_b) p1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c1)
    [conv2] c2 = Conv(p1, conv2_w, conv2_b) p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c2)
    flat = Flatten(p2) [ip1] h = Gemm<transB=1>(flat, ip1_w, ip1_b) r = Relu(h)
    [ip2] logits = Gemm<transB=1>(r, ip2_w, ip2_b) }"""
_SHAPES = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}


def build(seed: int) -> onnx.ModelProto:
    """The model with random weights (Glorot's, as Caffe draws them), biases zero."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(_TEXT)
    model.producer_name = "eie"
    for name, shape in _SHAPES.items():
        bound = np.sqrt(3 / np.prod(shape[1:]))
        weight = rng.uniform(-bound, bound, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}_w"))
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}_b"))
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mnist", type=Path, required=True, help="folder with MNIST's .gz files")
    options.add_argument("-o", "--output", type=Path, default=Path("lenet-5.onnx"))
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--checkpoint", type=Path, help="a folder to go on from after an interruption")
    given = options.parse_args()
    x, label = mnist.load(given.mnist, "train")
    settings = Settings(
        epochs=given.epochs, lr=0.02, weight_decay=5e-4, batch=100, warmup=0.02, validation=1 / 12, seed=given.seed
    )
    start = build(given.seed)
    found = fit(start, {"x": x, "label": label}, settings, checkpoint=given.checkpoint, progress=Lines())
    onnx.save(found.model, given.output)
    for part in ("test", "test5k"):
        if (given.mnist / mnist.FILES[part][0]).exists():
            x, label = mnist.load(given.mnist, part)
            print(f"{part}: {right(found.model, {'x': x, 'label': label}):.2%} of {len(label):,}")


if __name__ == "__main__":
    main()
