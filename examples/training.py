"""Trains a small CNN on drawings, writes the files that `optimize --train` takes, and compresses it while training goes on.

python examples/training.py [FOLDER]     # half a minute; needs torch: pip install 'eie[train]'

With your own model and data, begin at the end: arrays named after the model's inputs, and ``label``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from eie.compiler import Recipe, optimize
from eie.compiler.training.fit import fit
from eie.compiler.training.settings import Settings

_CNN = """<ir_version: 8, opset_import: ["" : 17]> drawings (float[N,1,20,20] x) => (float[N,3] scores) {
    [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1) r1 = Relu(a) p1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r1)
    [conv2] b = Conv<pads=[1,1,1,1]>(p1, w2, b2) r2 = Relu(b) p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
    flat = Flatten(p2) [hidden] h = Gemm<transB=1>(flat, w3, b3) r3 = Relu(h) [scores] scores = Gemm<transB=1>(r3, w4, b4) }"""


def drawings(count: int, seed: int) -> dict[str, np.ndarray]:
    """Squares, circles and crosses of any size, somewhere, in noise: ``x`` float32 [count, 1, 20, 20], ``label`` int64 [count]."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, count)
    size, at = rng.uniform(4, 8, count), rng.uniform(7, 13, (2, count))
    down, right = np.abs(np.mgrid[:20, :20][:, None] - at[:, :, None, None])
    size, kind = size[:, None, None], label[:, None, None]
    outside = np.maximum(0, np.maximum(down, right) - size)
    far = np.choose(kind, [np.maximum(down, right) - size, np.hypot(down, right) - size, np.abs(down - right) + outside])
    edge = np.abs(far) < 1
    x = edge + rng.normal(0, 0.4, edge.shape)
    return {"x": x[:, None].astype(np.float32), "label": label}


def untrained() -> onnx.ModelProto:
    """The CNN with random weights."""
    rng, model = np.random.default_rng(0), parser.parse_model(_CNN)
    for n, shape in enumerate([(8, 1, 3, 3), (16, 8, 3, 3), (64, 16 * 25), (3, 64)], 1):
        weight = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        for name, array in ((f"w{n}", weight), (f"b{n}", np.zeros(shape[0], np.float32))):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def main(folder: Path) -> None:
    train, test = drawings(3000, 0), drawings(1000, 1)
    model = fit(untrained(), train, Settings(epochs=6, lr=0.003, optimizer="adam", batch=64)).model
    onnx.save(model, folder / "drawings.onnx")
    np.savez(folder / "train.npz", **train)
    np.savez(folder / "test.npz", **test)

    recipe = Recipe.load("deep-compression").with_ratio(40)
    result = optimize(folder / "drawings.onnx", folder / "test.npz", recipe, train=folder / "train.npz")
    result.save(folder / "drawings.eie.onnx")
    assert result.accuracy is not None
    print(f"{result.input_bytes:,} bytes before, {result.output_bytes:,} after: {result.ratio:.0f} times smaller")
    print(f"{result.accuracy.before:.1%} of {result.accuracy.samples:,} drawings right before, {result.accuracy.after:.1%} after")
    print(f"the same, in {folder}:")
    print("optimize drawings.onnx --train train.npz --data test.npz --recipe deep-compression --ratio 40")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
