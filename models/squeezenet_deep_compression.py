"""Turns the Deep Compression authors' SqueezeNet 1.0 (pruned, 8-bit shared weights) into ONNX, every weight to the bit.

    python models/squeezenet_deep_compression.py FOLDER -o squeezenet-1.0.onnx

FOLDER holds ``compressed_SqueezeNet.net`` and ``SqueezeNet_deploy.prototxt`` as published at
https://github.com/songhan/SqueezeNet-Deep-Compression. The ``.net`` file has, little-endian and without names: how many
entries each layer stores (uint32); then for each layer its codebook (256 float32, the first 0.0), its biases (float32), a
code an entry (uint8), and a gap an entry (4 bits, low nibble first): the number of zeros before the entry in the C-order
weight. Input of the model: ``data`` float32 [N, 3, 227, 227], BGR minus (104, 117, 123); output: ``prob`` [N, 1000].
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Message = dict[str, list[Any]]


def parse_prototxt(text: str) -> Message:
    """Protocol-buffer text as nested dictionaries, every field a list of its values."""
    tokens = iter(re.findall(r'"[^"]*"|[{}:]|[^\s{}:"]+', re.sub(r"#.*", "", text)))

    def message(tokens: Iterator[str]) -> Message:
        found: Message = {}
        for name in tokens:
            if name == "}":
                break
            mark = next(tokens)
            found.setdefault(name, []).append(message(tokens) if mark == "{" else next(tokens).strip('"'))
        return found

    return message(tokens)


class NetFile:
    """Reads the ``.net`` file front to back."""

    def __init__(self, data: bytes, layers: int) -> None:
        self.data, self.at = data, 0
        self.entries = [int(n) for n in self.take("<u4", layers)]

    def take(self, dtype: str, count: int) -> npt.NDArray[Any]:
        size = np.dtype(dtype).itemsize * count
        if self.at + size > len(self.data):
            raise SystemExit(f"the .net file ends at byte {len(self.data)}, but {self.at + size} are needed")
        part = np.frombuffer(self.data, dtype, count, self.at)
        self.at += size
        return part

    def layer(self, index: int, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Weight of ``shape`` [out, in, kernel, kernel] and bias [out] of the next layer."""
        entries = self.entries[index]
        codebook, bias = self.take("<f4", 256), self.take("<f4", shape[0])
        codes = self.take("u1", entries)
        packed = self.take("u1", (entries + 1) // 2)
        gaps = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:entries]
        weight = np.zeros(int(np.prod(shape)), np.float32)
        weight[np.cumsum(gaps.astype(np.int64) + 1) - 1] = codebook[codes]
        return weight.reshape(shape), bias


def convert(net: bytes, prototxt: str) -> onnx.ModelProto:
    """The whole network as an ONNX model of opset 13."""
    layers = parse_prototxt(prototxt)["layer"]
    convolutions = [layer for layer in layers if layer["type"][0] == "Convolution"]
    reader = NetFile(net, len(convolutions))
    channels, current = {"data": 3}, {"data": "data"}  # blob -> channels, and the tensor that now holds it
    nodes, constants = [], []
    for layer in layers:
        name, kind, top = layer["name"][0], layer["type"][0], layer["top"][0]
        bottoms = [current[b] for b in layer["bottom"]]
        count = sum(channels[b] for b in layer["bottom"])
        # in-place Caffe layers reuse a blob: in ONNX every tensor has a name of its own
        out = top if top not in current else name
        if kind == "Convolution":
            options = {k: v[0] for k, v in layer["convolution_param"][0].items()}
            kernel, pad, stride = (int(options.get(k, d)) for k, d in (("kernel_size", 1), ("pad", 0), ("stride", 1)))
            shape = (int(options["num_output"]), count, kernel, kernel)
            weight, bias = reader.layer(convolutions.index(layer), shape)
            constants += [numpy_helper.from_array(weight, f"{name}.w"), numpy_helper.from_array(bias, f"{name}.b")]
            attributes = {"pads": [pad] * 4} if pad else {}
            attributes |= {"strides": [stride] * 2} if stride > 1 else {}
            nodes.append(helper.make_node("Conv", [*bottoms, f"{name}.w", f"{name}.b"], [out], name, **attributes))
            count = shape[0]
        elif kind == "ReLU":
            nodes.append(helper.make_node("Relu", bottoms, [out]))
        elif kind == "Concat":
            nodes.append(helper.make_node("Concat", bottoms, [out], axis=1))
        elif kind == "Pooling" and layer["pooling_param"][0]["pool"][0] == "MAX":
            options = {k: v[0] for k, v in layer["pooling_param"][0].items()}
            nodes.append(
                helper.make_node(
                    "MaxPool",
                    bottoms,
                    [out],
                    kernel_shape=[int(options["kernel_size"])] * 2,
                    strides=[int(options["stride"])] * 2,
                    ceil_mode=1,
                )
            )  # Caffe rounds up
        elif kind == "Pooling":
            nodes.append(helper.make_node("GlobalAveragePool", bottoms, [out]))
        elif kind == "Dropout":
            nodes.append(helper.make_node("Identity", bottoms, [out]))
        else:
            raise SystemExit(f"{name}: this script knows no Caffe layer of type {kind}")
        current[top], channels[top] = out, count
    if reader.at != len(net):
        raise SystemExit(f"{len(net) - reader.at} bytes of the .net file are left over: another network's prototxt?")
    nodes += [
        helper.make_node("Flatten", [current[top]], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["prob"]),
    ]
    graph = helper.make_graph(
        nodes,
        "squeezenet-1.0",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 227, 227])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["N", channels[top]])],
        constants,
    )
    model = helper.make_model(graph, producer_name="eie", opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("squeezenet-1.0.onnx"))
    options = parser.parse_args()
    model = convert(
        (options.folder / "compressed_SqueezeNet.net").read_bytes(),
        (options.folder / "SqueezeNet_deploy.prototxt").read_text(),
    )
    onnx.save(model, options.output)
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(".w")]
    print(
        f"{options.output}: {len(weights)} layers, {sum(w.size for w in weights):,} weights, "
        f"{sum(int(np.count_nonzero(w)) for w in weights):,} of them not zero"
    )


if __name__ == "__main__":
    main()
