"""AlexNet and VGG-16 whole, at Deep Compression's densities, beside ONNX Runtime in fp32 and int8.

    python benchmarks/networks.py --work FOLDER [alexnet vgg-16] > benchmarks/results/networks-MACHINE.json

Weights are random, pruned by magnitude to the densities of the paper's tables 4 and 5 and shared by layer (16 values, the paper has
256 in convolutions and 32 elsewhere: time depends on it little). The int8 form is ONNX Runtime's own static quantization (QDQ, weights by
channel). Models of up to 550 MB go to FOLDER and are made once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eie.compiler import Recipe, optimize
from eie.compiler.bench.machine import describe
from eie.compiler.bench.models import measure

# a layer: (name, outputs, kernel, stride, pad, groups, % kept); "P": max pooling, (kernel, stride); Gemms have kernel 0
_ALEXNET: list[Any] = [
    ("conv1", 96, 11, 4, 0, 1, 84), ("P", 3, 2), ("conv2", 256, 5, 1, 2, 2, 38), ("P", 3, 2),
    ("conv3", 384, 3, 1, 1, 1, 35), ("conv4", 384, 3, 1, 1, 2, 37), ("conv5", 256, 3, 1, 1, 2, 37), ("P", 3, 2),
    ("fc6", 4096, 0, 0, 0, 1, 9), ("fc7", 4096, 0, 0, 0, 1, 9), ("fc8", 1000, 0, 0, 0, 1, 25),
]  # fmt: skip
_STAGES = ((64, (58, 22)), (128, (34, 36)), (256, (53, 24, 42)), (512, (32, 27, 34)), (512, (35, 29, 36)))
_VGG: list[Any] = [
    layer
    for s, (width, kept) in enumerate(_STAGES, 1)
    for layer in (*((f"conv{s}_{i}", width, 3, 1, 1, 1, k) for i, k in enumerate(kept, 1)), ("P", 2, 2))
] + [("fc6", 4096, 0, 0, 0, 1, 4), ("fc7", 4096, 0, 0, 0, 1, 4), ("fc8", 1000, 0, 0, 0, 1, 23)]
NETWORKS = {"alexnet": (_ALEXNET, 227), "vgg-16": (_VGG, 224)}


def build(layers: list[Any], size: int) -> onnx.ModelProto:
    """The network, without the normalization that AlexNet has behind two layers."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    shape, flow, flat = (3, size, size), "data", False
    for place, layer in enumerate(layers):
        if layer[0] == "P":
            _, kernel, stride = layer
            shape = (shape[0], *((s - kernel) // stride + 1 for s in shape[1:]))
            nodes.append(
                helper.make_node(
                    "MaxPool", [flow], [flow := f"pool{place}"], kernel_shape=[kernel] * 2, strides=[stride] * 2
                )
            )
            continue
        name, out, kernel, stride, pad, group, kept = layer
        if not kernel and not flat:
            nodes.append(helper.make_node("Flatten", [flow], [flow := "flat"]))
            shape, flat = (int(np.prod(shape)),), True
        dims = (out, shape[0] // group, kernel, kernel) if kernel else (out, shape[0])
        w = rng.normal(0, np.sqrt(2 / (np.prod(dims[1:]) * kept / 100)), dims).astype(np.float32)
        w[np.abs(w) < np.quantile(np.abs(w), 1 - kept / 100)] = 0
        constants += [
            numpy_helper.from_array(a, f"{name}.{k}") for k, a in (("w", w), ("b", np.zeros(out, np.float32)))
        ]
        inputs = [flow, f"{name}.w", f"{name}.b"]
        if kernel:
            nodes.append(
                helper.make_node(
                    "Conv", inputs, [flow := name], name, strides=[stride] * 2, pads=[pad] * 4, group=group
                )
            )
            shape = (out, *((s + 2 * pad - kernel) // stride + 1 for s in shape[1:]))
        else:
            nodes.append(helper.make_node("Gemm", inputs, [flow := name], name, transB=1))
            shape = (out,)
        if name != "fc8":
            nodes.append(helper.make_node("Relu", [flow], [flow := f"{name}.relu"]))
    graph = helper.make_graph(nodes, "network", [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, size, size])],
                              [helper.make_tensor_value_info(flow, TensorProto.FLOAT, [1, 1000])], constants)  # fmt: skip
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def quantized(model: Path, size: int) -> Path:
    """ONNX Runtime's static int8 form."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            self.feeds: Iterator[Any] = iter(
                [{"data": rng.normal(size=(1, 3, size, size)).astype(np.float32)} for _ in range(2)]
            )

        def get_next(self) -> Any:
            return next(self.feeds, None)

    path = model.with_suffix(".int8.onnx")
    quantize_static(model, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all when left out")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the models")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.network or NETWORKS:
        layers, size = NETWORKS[name]
        model = given.work / f"{name}.onnx"
        int8 = given.work / f"{name}.int8.onnx"
        if not int8.exists():
            onnx.save(build(layers, size), model)
            quantized(model, size)
        for activations in ("u8", "f32"):
            artifact = given.work / f"{name}-{activations}.eie.onnx"
            if not artifact.exists():
                optimize(
                    model,
                    recipe=Recipe.parse(f'passes = ["cluster{{bits=4}}", "encode"]\nactivations = "{activations}"'),
                ).save(artifact)
            print(f"{name}, {activations}", file=sys.stderr, flush=True)
            rows += [
                row | {"activations": activations}
                for row in measure(artifact, model, int8=int8, runs=given.runs, clock=given.clock)
            ]
            base = rows[-5]["median_us"]
            for row in rows[-5:]:
                print(
                    f"  {row['system']:12} {row['median_us'] / 1e3:9.1f} ms  {base / row['median_us']:5.2f}x",
                    file=sys.stderr,
                    flush=True,
                )
    json.dump({"machine": describe(), "rows": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
