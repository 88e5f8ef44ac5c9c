"""What flows into each layer on sample input, as moments: the model runs in ONNX Runtime a batch at a time, and sums are kept.

A convolution's inputs are the patches under its kernel, at positions drawn at random. A recurrent layer's W reads the sequence, its
R the hidden states: those it starts from and those it gives. Layers inside of If, Scan and Loop are seen through
compiler/analysis/expose.py. Where nothing can be seen, or nothing that runs, a layer's inputs are taken to be white.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import Feeds
from ..ir.graph import Graph, Model, Node
from .expose import Exposed, Place, exposed
from .fidelity import Runner
from .form import Form
from .layers import RECURRENT, Layer
from .moments import Moments, Sums, bytes_of

Array = npt.NDArray[np.float32]

ROWS = 12  # inputs drawn for each value that a layer reads, over all samples
FEWEST_ROWS = 4096
_MEMORY = 192 << 20  # bytes of sums held at once; of more layers than fit, the samples are run again


@dataclass(frozen=True)
class _Use:
    """One operator that reads a layer's weight, and the tensors its inputs are in."""

    node: Node
    places: tuple[Place, ...]


def capture(
    model: Model,
    layers: Sequence[Layer],
    feeds: Sequence[Feeds],
    seed: int = 0,
    *,
    original: Callable[[], AbstractContextManager[None]] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Moments]:
    """Moments by layer name; layers whose inputs can't be seen are left out (``unseen`` says why).

    Args:
        model: as it is now.
        layers: what to look at.
        feeds: sample input.
        seed: of the positions drawn.
        original: while it lasts, the model has its original weights: moments then relate both (``Block.cross``).
    """
    found: dict[str, Moments] = {}
    for part in that_fit(layers, paired=original is not None):
        found.update(_capture(model, part, feeds, seed, original))
        progress(part[-1].name)
    return found


def unseen(model: Model, layer: Layer) -> str | None:
    """Why a layer's inputs can't be seen, whatever the samples; None where they can."""
    if layer.op == "Gather":
        return "a table's rows are picked, not multiplied"
    if not _uses(layer, _graphs(model)):
        return f"no tensor shows what this {layer.op} multiplies"
    return None


def that_fit(layers: Sequence[Layer], *, paired: bool = False) -> Iterator[list[Layer]]:
    """Layers, in their order, as many at a time as there is memory for their sums."""
    part: list[Layer] = []
    held = 0
    for layer in layers:
        size = bytes_of(Form.of(layer).groups, Form.of(layer).width, paired=paired)
        if part and held + size > _MEMORY:
            yield part
            part, held = [], 0
        part.append(layer)
        held += size
    if part:
        yield part


