"""Trains a small CNN, an LSTM or a GRU on spoken digits and writes it as ONNX.

    python models/spoken_digits.py lstm --fsdd fsdd.zip -o models/spoken-digits-lstm.onnx
    python models/spoken_digits.py cnn --fsdd fsdd.zip --by theo --npz data    # and train.npz, test.npz for `optimize`

Features as models/fsdd.py makes them; input ``x`` float32 [N, 32, 40], output ``logits`` [N, 10]. ``--by`` says what is tested: the
first ten takes of each speaker, or a speaker's whole voice. Five takes of each other voice choose the epoch that is kept. Takes minutes.
Needs torch: pip install 'eie[train]'.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import fsdd
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, parser

from eie.compiler.training.fit import fit, right
from eie.compiler.training.settings import Settings

HIDDEN, COPIES = 128, 3
_NEXT = {"cnn": "deep-compression", "lstm": "ese", "gru": "ese"}
SETTINGS = {
    "cnn": Settings(epochs=20, lr=0.003, optimizer="adam", batch=64),
    "lstm": Settings(epochs=30, lr=0.005, optimizer="adam", batch=64, clip=1.0),
    "gru": Settings(epochs=30, lr=0.005, optimizer="adam", batch=64, clip=1.0),
}
_CNN = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,32,40] x) => (float[N,10] logits) {
    image = Unsqueeze(x, one)
    [conv1] a1 = Conv<pads=[1,1,1,1]>(image, conv1_w, conv1_b) r1 = Relu(a1) p1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r1)
    [conv2] a2 = Conv<pads=[1,1,1,1]>(p1, conv2_w, conv2_b) r2 = Relu(a2) p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
    [conv3] a3 = Conv<pads=[1,1,1,1]>(p2, conv3_w, conv3_b) r3 = Relu(a3) p3 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r3)
    flat = Flatten(p3) [ip1] h = Gemm<transB=1>(flat, ip1_w, ip1_b) hr = Relu(h)
    [ip2] logits = Gemm<transB=1>(hr, ip2_w, ip2_b) }"""
_RECURRENT = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,32,40] x) => (float[N,10] logits) {{
    steps = Transpose<perm=[1,0,2]>(x)
    [rnn] y = {kind}<hidden_size={hidden}{more}>(steps, rnn_w, rnn_r, rnn_b)
    all = Squeeze(y, one) mean = ReduceMean<axes=[0], keepdims=0>(all)
    [classifier] logits = Gemm<transB=1>(mean, classifier_w, classifier_b) }}"""


def build(kind: str, seed: int, hidden: int = HIDDEN) -> onnx.ModelProto:
    """The model with random weights: He's for the CNN, uniform within 1/sqrt(hidden) for recurrent ones."""
    rng = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    if kind == "cnn":
        text = _CNN
        for name, shape in {
            "conv1": (16, 1, 3, 3), "conv2": (32, 16, 3, 3), "conv3": (64, 32, 3, 3), "ip1": (64, 64 * 4 * 5), "ip2": (10, 64),
        }.items():  # fmt: skip
            weights[f"{name}_w"] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
            weights[f"{name}_b"] = np.zeros(shape[0], np.float32)
    else:
        gates = {"lstm": 4, "gru": 3}[kind] * hidden
        text = _RECURRENT.format(
            kind=kind.upper(), hidden=hidden, more=", linear_before_reset=1" if kind == "gru" else ""
        )
        bound = 1 / np.sqrt(hidden)
        for name, shape in {
            "rnn_w": (1, gates, fsdd.BANDS),
            "rnn_r": (1, gates, hidden),
            "classifier_w": (10, hidden),
        }.items():
            weights[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        bias = np.zeros((1, 2 * gates), np.float32)
        if kind == "lstm":
            bias[0, 2 * hidden : 3 * hidden] = 1  # forget gates begin open
        weights |= {"rnn_b": bias, "classifier_b": np.zeros(10, np.float32)}
    model = parser.parse_model(text)
    model.producer_name = "eie"
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    onnx.checker.check_model(model, full_check=True)
    return model


class Lines:
    """Prints every epoch."""

    def stage(self, name: str, steps: int) -> None: ...
    def step(self, what: str) -> None: ...

    def note(self, text: str) -> None:
        print(text, flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kind", choices=sorted(SETTINGS))
    options.add_argument("--fsdd", type=Path, required=True, help="the data set's recordings as .zip")
    options.add_argument("--by", default="take", help="what is tested: take, or a speaker's name")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("-o", "--output", type=Path)
    options.add_argument("--npz", type=Path, help="a folder: what was trained and tested on is written there")
    given = options.parse_args()
    train, held, test = fsdd.split(given.fsdd, given.by)
    data = (fsdd.varied(train, COPIES, given.seed), fsdd.features(held))
    settings = replace(SETTINGS[given.kind], seed=given.seed)
    found = fit(build(given.kind, given.seed), data, settings, progress=Lines())
    written, tested = given.output or Path(f"spoken-digits-{given.kind}.onnx"), fsdd.features(test)
    onnx.save(found.model, written)
    print(f"{written}: tested on {len(test)} recordings ({given.by}), {right(found.model, tested):.2%} right")
    if given.npz is not None:
        given.npz.mkdir(parents=True, exist_ok=True)
        np.savez(given.npz / "train.npz", **data[0])
        np.savez(given.npz / "test.npz", **tested)
        print(f"next: optimize {written} --train {given.npz}/train.npz --data {given.npz}/test.npz --recipe {_NEXT[given.kind]}")


if __name__ == "__main__":
    main()
