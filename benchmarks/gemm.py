"""Matrix times vector, batch 1, one thread: every instruction set and format beside ONNX Runtime's dense operators.

    python benchmarks/gemm.py [--quick] [--cold] [--json]

The layers are those of EIE (Han et al., ISCA 2016, table 3): random codes at the paper's densities, 16 values. The last
columns say what `eie_gemm_choose` expects for f32, and whether that came true.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from timing import Times, interleaved

from eie.runtime import Weight
from eie.runtime._core import lib
from eie.runtime.backends.base import LayerSpec
from eie.runtime.backends.cpu import CpuBackend, isas, verdict_of

LAYERS = {  # name: outputs, inputs, density
    "Alex-6": (4096, 9216, 0.09),
    "Alex-7": (4096, 4096, 0.09),
    "Alex-8": (1000, 4096, 0.25),
    "VGG-6": (4096, 25088, 0.04),
    "NT-We": (600, 4096, 0.10),
    "NT-Wd": (8791, 600, 0.11),
    "NT-LSTM": (2400, 1201, 0.10),
    "half": (1000, 2048, 0.5),
    "dense": (1000, 2048, 1.0),
    "small": (128, 256, 0.3),
}


def random_weight(shape: tuple[int, ...], density: float, values: int = 16) -> Weight:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, values, shape, np.uint8)
    codes[rng.random(shape, np.float32) >= density] = 0
    return Weight(codes, np.concatenate([[0], np.sort(rng.standard_normal(values - 1))]).astype(np.float32))


def dense(weight: Weight, integer: bool) -> onnxruntime.InferenceSession:
    """ONNX Runtime's Gemm in float32, or quantized on the fly to uint8 with int8 weights."""
    matrix = np.ascontiguousarray(weight.dense().T)
    if integer:
        scale = np.float32(np.abs(matrix).max() / 127)
        nodes = [helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft")]
        constants = [numpy_helper.from_array(np.rint(matrix / scale).astype(np.int8), "w"),
                     numpy_helper.from_array(scale, "s"), numpy_helper.from_array(np.int8(0), "z")]  # fmt: skip
    else:
        nodes, constants = [helper.make_node("Gemm", ["x", "w"], ["y"])], [numpy_helper.from_array(matrix, "w")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, matrix.shape[0]])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants)  # fmt: skip
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(name: str, runs: int, cold: bool) -> dict[str, Any]:
    out, inner, density = LAYERS[name]
    weight = random_weight((out, inner), density)
    x = np.random.default_rng(1).standard_normal((1, inner)).astype(np.float32)
    calls: dict[str, Any] = {}
    for kind, integer in (("ort f32", False), ("ort int8", True)):
        session = dense(weight, integer)
        calls[kind] = lambda session=session: session.run(None, {"x": x})
    verdicts = {}
    for isa in isas():
        assert lib.eie_isa_select(isa.encode()) == lib.EIE_OK
        verdicts[isa] = verdict_of("Gemm", {}, weight, "f32")
        for activations in ("f32", "i16", "u8"):
            layer = CpuBackend(1).compile(LayerSpec("Gemm", name, {}, (weight,), activations))  # type: ignore[arg-type]
            calls[f"{isa} {activations}"] = lambda layer=layer: layer([x])
    assert lib.eie_isa_select(isas()[0].encode()) == lib.EIE_OK
    times = interleaved(calls, runs=runs, cold=cold)
    right = {isa: v.dense == (times["ort f32"].median < times[f"{isa} f32"].median) for isa, v in verdicts.items()}
    return {"layer": name, "out": out, "in": inner, "density": density, "times": times,
            "expected": {i: v.why for i, v in verdicts.items()}, "came_true": right}  # fmt: skip


def show(rows: list[dict[str, Any]], title: str) -> None:
    """A table: a row a layer, times, and each one's ratio to the dense operator it competes with."""
    console = Console(width=None if sys.stdout.isatty() else 190)
    for row in rows:
        label = row["label"] if "label" in row else f"{row['layer']} {row['out']}x{row['in']}, {row['density']:.0%}"
        table = Table(box=None, header_style="bold", title=f"{label}, {title}", title_justify="left")
        for column in ("", "us, median (quartiles)", "times faster than ort f32", "expected for f32", "came true"):
            table.add_column(column, justify="left" if not column or column == "expected for f32" else "right")
        base: Times = row["times"]["ort f32"]
        for kind, t in row["times"].items():
            isa = kind.split()[0]
            mine = kind.endswith("f32") and isa in row["expected"]
            table.add_row(kind, str(t), f"{base.median / t.median:.2f}", row["expected"][isa] if mine else "",
                          str(row["came_true"][isa]) if mine else "")  # fmt: skip
        console.print(table)
    best = isas()[0]  # what is expected of the others is for machines where ONNX Runtime has no more than they
    hits = [row["came_true"][best] for row in rows]
    console.print(f"\n{best}: expectations that came true: {sum(hits)} of {len(hits)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few runs of the smaller layers")
    parser.add_argument("--cold", action="store_true", help="weights come from memory, not from cache")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    arguments = parser.parse_args()
    names = ["NT-We", "NT-LSTM", "half", "dense", "small"] if arguments.quick else list(LAYERS)
    rows = [measure(name, 10 if arguments.quick else 30, arguments.cold) for name in names]
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1, default=lambda t: vars(t) if isinstance(t, Times) else bool(t))
        return
    show(rows, "from memory" if arguments.cold else "in cache")


if __name__ == "__main__":
    main()
