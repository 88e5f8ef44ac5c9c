"""Convolutions, one image, one thread: every instruction set and format beside ONNX Runtime's dense float32 Conv.

    python benchmarks/conv.py [--quick] [--json]

Shapes as SqueezeNet, ResNet and MobileNet have them. The last columns say what `eie_conv_choose` expects for f32, and whether
that came true.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from gemm import random_weight, show
from onnx import TensorProto, helper, numpy_helper
from timing import Times, interleaved

from eie.runtime import Weight
from eie.runtime._core import lib
from eie.runtime.backends.base import LayerSpec
from eie.runtime.backends.cpu import CpuBackend, isas, verdict_of

LAYERS: list[tuple[str, tuple[int, ...], int, dict[str, Any]]] = [  # name, kernel, side of the map, attributes
    ("3x3, 64 to 64", (64, 64, 3, 3), 56, {"pads": [1] * 4}),
    ("3x3, 256 to 256", (256, 256, 3, 3), 14, {"pads": [1] * 4}),
    ("3x3, 512 to 512", (512, 512, 3, 3), 7, {"pads": [1] * 4}),
    ("1x1, 256 to 64", (64, 256, 1, 1), 56, {}),
    ("1x1, 48 to 192", (192, 48, 1, 1), 27, {}),
    ("7x7 by 2, 3 to 96", (96, 3, 7, 7), 227, {"strides": [2, 2]}),
    ("depthwise 3x3, 128", (128, 1, 3, 3), 28, {"pads": [1] * 4, "group": 128}),
    ("depthwise 3x3 by 2, 64", (64, 1, 3, 3), 56, {"pads": [1] * 4, "group": 64, "strides": [2, 2]}),
]
DENSITIES = (0.1, 0.2, 0.35, 0.6, 0.9)


def dense(weight: Weight, side: int, attributes: dict[str, Any]) -> onnxruntime.InferenceSession:
    channels = weight.shape[1] * attributes.get("group", 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(weight.dense(), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(
    name: str, shape: tuple[int, ...], side: int, attributes: dict[str, Any], density: float, runs: int
) -> dict[str, Any]:
    weight = random_weight(shape, density)
    x = (
        np.random.default_rng(1)
        .standard_normal((1, shape[1] * attributes.get("group", 1), side, side))
        .astype(np.float32)
    )
    session = dense(weight, side, attributes)
    calls: dict[str, Any] = {"ort f32": lambda: session.run(None, {"x": x})}
    verdicts = {}
    for isa in isas():
        assert lib.eie_isa_select(isa.encode()) == lib.EIE_OK
        verdicts[isa] = verdict_of("Conv", attributes, weight, "f32")
        for activations in ("f32", "i16", "u8"):
            layer = CpuBackend(1).compile(LayerSpec("Conv", name, attributes, (weight,), activations))  # type: ignore[arg-type]
            calls[f"{isa} {activations}"] = lambda layer=layer: layer([x])
    assert lib.eie_isa_select(isas()[0].encode()) == lib.EIE_OK
    times = interleaved(calls, runs=runs)
    right = {i: v.dense == (times["ort f32"].median < times[f"{i} f32"].median) for i, v in verdicts.items()}
    return {"label": f"{name} on {side}x{side}, {density:.0%}", "times": times,
            "expected": {i: v.why for i, v in verdicts.items()}, "came_true": right}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few runs, two densities")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    arguments = parser.parse_args()
    densities = (0.2, 0.6) if arguments.quick else DENSITIES
    rows = [measure(*layer, d, 5 if arguments.quick else 15) for layer in LAYERS for d in densities]
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1, default=lambda t: vars(t) if isinstance(t, Times) else bool(t))
        return
    show(rows, "in cache")


if __name__ == "__main__":
    main()
