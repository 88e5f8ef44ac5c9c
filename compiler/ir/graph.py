"""The graph every pass works on: operators are nodes, tensors are edges, constants hang on the operators that use them.

The structure is a ``networkx.MultiDiGraph``: one node an operator, one edge for each time an operator reads what another
wrote (edge key: the consumer's input slot, or ``("body", tensor)`` where the reader is inside a body of the consumer).
Graph inputs and constants have no producing operator and so no edge; ``Graph.consumers`` finds their readers.
Everything that ONNX knows and no pass needs (documentation, metadata, type annotations) is kept as it came.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import networkx as nx
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from eie.runtime.weight import Pattern, Weight

Array = npt.NDArray[Any]
# what a constant holds: content, whether it is transposed, how its zeros lie, dims, bytes of what it was made from
Held = tuple[Any, bool, Pattern, tuple[int, ...], int | None]
T = TypeVar("T")


class Constant:
    """A tensor known when the model is made: an initializer.

    Holds one of: a ``TensorProto`` as read, a numpy array (which may be a memory map of external data), or a compressed
    ``Weight``. ``transposed`` says that the Weight's codes are the transpose of this tensor (a MatMul's [in, out]
    constant is compressed as [out, in]). ``pattern`` says how its zeros lie, compressed or not.
    """

    def __init__(
        self,
        name: str,
        content: onnx.TensorProto | Array | Weight,
        *,
        dims: tuple[int, ...] | None = None,
        data_type: int | None = None,
        transposed: bool = False,
    ) -> None:
        self.name = name
        self._content = content
        self.transposed = transposed
        self.pattern: Pattern = content.pattern if isinstance(content, Weight) else "unstructured"
        self.folded_from: int | None = None  # bytes of what it was made from: quantized integers, a larger weight
        if isinstance(content, onnx.TensorProto):
            self.dims: tuple[int, ...] = tuple(content.dims)
            self.data_type: int = content.data_type
        elif isinstance(content, Weight):
            assert dims is not None and data_type is not None
            self.dims, self.data_type = dims, data_type
        else:
            self.dims = tuple(content.shape) if dims is None else dims
            self.data_type = onnx.helper.np_dtype_to_tensor_dtype(content.dtype) if data_type is None else data_type

    @property
    def stored(self) -> int:
        """Bytes the file held this tensor in: other than ``nbytes`` where it was folded from quantized integers, or
        rows and columns were taken away."""
        return self.nbytes if self.folded_from is None else self.folded_from

    @property
    def content(self) -> onnx.TensorProto | Array | Weight:
        return self._content

    @property
    def weight(self) -> Weight | None:
        """The compressed form, or None while the tensor is plain."""
        return self._content if isinstance(self._content, Weight) else None

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as ONNX stores it, uncompressed."""
        return (self.elements * bits_of(self.data_type) + 7) // 8

    def array(self) -> Array:
        """The tensor as numpy array, in its own type and orientation (a compressed one decoded)."""
        content = self._content
        if isinstance(content, onnx.TensorProto):
            return numpy_helper.to_array(content)
        if isinstance(content, Weight):
            dense = content.dense()
            dense = dense.T if self.transposed else dense
            return dense.reshape(self.dims).astype(onnx.helper.tensor_dtype_to_np_dtype(self.data_type))
        return content

    def replace(
        self, content: Array | Weight, *, transposed: bool = False, pattern: Pattern = "unstructured"
    ) -> None:
        """Give the tensor new values; its shape and type stay. ``pattern`` is of plain values: a Weight says its own."""
        self._content, self.transposed = content, transposed
        self.pattern = content.pattern if isinstance(content, Weight) else pattern

    @property
    def held(self) -> Held:
        """What it holds, for ``put_back``."""
        return self._content, self.transposed, self.pattern, self.dims, self.folded_from

    def put_back(self, held: Held) -> None:
        """Hold again what it held."""
        self._content, self.transposed, self.pattern, self.dims, self.folded_from = held


