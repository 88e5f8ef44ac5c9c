"""What flows into each layer on sample input: rows of activations, from which a layer's output error can be computed.

For y = W x the error of changed weights is |X (W - W')^T|^2 / |X W^T|^2 over rows X of activations: no operator has to run
again for each candidate. A convolution's rows are the patches under its kernel, at positions drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import Feeds
from ..ir.graph import Model
from .fidelity import Runner
from .layers import Layer

Array = npt.NDArray[np.float32]

ROWS = (
    256  # rows of activations kept a layer: their span decides how well an error is known, 256 give it within a few %
)


def capture(model: Model, layers: Sequence[Layer], feeds: Sequence[Feeds], seed: int = 0) -> dict[str, Array]:
    """Activation rows by layer name, float32 [groups, rows, values] with every row scaled to the same energy.

    ``values`` counts what one output of the layer's matrix form reads (``probe.as_matrix``). Layers inside a body, and those
    whose activations no tensor of the graph shows, are left out: they are judged by their weights' error.
    """
    wanted = {layer.name: _source(model, layer) for layer in layers}
    tensors = sorted({t for t in wanted.values() if t is not None})
    if not tensors:
        return {}
    constant = {t: c.array() for t in tensors if (c := model.graph.constant(t)) is not None}
    computed = [t for t in tensors if t not in constant and not model.graph.is_input(t)]
    runner = Runner(model, computed) if computed else None
    rng = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {}
    share = max(8, -(-ROWS // max(1, len(feeds))))
    for feed in feeds:
        values = dict(zip(computed, runner.run(feed), strict=True)) if runner else {}
        for layer in layers:
            tensor = wanted[layer.name]
            if tensor is None:
                continue
            value = values.get(tensor, feed.get(tensor, constant.get(tensor)))
            rows = None if value is None else _rows(layer, value, share, rng)
            if rows is not None and np.isfinite(rows).all():
                energy = np.sqrt(np.square(rows, dtype=np.float64).mean())
                if energy > 0:
                    found.setdefault(layer.name, []).append((rows / energy).astype(np.float32))
    return {name: np.concatenate(parts, axis=1)[:, :ROWS] for name, parts in found.items()}


def _source(model: Model, layer: Layer) -> str | None:
    """The tensor a layer's activations are read from."""
    if layer.graph is not model.graph or layer.op == "Gather":
        return None
    slot = layer.slot
    if layer.op in {"LSTM", "GRU", "RNN"}:
        if slot == 1:
            return layer.node.inputs[0]
        return next((o for o in layer.node.outputs[:1] if o), None)  # the hidden states are the output Y
    if layer.op in {"Gemm", "Conv", "ConvTranspose"} or (layer.op == "MatMul" and slot == 1):
        return layer.node.inputs[0]
    return None


def _rows(layer: Layer, value: npt.NDArray[Any], count: int, rng: np.random.Generator) -> Array | None:
    """Up to ``count`` rows of one sample, [groups, rows, values]."""
    x = np.asarray(value, np.float32)
    if x.size == 0:
        return None
    if layer.op == "Conv":
        return _patches(layer, x, count, rng)
    if layer.op == "ConvTranspose":
        groups = int(layer.node.get("group", 1))
        rows = np.moveaxis(x, 1, -1).reshape(-1, groups, x.shape[1] // groups).transpose(1, 0, 2)
        return rows[:, rng.permutation(rows.shape[1])[:count]]
    if layer.op == "Gemm" and layer.node.get("transA", 0):
        x = x.T
    if layer.op in {"LSTM", "GRU", "RNN"} and layer.slot == 2:
        # Y [time, directions, batch, hidden] (layout 1: [batch, time, directions, hidden]): its last axis is what R reads
        x = x.reshape(-1, x.shape[-1])
    if x.shape[-1] != layer.shape[-1]:
        return None
    rows = x.reshape(1, -1, x.shape[-1])
    return rows[:, rng.permutation(rows.shape[1])[:count]]


def _patches(layer: Layer, x: Array, count: int, rng: np.random.Generator) -> Array | None:
    """Patches under a convolution's kernel, [groups, rows, in/group * kernel]; outside of the map lie zeros."""
    kernel = layer.shape[2:]
    spatial, groups = len(kernel), int(layer.node.get("group", 1))
    if x.ndim != spatial + 2 or x.shape[1] != layer.shape[1] * groups:
        return None
    strides = layer.node.get("strides") or [1] * spatial
    dilations = layer.node.get("dilations") or [1] * spatial
    pads = list(layer.node.get("pads") or [0] * 2 * spatial)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if layer.node.get("auto_pad", "NOTSET").startswith("SAME"):
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(x.shape[2:], strides, reach, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    places = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, strides, strict=True)]
    if min(places) < 1:
        return None
    rows = []
    for flat in rng.integers(0, x.shape[0] * int(np.prod(places)), min(count, x.shape[0] * int(np.prod(places)))):
        item, *place = np.unravel_index(flat, (x.shape[0], *places))
        each = zip(place, strides, reach, dilations, strict=True)
        window: tuple[Any, ...] = (
            int(item),
            slice(None),
            *(slice(int(p) * s, int(p) * s + r, d) for p, s, r, d in each),
        )
        rows.append(padded[window].reshape(groups, -1))
    return np.stack(rows, axis=1)
