"""Models of half floats: what is between two layers stays float32.

Layers compute in float32, so an artifact has a Cast on either side of each. ONNX Runtime, which computes the original's half floats in
float32 too, drops the casts that it puts in itself, and then fuses and lays out what is left; ours it keeps. So they are dropped here:
what a layer gives is followed through operators that only pick or move numbers (rounding keeps their order, so they may come before
it), and where it is widened again for the next layer, the float32 tensor itself is read. That skips a rounding, as ONNX Runtime does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from .executor import Op

_MOVERS = ("Relu", "MaxPool", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")


def stay_wide(ops: list[Op], reads: Callable[[onnx.NodeProto], set[str]], outputs: Iterable[str], fresh: Callable[[str], str],
              made: Callable[[onnx.NodeProto], Op]) -> list[Op]:  # fmt: skip
    """The nodes of a graph without casts to float16 and back between layers.

    Args:
        ops: of one graph, producers first; nodes are changed.
        reads: the tensors a node reads, its bodies included.
        outputs: of the graph.
        fresh: a name nobody has, from one that is taken.
        made: an Op for a new node.
    """
    import onnx

    kept, floats = set(outputs), {op.node.output[0] for op in ops if op.floats}
    in_bodies = {name for op in ops for name in reads(op.node) - set(op.node.input)}
    wide: dict[str, str] = {}  # a tensor of halves -> the float32 one it was rounded from
    alias: dict[str, str] = {}  # a tensor that was widened again -> the same
    done: list[Op] = []
    for op in ops:
        node = op.node
        for slot, name in enumerate(node.input):
            node.input[slot] = alias.get(name, name)
        standard = node.domain in ("", "ai.onnx") and not op.barrier and op.layer is None
        to = next((a.i for a in node.attribute if a.name == "to"), 0) if standard and node.op_type == "Cast" else None
        if to == onnx.TensorProto.FLOAT16 and node.input[0] in floats:
            wide[node.output[0]] = node.input[0]
        elif to == onnx.TensorProto.FLOAT and node.input[0] in wide and node.output[0] not in kept | in_bodies:
            alias[node.output[0]] = wide[node.input[0]]
            continue
        elif standard and node.op_type in _MOVERS and len(node.output) == 1 and _moves_halves(node, wide):
            output = node.output[0]
            twin = wide[output] = fresh(f"{output}/float32")
            floats.add(twin)
            for slot, name in enumerate(node.input):
                node.input[slot] = wide.get(name, name)
            node.output[0] = twin
            name = fresh(f"{output}/cast")
            done += [op, made(onnx.helper.make_node("Cast", [twin], [output], to=onnx.TensorProto.FLOAT16, name=name))]
            continue
        done.append(op)
    return _without_unread(done, reads, kept, set(wide))


def _moves_halves(node: onnx.NodeProto, wide: dict[str, str]) -> bool:
    """Whether all that is moved was rounded; of operators with a second input only the first is moved."""
    return (
        all(n in wide for n in node.input) if node.op_type == "Concat" else bool(node.input) and node.input[0] in wide
    )


def _without_unread(
    ops: list[Op], reads: Callable[[onnx.NodeProto], set[str]], kept: set[str], halves: set[str]
) -> list[Op]:
    readers = Counter(name for op in ops for name in reads(op.node))
    gone: set[int] = set()
    for place in range(len(ops) - 1, -1, -1):
        node = ops[place].node
        if (
            node.op_type == "Cast"
            and node.output[0] in halves
            and node.output[0] not in kept
            and not readers[node.output[0]]
        ):
            readers[node.input[0]] -= 1
            gone.add(place)
    return [op for place, op in enumerate(ops) if place not in gone]