_NARROW = {  # types of several elements a byte; which there are depends on the version of onnx
    value: bits
    for name, value in onnx.TensorProto.DataType.items()
    for prefixes, bits in ((("INT4", "UINT4", "FLOAT4"), 4), (("INT2", "UINT2"), 2), (("FLOAT6",), 6))
    if name.startswith(prefixes)
}


def bits_of(data_type: int) -> int:
    """Bits an element takes in a file; 0 for strings.

    Raises:
        KeyError: ONNX knows no such type.
    """
    if data_type in _NARROW:
        return _NARROW[data_type]
    if data_type == onnx.TensorProto.STRING:
        return 0
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8


@dataclass(eq=False)
class Node:
    """One operator. An empty string in ``inputs`` or ``outputs`` is an optional one left out, as in ONNX."""

    op: str
    inputs: list[str]
    outputs: list[str]
    domain: str = ""
    name: str = ""
    attributes: dict[str, onnx.AttributeProto] = field(default_factory=dict)
    bodies: dict[str, list[Graph]] = field(default_factory=dict)  # attribute name -> its graphs
    proto: onnx.NodeProto | None = (
        None  # what else the node carried (doc_string, metadata, overload), no inputs, no attributes
    )

    def get(self, attribute: str, default: Any = None) -> Any:
        """The value of an attribute as Python object (bytes become str), or ``default``."""
        if attribute not in self.attributes:
            return default
        value = onnx.helper.get_attribute_value(self.attributes[attribute])
        return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value

    def set(self, attribute: str, value: Any) -> None:
        self.attributes[attribute] = onnx.helper.make_attribute(attribute, value)

    @property
    def label(self) -> str:
        """What people call it: its name, or its first output where it has none; of names that a converter joined for all that it
        fused ("a;b;c", as TFLite's does) the first."""
        name = self.name or next((o for o in self.outputs if o), self.op)
        return name.partition(";")[0] or name

    def __repr__(self) -> str:
        return f"<{self.op} {self.label}>"