def _capture(
    model: Model,
    layers: Sequence[Layer],
    feeds: Sequence[Feeds],
    seed: int,
    original: Callable[[], AbstractContextManager[None]] | None,
) -> dict[str, Moments]:
    graphs = _graphs(model)
    uses = {layer.name: _uses(layer, graphs) for layer in layers}
    places = list(dict.fromkeys(p for found in uses.values() for use in found for p in use.places))
    if not places or not feeds:
        return {}
    now = _Reader(model, places)
    before = None
    if original is not None:
        with original():
            before = _Reader(model, places)
    sums = {layer.name: Sums() for layer in layers}
    for number, feed in enumerate(feeds):
        values = now.read(feed)
        if values is None:
            continue
        values_before = before.read(feed) if before is not None else None
        for index, layer in enumerate(layers):
            share = max(8, -(-max(FEWEST_ROWS, ROWS * Form.of(layer).width) // len(feeds)))
            for use in uses[layer.name]:
                draw = [seed, number, index]
                x = _rows(layer, use.node, [values.get(p) for p in use.places], share, draw)
                if x is None:
                    continue
                if values_before is None:
                    sums[layer.name].add(*x)
                    continue
                z = _rows(layer, use.node, [values_before.get(p) for p in use.places], share, draw)
                if z is not None and z[0].shape == x[0].shape:
                    sums[layer.name].add(*x, z[0])
    return {name: moments for name, s in sums.items() if (moments := s.moments()) is not None}


class _Reader:
    """Runs a model and gives what stands at places in it."""

    def __init__(self, model: Model, places: Sequence[Place]) -> None:
        self.constant: dict[Place, npt.NDArray[Any]] = {}
        self.fed: dict[Place, str] = {}
        computed: list[Place] = []
        for place in places:
            constant = place.graph.constant(place.tensor) if place.tensor else None
            if constant is not None:
                self.constant[place] = constant.array()
            elif place.graph is model.graph and place.graph.is_input(place.tensor):
                self.fed[place] = place.tensor
            else:
                computed.append(place)
        self.outputs: list[tuple[Place, Exposed]] = []
        self.runner: Runner | None = None
        if computed:
            with exposed(model, computed) as found:
                self.outputs = [(p, e) for p, e in zip(computed, found, strict=True) if e is not None]
                if self.outputs:
                    self.runner = Runner(model, [e.name for _, e in self.outputs])

    def read(self, feed: Feeds) -> dict[Place, npt.NDArray[Any]] | None:
        values = {**self.constant, **{p: np.asarray(feed[n]) for p, n in self.fed.items() if n in feed}}
        if self.runner is not None:
            for (place, out), value in zip(self.outputs, self.runner.run(feed), strict=True):
                values[place] = _unstacked(np.asarray(value), out.stacked)
        return values


def _unstacked(value: npt.NDArray[Any], stacked: int) -> npt.NDArray[Any]:
    """Iterations of Scan and Loop count as samples: they join the first axis of what they hold."""
    for _ in range(stacked):
        if value.ndim < 3:
            return value
        value = value.reshape(-1, *value.shape[2:])
    return value


def _graphs(model: Model) -> dict[Node, Graph]:
    return {node: graph for graph, node in model.graph.walk()}


def _uses(layer: Layer, graphs: Mapping[Node, Graph]) -> list[_Use]:
    found = []
    for node in layer.users:
        graph = graphs.get(node)
        places = _places(layer, node, graph) if graph is not None else ()
        if places:
            found.append(_Use(node, places))
    return found


def _places(layer: Layer, node: Node, graph: Graph) -> tuple[Place, ...]:
    """Where the activations are that ``node`` multiplies the layer's weight by."""
    kind = layer.constant.data_type
    slots = [i for i, name in enumerate(node.inputs) if graph.constant(name) is layer.constant] if node.inputs else []
    if node.op != layer.op or len(slots) != 1 or node.domain:
        return ()
    slot = slots[0]
    if node.op in RECURRENT:
        if slot == 1:
            return (Place(graph, node.inputs[0], kind),)
        places = [Place(graph, node.inputs[5], kind)] if len(node.inputs) > 5 and node.inputs[5] else []
        name = node.outputs[0] if node.outputs else ""
        return (*places, Place(graph, name, kind, node, 0))
    if node.op in {"Gemm", "Conv", "ConvTranspose"} and slot == 1:
        return (Place(graph, node.inputs[0], kind),)
    if node.op == "MatMul" and len(layer.constant.dims) == 2 and slot == layer.slot:
        return (Place(graph, node.inputs[1 - slot], kind),)
    return ()


def _rows(
    layer: Layer, node: Node, values: Sequence[npt.NDArray[Any] | None], count: int, seed: Sequence[int]
) -> tuple[Array, int] | None:
    """Up to ``count`` inputs of one run, [groups, rows, values], and how many there are."""
    rng = np.random.default_rng(seed)
    given = [np.asarray(v, np.float32) for v in values if v is not None and v.size]
    if not given:
        return None
    if node.op in RECURRENT:
        return _states(layer, node, given, count, rng)
    x = given[0]
    if node.op == "Conv":
        return _patches(layer, node, x, count, rng)
    if node.op == "ConvTranspose":
        if x.ndim < 3 or x.shape[1] != layer.shape[0]:
            return None
        groups = Form.of(layer).groups
        rows = np.moveaxis(x, 1, -1).reshape(-1, groups, x.shape[1] // groups).transpose(1, 0, 2)
        return _drawn(rows, count, rng), rows.shape[1]
    turned = bool(node.get("transA", 0)) if node.op == "Gemm" else layer.slot == 0
    if turned and x.ndim > 1:
        x = x.swapaxes(-1, -2)
    if not x.ndim or x.shape[-1] != layer.shape[-1]:
        return None
    rows = x.reshape(1, -1, x.shape[-1])
    return _drawn(rows, count, rng), rows.shape[1]


def _drawn(rows: Array, count: int, rng: np.random.Generator) -> Array:
    return rows if rows.shape[1] <= count else rows[:, np.sort(rng.choice(rows.shape[1], count, replace=False))]


def _states(
    layer: Layer, node: Node, given: Sequence[Array], count: int, rng: np.random.Generator
) -> tuple[Array, int] | None:
    """What W (the sequence) or R (hidden states, by direction) of a recurrent operator reads."""
    batch_first = bool(node.get("layout", 0))
    if any(x.shape[-1] != layer.shape[-1] for x in given):
        return None
    if layer.slot == 1:
        rows = given[0].reshape(1, -1, layer.shape[-1])
        return _drawn(rows, count, rng), rows.shape[1]
    parts, vectors = [], 1
    for x in given:  # initial states [directions, batch, hidden], Y [time, directions, batch, hidden]; or batch first
        axis = (x.ndim - 2 if batch_first else x.ndim - 3) if x.ndim >= 3 else 0
        if x.ndim < 3 or x.shape[axis] != layer.shape[0]:
            return None
        rows = np.moveaxis(x, axis, 0).reshape(layer.shape[0], -1, layer.shape[-1])
        vectors = rows.shape[1]  # Y's comes last: a state for each step
        parts.append(_drawn(rows, count, rng))
    return np.concatenate(parts, axis=1), vectors


def _patches(layer: Layer, node: Node, x: Array, count: int, rng: np.random.Generator) -> tuple[Array, int] | None:
    """Patches under a convolution's kernel, [groups, rows, in/group * kernel]; outside of the map lie zeros."""
    kernel = layer.shape[2:]
    spatial, groups = len(kernel), Form.of(layer).groups
    if x.ndim != spatial + 2 or x.shape[1] != layer.shape[1] * groups:
        return None
    strides = node.get("strides") or [1] * spatial
    dilations = node.get("dilations") or [1] * spatial
    pads = list(node.get("pads") or [0] * 2 * spatial)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.get("auto_pad", "NOTSET").startswith("SAME"):
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(x.shape[2:], strides, reach, strict=True)]
        less = [t // 2 for t in total]
        more = [t - t // 2 for t in total]
        pads = less + more if node.get("auto_pad") == "SAME_UPPER" else more + less
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    if min(n - r for n, r in zip(padded.shape[2:], reach, strict=True)) < 0:
        return None
    axes = tuple(range(2, 2 + spatial))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    pick = (
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in strides),
        *(slice(None, None, d) for d in dilations),
    )
    windows = windows[pick]  # [batch, channels, places..., kernel...]
    places = (windows.shape[0], *windows.shape[2 : 2 + spatial])
    total_places = int(np.prod(places))
    flat = rng.choice(total_places, count, replace=False) if total_places > count else np.arange(total_places)
    item, *at = np.unravel_index(np.sort(flat), places)
    picked: tuple[Any, ...] = (item, slice(None), *at)
    rows = windows[picked]  # [rows, channels, kernel...]
    return np.ascontiguousarray(rows.reshape(len(rows), groups, -1).transpose(1, 0, 2)), total_places
