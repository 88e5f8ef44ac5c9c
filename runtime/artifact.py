"""The compressed layers of an artifact, and what each of them asks for (docs/format.md).

The one place where the attributes and inputs of ``ai.eie`` nodes are checked: the executor, the reports and every
lowering take their layers from here. Files come from strangers, so nothing is believed before it is looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .backends.base import ACTIVATIONS, Activations, LayerSpec
from .errors import FormatError
from .modelfile import Source, bodies_of, label, load_model
from .operators import DOMAIN, OPERATORS, VERSION, Kind, Operator, misfit
from .tensors import Tensors, constant_tensor
from .weight import Weight

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class EieNode:
    """A compressed layer as the file has it, its attributes checked, its payloads found but not yet decoded.

    Attributes:
        node: the node itself.
        name: what errors and reports call it.
        op: a key of ``OPERATORS``.
        attributes: those the node has, as Python values, ``activations`` left out.
        activations: the format the file asks for.
        payloads: the initializers, in the order of the operator's payload slots.
    """

    node: onnx.NodeProto
    name: str
    op: str
    attributes: Mapping[str, Any]
    activations: Activations
    payloads: tuple[onnx.TensorProto, ...] = field(repr=False)

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.op]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The node's inputs that are no payloads, in order ("" for one left out)."""
        return tuple(t for i, t in enumerate(self.node.input) if i not in self.operator.payloads)

    def spec(self, decode: Callable[[onnx.TensorProto], Weight], activations: Activations | None = None) -> LayerSpec:
        """Decode the payloads and check that they fit the operator.

        Args:
            decode: gives the Weight of a payload initializer (``PayloadReader.weight`` is one).
            activations: overrides what the file asks for.

        Raises:
            FormatError: a payload is damaged, or does not fit the layer; names the layer.
        """
        weights = []
        for payload in self.payloads:
            try:
                weights.append(decode(payload))
            except FormatError as error:
                where = f"layer {self.name!r}, payload {payload.name!r}"
                raise FormatError(error.what, where=where, hint=error.hint) from error
            except MemoryError as error:
                where = f"layer {self.name!r}, payload {payload.name!r}"
                raise FormatError("announces a weight that does not fit into memory", where=where,
                                  hint="The artifact is damaged or hostile") from error  # fmt: skip
        outputs = tuple(i < len(self.node.output) and self.node.output[i] != "" for i in range(self.operator.outputs))
        spec = LayerSpec(self.op, self.name, dict(self.attributes), tuple(weights),
                         (activations or self.activations) if self.operator.computes else "f32", outputs)  # fmt: skip
        wrong = misfit(spec)
        if wrong:
            raise FormatError(wrong, where=f"layer {self.name!r} ({self.op})",
                              hint="The artifact is damaged; compress the model again")  # fmt: skip
        return spec