class Graph:
    """A graph or a body (of If, Loop, Scan). See the module's docstring.

    Attributes:
        inputs, outputs: value infos, in order. An initializer that is also an input stands in both
            ``inputs`` and ``constants``.
        constants: initializers by name, in the order of the file.
        value_info: other type annotations, by tensor.
        opsets: domain -> version (shared with the bodies).
        parent: the graph whose tensors a body may read, None for a model's own graph.
    """

    def __init__(self, name: str = "graph", opsets: dict[str, int] | None = None, parent: Graph | None = None) -> None:
        self.name = name
        self.opsets: dict[str, int] = (
            parent.opsets if parent is not None else (opsets if opsets is not None else {"": 1})
        )
        self.parent = parent
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, Constant] = {}
        self.value_info: dict[str, onnx.ValueInfoProto] = {}
        self.extra = (
            onnx.GraphProto()
        )  # doc_string, quantization annotations, metadata, sparse initializers: as they came
        self.structure: nx.MultiDiGraph = nx.MultiDiGraph()
        self._producer: dict[str, Node] = {}
        self._readers: dict[str, dict[Node, None]] = {}  # tensor -> operators that read it, themselves or in a body
        self._order = 0

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """All operators in an order in which they can run: topological, ties as in the file."""
        order = {n: d["order"] for n, d in self.structure.nodes(data=True)}
        return list(nx.lexicographical_topological_sort(self.structure, key=order.__getitem__))

    def __len__(self) -> int:
        return int(self.structure.number_of_nodes())

    def producer(self, tensor: str) -> Node | None:
        """The operator of this graph that writes a tensor."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> list[Node]:
        """The operators of this graph that read a tensor, themselves or inside a body."""
        return list(self._readers.get(tensor, ()))

    def is_output(self, tensor: str) -> bool:
        return any(o.name == tensor for o in self.outputs)

    def is_input(self, tensor: str) -> bool:
        return any(i.name == tensor for i in self.inputs)

    def constant(self, tensor: str) -> Constant | None:
        """The constant a tensor is, here or in an enclosing graph; None for one that is computed or fed."""
        graph: Graph | None = self
        while graph is not None:
            if tensor in graph.constants:
                return graph.constants[tensor]
            if tensor in graph._producer or graph.is_input(tensor):
                return None
            graph = graph.parent
        return None

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Every operator here and in all bodies, with the graph it stands in; a body comes after its operator."""
        for node in self.nodes:
            yield self, node
            for bodies in node.bodies.values():
                for body in bodies:
                    yield from body.walk()

    def graphs(self) -> Iterator[Graph]:
        """This graph and all bodies below it, in no order that means anything."""
        yield self
        for node in self.structure:
            for bodies in node.bodies.values():
                for body in bodies:
                    yield from body.graphs()

    def names(self) -> set[str]:
        """Every tensor name in use here, in the bodies, and in the enclosing graphs."""
        top = self
        while top.parent is not None:
            top = top.parent
        found: set[str] = {""}
        for graph in top.graphs():
            found.update(i.name for i in graph.inputs)
            found.update(graph.constants)
            found.update(s.values.name for s in graph.extra.sparse_initializer)
            for node in graph.structure:
                found.update(node.inputs, node.outputs)
        return found

    def fresh(self, stem: str) -> str:
        """A tensor name that is not in use, made from ``stem``."""
        taken = self.names()
        name, n = stem, 0
        while name in taken:
            n += 1
            name = f"{stem}_{n}"
        return name

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(self, node: Node, *, before: Node | None = None) -> Node:
        """Add an operator (its place among equals: before ``before``, else last)."""
        order = float(self._order) if before is None else self.structure.nodes[before]["order"] - 0.5
        self._order += 1
        self.structure.add_node(node, order=order)
        for bodies in node.bodies.values():
            for body in bodies:
                body.parent = self
        for output in node.outputs:
            if output:
                self._producer[output] = node
        self._connect(node)
        for output in node.outputs:
            for reader in self.consumers(output):
                self._connect(reader)
        return node

    def remove(self, node: Node) -> None:
        """Remove an operator. Its outputs must have no reader left, or get another producer after."""
        self._disconnect(node)
        for output in node.outputs:
            if self._producer.get(output) is node:
                del self._producer[output]
        self.structure.remove_node(node)

    def set_input(self, node: Node, slot: int, tensor: str) -> None:
        """Let an operator read another tensor in a slot ("" for none); slots beyond the last are added."""
        self._disconnect(node)
        node.inputs.extend([""] * (slot + 1 - len(node.inputs)))
        node.inputs[slot] = tensor
        while node.inputs and not node.inputs[-1]:
            node.inputs.pop()
        self._connect(node)

    def refresh(self, node: Node) -> None:
        """Bring the edges up to date after a body of ``node`` was changed."""
        self._disconnect(node)
        self._connect(node)

    def replace_uses(self, old: str, new: str) -> None:
        """Let every operator that reads ``old``, here and in bodies, read ``new``. Graph outputs are not renamed."""
        for reader in self.consumers(old):
            self._disconnect(reader)
            reader.inputs = [new if t == old else t for t in reader.inputs]
            for bodies in reader.bodies.values():
                for body in bodies:
                    body._rename_captured(old, new)
            self._connect(reader)

    def rename(self, old: str, new: str) -> None:
        """Give a tensor that an operator of this graph writes, or a constant of it, another name, here and in bodies; it must be no
        input or output of the graph."""
        assert not self.is_output(old) and not self.is_input(old), old
        if old in self.constants:
            self.constants = {new if n == old else n: c for n, c in self.constants.items()}
            self.constants[new].name = new
        else:
            node = self._producer.pop(old)
            node.outputs = [new if o == old else o for o in node.outputs]
            self._producer[new] = node
        info = self.value_info.pop(old, None)
        if info is not None:
            info.name = new
            self.value_info[new] = info
        self.replace_uses(old, new)

    def bypass(self, node: Node, slot: int = 0) -> bool:
        """Remove an operator that only hands input ``slot`` on. False (and nothing done) where that can't be:
        it writes a graph output and what it reads can't take that name."""
        source, target = node.inputs[slot], node.outputs[0]
        if self.is_output(target):
            writer = self._producer.get(source)
            if writer is None or self.is_output(source):
                return False
            self.remove(node)
            self._disconnect(writer)
            del self._producer[source]
            writer.outputs = [target if t == source else t for t in writer.outputs]
            self._producer[target] = writer
            self._connect(writer)
            self.replace_uses(source, target)
            for reader in self.consumers(target):
                self.refresh(reader)
            self.value_info.pop(source, None)
            return True
        self.replace_uses(target, source)
        self.remove(node)
        self.value_info.pop(target, None)
        return True

    def add_constant(self, stem: str, content: Array) -> str:
        """Add an initializer under a fresh name made from ``stem``; returns the name."""
        name = self.fresh(stem)
        self.constants[name] = Constant(name, content)
        return name

    def prune(self) -> int:
        """Remove operators nothing reads and constants nothing reads (inputs stay); returns how many went."""
        gone = 0
        for node in reversed(self.nodes):
            if not any(o and (self.is_output(o) or self._readers.get(o)) for o in node.outputs):
                self.remove(node)
                gone += 1
                continue
            for bodies in node.bodies.values():
                for body in bodies:
                    gone += body.prune()
            if node.bodies:
                self.refresh(node)
        for name in list(self.constants):
            if not self._readers.get(name) and not self.is_output(name) and not self.is_input(name):
                del self.constants[name]
                gone += 1
        return gone

    # -- edges -------------------------------------------------------------------------------------------------------

    def captured(self) -> set[str]:
        """Tensors a body reads from the graphs around it."""
        own = set(self._producer) | set(self.constants) | {i.name for i in self.inputs}
        read = {t for node in self.structure for t in _reads(node)} | {o.name for o in self.outputs}
        return read - own - {""}

    def _rename_captured(self, old: str, new: str) -> None:
        if old in self._producer or old in self.constants or self.is_input(old):
            return  # a tensor of the body's own hides it
        self.replace_uses(old, new)
        for output in self.outputs:
            if output.name == old:
                output.name = new

    def _connect(self, node: Node) -> None:
        for tensor in node.inputs:
            if tensor:
                self._readers.setdefault(tensor, {})[node] = None
        for slot, tensor in enumerate(node.inputs):
            if tensor in self._producer:
                self.structure.add_edge(self._producer[tensor], node, key=slot, tensor=tensor)
        for tensor in _captures(node):
            self._readers.setdefault(tensor, {})[node] = None
            if tensor in self._producer:
                self.structure.add_edge(self._producer[tensor], node, key=("body", tensor), tensor=tensor)

    def _disconnect(self, node: Node) -> None:
        for readers in [self._readers.get(t) for t in {*node.inputs, *_captures(node)}]:
            if readers is not None:
                readers.pop(node, None)
        self.structure.remove_edges_from(list(self.structure.in_edges(node, keys=True)))
        if node.bodies:  # a body may have changed since: what it no longer reads is not in _captures
            for readers in self._readers.values():
                readers.pop(node, None)


def _captures(node: Node) -> set[str]:
    return set().union(*(body.captured() for bodies in node.bodies.values() for body in bodies))


def _reads(node: Node) -> set[str]:
    return {t for t in node.inputs if t} | _captures(node)


@dataclass
class Model:
    """A whole ONNX model: its graph, and what the file says beside it.

    Attributes:
        extra: the ModelProto without graph and opset imports (producer, version, metadata, functions, ...), as it came.
        path: the file it was read from, where it was one; external data lies beside it.
    """

    graph: Graph
    ir_version: int
    extra: onnx.ModelProto
    path: str | None = None


def copied(model: Model, beside: T) -> tuple[Model, T]:
    """A copy of a model, and of what refers to its parts (layers, say): the original does not see what is done to it. Tensors are
    replaced and never written to, so that both may hold the same ones."""
    shared: dict[int, Any] = {}
    for graph in model.graph.graphs():
        for constant in graph.constants.values():
            shared[id(constant.content)] = constant.content
    return copy.deepcopy((model, beside), shared)
