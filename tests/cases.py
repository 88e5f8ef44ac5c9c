"""One suite of layers, for all backends and instruction sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eie.runtime import Weight


def weight(rng: np.random.Generator, shape: tuple[int, ...], density: float = 0.5, values: int = 16) -> Weight:
    codes = rng.integers(1, max(2, values), shape).astype(np.uint8)
    codes[rng.random(shape) >= density] = 0
    if values == 1:
        codes[...] = 0
    book = np.concatenate([[0], np.sort(rng.standard_normal(values - 1))]).astype(np.float32)
    return Weight(codes, book)


@dataclass(frozen=True)
class Case:
    op: str
    shapes: tuple[tuple[int, ...], ...]  # of the weights
    inputs: tuple[Any, ...]  # a shape, None, or an array
    attributes: Mapping[str, Any] = field(default_factory=dict)
    density: float = 0.5
    values: int = 16
    scale: float = 1.0
    outputs: tuple[bool, ...] = (True,)


def gemm(out: int, inner: int, batch: tuple[int, ...] = (3,), bias: bool = True, **more: Any) -> Case:
    return Case("Gemm", ((out, inner),), ((*batch, inner), (out,) if bias else None), **more)


def conv(shape: tuple[int, ...], x: tuple[int, ...], bias: bool = True, op: str = "Conv",
         more: Mapping[str, Any] | None = None, **attributes: Any) -> Case:  # fmt: skip
    out = shape[0] if op == "Conv" else shape[1] * attributes.get("group", 1)
    return Case(op, (shape,), (x, (out,) if bias else None), attributes, **(more or {}))


def cell(op: str, hidden: int, inner: int, time: int, batch: int, directions: int = 1, lengths: list[int] | None = None,
         states: bool = True, peephole: bool = False, bias: bool = True, **attributes: Any) -> Case:  # fmt: skip
    gates, layout = (4 if op == "LSTM" else 3), attributes.get("layout", 0)
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    inputs: list[Any] = [
        (batch, time, inner) if layout else (time, batch, inner),
        (directions, 2 * gates * hidden) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        state if states else None,
    ]
    if op == "LSTM":
        inputs += [state if states else None, (directions, 3 * hidden) if peephole else None]
    shapes = ((directions, gates * hidden, inner), (directions, gates * hidden, hidden))
    if directions == 2:
        attributes["direction"] = "bidirectional"
    outputs = (True, True, True) if op == "LSTM" else (True, True)
    return Case(op, shapes, tuple(inputs), {"hidden_size": hidden, **attributes}, outputs=outputs)


CASES: dict[str, Case] = {
    **{f"gemm {o}x{i}": gemm(o, i) for o, i in ((1, 1), (15, 31), (16, 32), (17, 33), (40, 64), (33, 65), (16, 127), (31, 129))},
    **{f"gemm {v} values": gemm(20, 200, values=v) for v in (1, 2, 3, 16, 17, 32, 33, 255, 256)},
    **{f"gemm density {d}": gemm(33, 260, density=d) for d in (0.0, 0.02, 0.3, 1.0)},
    "gemm wide": gemm(3, 70_000, (2,), density=0.4),
    "gemm vector": gemm(9, 20, ()),
    "gemm no rows": gemm(9, 20, (0,)),
    "gemm cube": gemm(9, 20, (2, 0, 3), bias=False),
    "gemm no inputs": gemm(5, 0),
    "gemm no outputs": gemm(0, 5),
    "gemm tiny": gemm(9, 50, scale=1e-41),
    "gemm small": gemm(9, 50, scale=1e-30),
    "gemm large": gemm(9, 50, scale=1e30),
    "conv 1x1": conv((8, 5, 1, 1), (2, 5, 7, 9)),
    "conv 3x3": conv((8, 5, 3, 3), (1, 5, 14, 14), pads=[1, 1, 1, 1]),
    "conv strided, dilated, lopsided": conv((6, 3, 3, 2), (2, 3, 17, 12), strides=[2, 3], dilations=[2, 1], pads=[1, 0, 2, 3]),
    "conv grouped": conv((6, 2, 3, 3), (1, 6, 8, 8), group=3),
    "conv depthwise": conv((7, 1, 3, 3), (2, 7, 9, 9), group=7, pads=[1, 1, 1, 1]),
    "conv same upper": conv((4, 3, 4, 4), (1, 3, 9, 10), auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": conv((4, 3, 4, 3), (1, 3, 9, 10), auto_pad="SAME_LOWER", strides=[2, 1]),
    "conv valid": conv((4, 3, 4, 3), (1, 3, 9, 10), auto_pad="VALID"),
    "conv 1-d": conv((5, 3, 7), (2, 3, 600), strides=[4], pads=[3, 3]),
    "conv 3-d": conv((5, 3, 2, 3, 2), (2, 3, 5, 6, 7), strides=[1, 2, 1], pads=[1, 1, 1, 0, 1, 0]),
    "conv no samples": conv((4, 3, 3, 3), (0, 3, 9, 10)),
    "conv empty rows": conv((9, 3, 3, 3), (1, 3, 9, 10), more={"density": 0.05}),
    "conv many products": conv((2, 8000, 3, 3), (1, 8000, 4, 4), more={"density": 1.0}),
    "transposed": conv((5, 4, 3, 3), (2, 5, 6, 7), op="ConvTranspose", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    "transposed, grouped, dilated": conv((6, 2, 3, 2), (1, 6, 6, 7), op="ConvTranspose", group=3, strides=[3, 1], dilations=[2, 3]),
    "transposed 1-d same": conv((5, 4, 5), (1, 5, 21), op="ConvTranspose", strides=[2], auto_pad="SAME_UPPER"),
    "transposed to a shape": conv((5, 4, 3, 3), (1, 5, 6, 7), op="ConvTranspose", strides=[2, 3], output_shape=[11, 24]),
    "transposed 3-d": conv((2, 3, 2, 2, 3), (1, 2, 3, 4, 3), op="ConvTranspose", strides=[2, 1, 2], bias=False),
    "lstm": cell("LSTM", 20, 13, 5, 2),
    "lstm both ways, lengths": cell("LSTM", 9, 30, 6, 4, 2, lengths=[6, 0, 3, 1], peephole=True),
    "lstm reverse": cell("LSTM", 5, 6, 4, 3, direction="reverse", lengths=[4, 2, 3]),
    "lstm batch first": cell("LSTM", 5, 6, 4, 3, 2, layout=1, states=False),
    "lstm coupled, clipped": cell("LSTM", 5, 6, 4, 3, input_forget=1, clip=0.3, bias=False),
    "gru": cell("GRU", 20, 13, 5, 2),
    "gru linear before reset": cell("GRU", 17, 40, 4, 3, 2, linear_before_reset=1, lengths=[1, 4, 0]),
    "gru reverse, clipped": cell("GRU", 6, 4, 4, 1, direction="reverse", clip=0.5, bias=False),
    "gru batch first": cell("GRU", 6, 4, 4, 2, layout=1),
    "gather": Case("Gather", ((11, 3, 2),), (np.array([[0, -1], [10, -11]]),)),
    "gather none": Case("Gather", ((11, 4),), (np.zeros((0,), np.int32),)),
}  # fmt: skip


def make(case: Case, seed: int = 0) -> tuple[tuple[Weight, ...], list[Any]]:
    rng = np.random.default_rng(seed)
    weights = tuple(weight(rng, s, case.density, case.values) for s in case.shapes)
    inputs = [
        i if i is None or isinstance(i, np.ndarray)
        else (rng.standard_normal(i) * (case.scale if k == 0 else 1)).astype(np.float32)
        for k, i in enumerate(case.inputs)
    ]  # fmt: skip
    return weights, inputs
