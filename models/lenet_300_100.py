"""Trains LeNet-300-100 (LeCun et al. 1998: 784-300-100-10, ReLU here) on MNIST with numpy and writes it as ONNX.

    python models/lenet_300_100.py --mnist FOLDER -o models/lenet-300-100.onnx

55,000 of the 60,000 training digits train it, the other 5,000 choose the epoch that is kept. Takes a few minutes.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import mnist
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]
SIZES = (784, 300, 100, 10)


def forward(x: Array, weights: list[Array], biases: list[Array]) -> list[Array]:
    """The input and every layer's output, the last without ReLU."""
    values = [x]
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        z = values[-1] @ w.T + b
        values.append(np.maximum(z, 0) if i < len(weights) - 1 else z)
    return values


def accuracy(x: Array, labels: npt.NDArray[np.int64], weights: list[Array], biases: list[Array]) -> float:
    return float((forward(x, weights, biases)[-1].argmax(1) == labels).mean())


def train(
    folder: Path,
    epochs: int,
    seed: int,
    batch: int = 100,
    rate: float = 0.05,
    momentum: float = 0.9,
    decay: float = 5e-5,
) -> tuple[list[Array], list[Array]]:
    """Stochastic gradient descent with momentum, softmax cross-entropy, the rate falling along a cosine to 0."""
    images, labels = mnist.load(folder, "train")
    x, order = images.reshape(-1, 784), np.random.default_rng(0).permutation(len(labels))
    fit, held = order[:55_000], order[55_000:]
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, np.sqrt(2 / i), (o, i)).astype(np.float32) for i, o in pairwise(SIZES)]
    biases = [np.zeros(o, np.float32) for o in SIZES[1:]]
    parameters = weights + biases
    speed = [np.zeros_like(p) for p in parameters]
    best, kept = 0.0, parameters
    steps = len(fit) // batch
    for epoch in range(epochs):
        order = rng.permutation(fit)
        for step in range(steps):
            now = rate * 0.5 * (1 + np.cos(np.pi * (epoch + step / steps) / epochs))
            rows = order[step * batch : (step + 1) * batch]
            values = forward(x[rows], weights, biases)
            z = np.exp(values[-1] - values[-1].max(1, keepdims=True))
            delta = z / z.sum(1, keepdims=True)
            delta[np.arange(batch), labels[rows]] -= 1
            delta /= batch
            gradients: list[Array] = [np.empty(0, np.float32)] * len(parameters)
            for i in reversed(range(len(weights))):
                gradients[i] = delta.T @ values[i] + decay * weights[i]
                gradients[len(weights) + i] = delta.sum(0)
                if i:
                    delta = (delta @ weights[i]) * (values[i] > 0)
            for p, v, g in zip(parameters, speed, gradients, strict=True):
                v *= momentum
                v -= np.float32(now) * g
                p += v
        score = accuracy(x[held], labels[held], weights, biases)
        print(f"epoch {epoch + 1:2d} of {epochs}: {score:.2%} of the 5,000 held back", flush=True)
        if score >= best:
            best, kept = score, [p.copy() for p in parameters]
    return kept[: len(weights)], kept[len(weights) :]


def export(weights: list[Array], biases: list[Array]) -> onnx.ModelProto:
    """Input ``x`` float32 [N, 1, 28, 28] in 0..1, output ``logits`` float32 [N, 10]."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"], axis=1)]
    last = "flat"
    for i in range(1, len(weights) + 1):
        out = "logits" if i == len(weights) else f"ip{i}_out"
        nodes.append(helper.make_node("Gemm", [last, f"ip{i}.weight", f"ip{i}.bias"], [out], name=f"ip{i}", transB=1))
        last = out
        if i < len(weights):
            nodes.append(helper.make_node("Relu", [last], [f"relu{i}_out"], name=f"relu{i}"))
            last = f"relu{i}_out"
    constants = [
        numpy_helper.from_array(a, f"ip{i}.{kind}")
        for i, pair in enumerate(zip(weights, biases, strict=True), 1)
        for a, kind in zip(pair, ("weight", "bias"), strict=True)
    ]
    graph = helper.make_graph(
        nodes,
        "lenet-300-100",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        constants,
    )
    model = helper.make_model(graph, producer_name="eie", opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, help="folder with MNIST's .gz files")
    parser.add_argument("-o", "--output", type=Path, default=Path("lenet-300-100.onnx"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    weights, biases = train(options.mnist, options.epochs, options.seed)
    onnx.save(export(weights, biases), options.output)
    for part in ("test", "test5k"):
        if (options.mnist / mnist.FILES[part][0]).exists():
            images, labels = mnist.load(options.mnist, part)
            print(f"{part}: {accuracy(images.reshape(-1, 784), labels, weights, biases):.2%} of {len(labels):,}")


if __name__ == "__main__":
    main()
