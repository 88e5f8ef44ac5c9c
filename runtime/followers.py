"""Elementwise operators behind a compressed layer, which a backend may apply to the layer's outputs itself.

The same float32 operations in the same order give the same bits, NaN and -0 included (docs/numerics.md); what is saved is a
trip through memory for each operator, and the way back into ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

if TYPE_CHECKING:
    import onnx

    from .executor import Op
    from .segments import Constant

Floats = npt.NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)
_MOST_PER_LAYER = 16


@dataclass(frozen=True, eq=False)
class Follower:
    """One operator, y being what is before it.

    Attributes:
        op: ``Add``, ``Relu``, ``Clip`` or ``LeakyRelu``.
        channels: ``Add``: a number for each channel (of a Gemm: for each output); None: the operand is a tensor, which
            comes when the layer runs.
        low, high: ``Clip``'s bounds; ``low`` is the slope of ``LeakyRelu``.
    """

    op: str
    channels: Floats | None = None
    low: float = 0.0
    high: float = 0.0

    @property
    def operand(self) -> bool:
        """Whether a tensor comes with it."""
        return self.op == "Add" and self.channels is None


def apply(followers: Sequence[Follower], y: Floats, operands: Sequence[Floats], *, axis: int) -> Floats:
    """The specification, in numpy; operands may be of any shapes that broadcast.

    Args:
        operands: one for each follower that takes one.
        axis: of the channels in y, from its end.

    Raises:
        InputError: an operand does not broadcast.
    """
    rest = iter(operands)
    for f in followers:
        if f.op == "Add":
            if f.channels is not None:
                operand = f.channels.reshape(-1, *[1] * (-1 - axis))
            else:
                operand = next(rest)
            try:
                y = np.add(y, operand, dtype=np.float32)
            except ValueError:
                raise InputError(
                    f"shapes {list(y.shape)} and {list(operand.shape)} can't be added", where="Add"
                ) from None
        elif f.op == "Relu":
            y = np.where(y < 0, np.float32(0), y)
        elif f.op == "Clip":
            low, high = np.float32(f.low), np.float32(f.high)
            y = np.where(y < low, low, y)
            y = np.where(y > high, high, y)
        else:
            y = np.where(y < 0, np.float32(f.low) * y, y)
    return y


@dataclass(eq=False)
class Absorbed:
    """Nodes that a layer takes over, in their order.

    Attributes:
        nodes: their places.
        operands: the names of those that come when the layer runs.
        output: what the last of them writes.
    """

    nodes: list[int]
    followers: list[Follower]
    operands: list[str]
    output: str


def follower_of(node: onnx.NodeProto, name: str, op: str, channels: int, rank: int,
                constant: Callable[[str], Constant | None]) -> tuple[Follower, str] | None:  # fmt: skip
    """What a node is behind a tensor ``name``, and the operand's name ("" for none); None where it stays a node of its own.

    Args:
        op: of the layer.
        channels: of the tensor.
        rank: of the weight, which a convolution's output shares.
        constant: the constant of a name.
    """
    import onnx

    if node.domain not in ("", "ai.onnx") or len(node.output) != 1 or not node.output[0] or not node.input:
        return None
    if node.op_type == "Add":
        if len(node.input) != 2 or list(node.input).count(name) != 1:
            return None
        other = node.input[1] if node.input[0] == name else node.input[0]
        held = constant(other)
        if held is None:
            return Follower("Add"), other
        values = _by_channel(held, op, channels, rank)
        return None if values is None else (Follower("Add", values), "")
    if node.input[0] != name:
        return None
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Relu":
        return Follower("Relu"), ""
    if node.op_type == "LeakyRelu":
        return Follower("LeakyRelu", low=float(given.get("alpha", 0.01))), ""
    if node.op_type != "Clip":
        return None
    bounds = [given.get("min", -_LARGEST), given.get("max", _LARGEST)]
    for slot, bound in enumerate(node.input[1:3]):
        if bound:
            held = constant(bound)
            if held is None or held.sparse is not None or held.array().size != 1 or held.array().dtype != np.float32:
                return None
            bounds[slot] = held.array().item()
    return Follower("Clip", low=float(bounds[0]), high=float(bounds[1])), ""


def _by_channel(held: Constant, op: str, channels: int, rank: int) -> Floats | None:
    """A constant as a number for each channel; None where it is more than that, or would give the sum another shape."""
    shape = held.shape
    if held.sparse is not None or len(shape) > (1 if op == "Gemm" else rank):
        return None
    padded = (1,) * ((1 if op == "Gemm" else rank) - len(shape)) + tuple(shape)
    axis = 0 if op == "Gemm" else 1
    if padded[axis] not in (1, channels) or any(n != 1 for i, n in enumerate(padded) if i != axis):
        return None
    values: Any = held.array()
    return np.broadcast_to(values.reshape(-1), (channels,)).astype(np.float32) if values.dtype == np.float32 else None


def absorb(ops: Sequence[Op], reads: Sequence[set[str]], outputs: Iterable[str],
           constant: Callable[[str], Constant | None]) -> dict[int, Absorbed]:  # fmt: skip
    """Which nodes each layer may take over: the place of the layer -> what follows it.

    A node is taken when it is the only one that reads what is before it, and that is no output: nobody else sees the
    tensors that vanish. So nothing that a follower's other operand waits for can wait for the layer.

    Args:
        ops: of one graph.
        reads: the tensors each of them reads, its bodies included.
        outputs: of the graph.
    """
    readers: dict[str, list[int]] = {}
    for place, names in enumerate(reads):
        for name in names:
            readers.setdefault(name, []).append(place)
    kept, taken = set(outputs), set[int]()
    found: dict[int, Absorbed] = {}
    for place, op in enumerate(ops):
        if op.layer is None or op.follow is None:
            continue
        shape, kind = op.weights[0], op.layer.op
        group = int(op.layer.attributes.get("group", 1)) if kind == "ConvTranspose" else 1
        channels = shape[1] * group if kind == "ConvTranspose" else shape[0]
        name, here = op.node.output[0], Absorbed([], [], [], op.node.output[0])
        while name not in kept and len(readers.get(name, ())) == 1 and len(here.nodes) < _MOST_PER_LAYER:
            reader = readers[name][0]
            plain = ops[reader].layer is None and not ops[reader].barrier and reader not in taken
            made = follower_of(ops[reader].node, name, kind, channels, len(shape), constant) if plain else None
            if made is None:
                break
            taken.add(reader)
            here.nodes.append(reader)
            here.followers.append(made[0])
            here.operands.extend(n for n in made[1:] if n)
            name = here.output = ops[reader].node.output[0]
        if here.nodes:
            found[place] = here
    return found