class PayloadReader:
    """Decodes payloads, each once; ``release`` drops those that no longer have a reader.

    With several ``threads``, those that ``expect`` names are decoded ahead of their readers, so that decoding one and packing
    another overlap. As many as there are threads are ahead at most: no more of a model is unpacked at a time.
    """

    def __init__(self, tensors: Tensors, threads: int = 1) -> None:
        self._tensors, self._threads = tensors, threads
        self._weights: dict[int, tuple[onnx.TensorProto, Weight]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[onnx.TensorProto] = deque()
        self._ahead: dict[int, Future[Weight]] = {}

    def expect(self, payloads: Iterable[onnx.TensorProto]) -> None:
        """Say what will be asked for, in order; ``close`` ends it."""
        if self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="eie-decode")
            self._coming.extend({id(p): p for p in payloads}.values())
            self._go_on()

    def close(self) -> None:
        """Decode nothing ahead any more."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._coming.clear()
        self._ahead.clear()

    def _go_on(self) -> None:
        from . import format as container

        while self._pool is not None and self._coming and len(self._ahead) < self._threads:
            payload = self._coming.popleft()
            self._ahead[id(payload)] = self._pool.submit(container.decode, self._bytes(payload))

    def _bytes(self, payload: onnx.TensorProto) -> bytes:
        return self._tensors.array(payload).tobytes()

    def weight(self, payload: onnx.TensorProto) -> Weight:
        from . import format as container

        known = self._weights.get(id(payload))
        if known is None:
            ahead = self._ahead.pop(id(payload), None)
            self._go_on()
            known = payload, ahead.result() if ahead is not None else container.decode(self._bytes(payload))
            self._weights[id(payload)] = known  # the tensor is kept too: ids are of living objects only
        return known[1]

    def release(self, payload: onnx.TensorProto) -> None:
        self._weights.pop(id(payload), None)


def eie_node(node: onnx.NodeProto, constant: Callable[[str], onnx.TensorProto | None]) -> EieNode:
    """Check one ``ai.eie`` node.

    Args:
        constant: gives the initializer a name stands for where the node is, or None.

    Raises:
        FormatError: names the node and says what is wrong with it.
    """
    where = f"layer {label(node)!r} ({node.op_type})"
    operator = OPERATORS.get(node.op_type)
    if operator is None:
        raise FormatError(f"version {VERSION} of {DOMAIN} has no operator {node.op_type!r}", where=where,
                          hint="Install a newer eie, or compress the model again")  # fmt: skip
    least, most = operator.inputs
    if not least <= len(node.input) <= most or not all(node.input[:least]):
        raise FormatError(f"has the inputs {list(node.input)}; it takes {least} to {most}, the first {least} always",
                          where=where, hint="The artifact is damaged; compress the model again")  # fmt: skip
    if not 1 <= len(node.output) <= operator.outputs or not any(node.output):
        raise FormatError(f"has {len(node.output)} outputs; it gives 1 to {operator.outputs}", where=where)
    attributes = _attributes(node, operator, where)
    activations = attributes.pop("activations", "f32")
    if activations not in ACTIVATIONS:
        raise FormatError(f"computes in {activations!r}, which is none of {', '.join(ACTIVATIONS)}", where=where)
    payloads = []
    for slot in operator.payloads:
        tensor = constant(node.input[slot])
        if tensor is None:
            raise FormatError(f"its payload {node.input[slot]!r} is no initializer", where=where,
                              hint="Compressed weights can't be computed or fed")  # fmt: skip
        if tensor.data_type != 2 or len(tensor.dims) != 1:
            raise FormatError(f"its payload {node.input[slot]!r} is no uint8 vector (type {tensor.data_type}, "
                              f"shape {list(tensor.dims)})", where=where)  # fmt: skip
        payloads.append(tensor)
    return EieNode(node, label(node), node.op_type, attributes, cast(Activations, activations), tuple(payloads))


def _attributes(node: onnx.NodeProto, operator: Operator, where: str) -> dict[str, Any]:
    import onnx

    kinds = {onnx.AttributeProto.INT: "int", onnx.AttributeProto.INTS: "ints", onnx.AttributeProto.FLOAT: "float",
             onnx.AttributeProto.STRING: "string"}  # fmt: skip
    known: dict[str, Kind] = {**operator.attributes, **({"activations": "string"} if operator.computes else {})}
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        kind = kinds.get(attribute.type)
        if attribute.name not in known:
            raise FormatError(f"has the attribute {attribute.name!r}, which {DOMAIN} {node.op_type} does not know",
                              where=where, hint=f"It knows {', '.join(sorted(known)) or 'none'}")  # fmt: skip
        if attribute.name in found:
            raise FormatError(f"has the attribute {attribute.name!r} twice", where=where)
        if kind != known[attribute.name]:
            raise FormatError(f"attribute {attribute.name!r} is not of kind {known[attribute.name]}", where=where)
        value: Any = onnx.helper.get_attribute_value(attribute)
        if kind == "string":
            value = str(attribute.s, "utf-8", "backslashreplace")
        found[attribute.name] = [int(v) for v in value] if kind == "ints" else value
    if node.op_type == "Decode":  # where an empty shape is a scalar's
        return found
    return {name: value for name, value in found.items() if value != []}  # exporters write defaults this way


class Scope:
    """Which initializer a name stands for, in a graph and those around it."""

    def __init__(self, graph: onnx.GraphProto, parent: Scope | None = None) -> None:
        self.parent = parent
        self.constants: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.computed = {i.name for i in graph.input} | {o for n in graph.node for o in n.output}
        for node in graph.node:
            tensor = constant_tensor(node)
            if tensor is not None:
                self.constants[tensor.name] = tensor

    def constant(self, name: str) -> onnx.TensorProto | None:
        if name in self.constants:
            return self.constants[name]
        return None if name in self.computed or self.parent is None else self.parent.constant(name)


def eie_nodes(model: onnx.ModelProto) -> Iterator[EieNode]:
    """Every compressed layer of a model, bodies included, in the order of the file.

    Raises:
        FormatError: at the first node that is not as docs/format.md has it.
    """

    def walk(graph: onnx.GraphProto, parent: Scope | None) -> Iterator[EieNode]:
        scope = Scope(graph, parent)
        for node in graph.node:
            if node.domain == DOMAIN:
                yield eie_node(node, scope.constant)
            for _, body in bodies_of(node):
                yield from walk(body, scope)

    yield from walk(model.graph, None)


@dataclass(frozen=True)
class Payload:
    """A payload of an artifact.

    Attributes:
        name: of its initializer.
        content: its bytes.
        readers: the layers that share it, by name.
    """

    name: str
    content: bytes = field(repr=False)
    readers: tuple[str, ...]


def payloads(model: onnx.ModelProto, base: Path | None = None) -> list[Payload]:
    """Every payload of a model once, in the order of its first reader.

    Args:
        model: as ``load_model`` gives it.
        base: the folder external data lies in; needed only where the payloads are in another file.
    """
    tensors = Tensors(base)
    found: dict[int, tuple[onnx.TensorProto, list[str]]] = {}
    for layer in eie_nodes(model):
        for payload in layer.payloads:
            readers = found.setdefault(id(payload), (payload, []))[1]
            if layer.name not in readers:
                readers.append(layer.name)
    return [Payload(p.name, tensors.array(p).tobytes(), tuple(readers)) for p, readers in found.values()]


def specs(source: Source, activations: Activations | None = None) -> Iterator[LayerSpec]:
    """Every compressed layer of an artifact, decoded; one payload that several layers share is decoded once."""
    model = load_model(source)
    reader = PayloadReader(Tensors(None if isinstance(source, bytes) else Path(source).parent))
    for layer in eie_nodes(model):
        yield layer.spec(reader.weight, activations)
