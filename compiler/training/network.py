"""A Graph as a torch module: its operators run one by one, weights come out of parametrizations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.layers import FEWEST, RECURRENT, SLOTS, Layer
from ..errors import ModelError
from ..ir.graph import Constant, Graph, Model, Node
from .operators import OPERATORS, Call, Scope
from .operators.shapes import tensor_of
from .parametrization import Parametrization, Plain, store

_BESIDE: dict[
    str, tuple[int, ...]
] = {  # operator -> inputs that are trained beside the weights: biases, scales, peepholes
    "Gemm": (2,),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "LSTM": (3, 7),
    "GRU": (3,),
    "RNN": (3,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
}
_FLOATS = (1, 10, 16)  # FLOAT, FLOAT16, BFLOAT16


@dataclass(eq=False)
class Trained:
    """A constant, and what it is made from in training.

    Attributes:
        transposed: it is the transpose of what the parametrization gives.
        layer: whose weight it is; None where it is no layer's.
        weight: it is a weight, be it too small a one for a layer, and no bias or scale.
    """

    constant: Constant
    parametrization: Parametrization
    transposed: bool = False
    layer: Layer | None = None
    weight: bool = True

    def store(self) -> None:
        """Write what was trained into the graph's constant."""
        if self.layer is not None:
            store(self.layer, self.parametrization)
            return
        array = np.asarray(self.parametrization.finish())
        dtype = np.asarray(self.constant.array()).dtype
        self.constant.replace(array.reshape(self.constant.dims).astype(dtype))


class Network(nn.Module):
    """A model's graph in torch.

    Args:
        model: what to run; compressed constants are decoded.
        trained: constants that are made from parameters; all others stay as they are.
        widen: compute floats of 16 bits as float32: gradients need the digits, and processors have them.
        device: where it runs; "cuda" when there is one, when left out.

    Raises:
        ModelError: an operator that is not known here; names all of them.
    """

    def __init__(
        self,
        model: Model,
        trained: Sequence[Trained] = (),
        *,
        widen: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check_known(model)
        self.graph, self.widen, self.batched = model.graph, widen, False
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.trained = list(trained)
        self.parametrizations = nn.ModuleList(t.parametrization for t in trained)
        self._of = {id(t.constant): t for t in trained}
        self._held: dict[int, Tensor] = {}  # constants as tensors
        self._made: dict[int, Tensor] = {}  # trained ones, in the run that is going on
        self._plans: dict[tuple[int, tuple[str, ...]], list[tuple[Node, list[str]]]] = {}
        self.opset = model.graph.opsets.get("", model.graph.opsets.get("ai.onnx", 1))
        self.to(self.device)

    # -- running -----------------------------------------------------------------------------------------------------

    def forward(self, feeds: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> list[Any]:
        """The outputs (or any tensors of the model's own graph) for feeds by input name."""
        names = list(outputs) if outputs is not None else [o.name for o in self.graph.outputs]
        self._made = {}
        try:
            scope = Scope(self.graph, self)
            for name, value in feeds.items():
                scope.values[name] = value.to(torch.float32) if self.widen and _half(value) else value
            return self._run(scope, names)
        finally:
            self._made = {}

    def each(self, feeds: Mapping[str, Tensor], outputs: Sequence[str], alike: Iterable[str] = ()) -> list[Tensor]:
        """The outputs for a stack of inputs, [stack, ...] each: the model runs as if once for every entry, for models whose
        batch is fixed. Inputs named in ``alike`` go into every run as they are."""
        same = set(alike)
        names, self.batched = list(feeds), True
        try:
            run = torch.func.vmap(
                lambda *values: tuple(self.forward(dict(zip(names, values, strict=True)), outputs)),
                in_dims=tuple(None if n in same else 0 for n in names),
            )
            return list(run(*(feeds[n] for n in names)))
        finally:
            self.batched = False

    def run_body(self, graph: Graph, values: Sequence[Any], scope: Scope) -> list[Any]:
        """A body's outputs; it sees the tensors of ``scope``."""
        inner = Scope(graph, self, scope)
        inner.values.update({i.name: v for i, v in zip(graph.inputs, values, strict=False)})
        return self._run(inner, [o.name for o in graph.outputs])

    def constant(self, graph: Graph, name: str) -> Tensor:
        """A constant as tensor; a trained one as its parameters make it now."""
        constant = graph.constants[name]
        trained = self._of.get(id(constant))
        if trained is not None:
            if id(constant) not in self._made:
                value = trained.parametrization()
                self._made[id(constant)] = (value.T if trained.transposed else value).reshape(constant.dims)
            return self._made[id(constant)]
        if id(constant) not in self._held:
            self._held[id(constant)] = tensor_of(constant.array(), self.widen, self.device)
        return self._held[id(constant)]

    def _run(self, scope: Scope, names: Sequence[str]) -> list[Any]:
        for node, last in self._plan(scope.graph, tuple(names)):
            call = Call(node, self.opset, scope)
            inputs = [scope[n] if n else None for n in node.inputs]
            try:
                found = OPERATORS[node.op].run(call, *inputs)
            except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
                raise ModelError(f"{node.op} does not run in training: {first}", where=node.label) from error
            values = found if isinstance(found, tuple) else (found,)
            scope.values.update({o: v for o, v in zip(node.outputs, values, strict=False) if o})
            for tensor in last:
                scope.values.pop(tensor, None)
        return [scope[n] for n in names]

    def _plan(self, graph: Graph, names: tuple[str, ...]) -> list[tuple[Node, list[str]]]:
        """The operators that the tensors need, in order, each with the tensors that nobody reads after it."""
        key = (id(graph), names)
        if key not in self._plans:
            wanted: set[str] = set(names)
            plan: list[tuple[Node, list[str]]] = []
            for node in reversed(graph.nodes):
                if wanted & set(node.outputs):
                    read = {n for n in node.inputs if n}.union(*(b.captured() for bs in node.bodies.values() for b in bs))
                    plan.append((node, sorted({*read, *filter(None, node.outputs)} - wanted)))
                    wanted |= read
            self._plans[key] = plan[::-1]
        return self._plans[key]

    # -- what is trained -----------------------------------------------------------------------------------------------

    def parametrization(self, layer: Layer) -> Parametrization:
        """What a layer's weight is made from."""
        return self._of[id(layer.constant)].parametrization

    def observe(self) -> None:
        """Before a step of the optimizer."""
        for trained in self.trained:
            trained.parametrization.observe()

    def project(self) -> None:
        """After a step of the optimizer."""
        for trained in self.trained:
            trained.parametrization.project()

    def store(self) -> None:
        """Write everything that was trained into the graph."""
        for trained in self.trained:
            trained.store()


def beside(model: Model, layers: Sequence[Layer]) -> list[Trained]:
    """What is trained beside the weights of all layers, as it is: biases, scales of normalizations, and weights too small to be
    compressed."""
    weights = {id(layer.constant) for layer in layers}
    outputs = {o.name for graph in model.graph.graphs() for o in graph.outputs}
    found: dict[int, Trained] = {}
    for graph, node in model.graph.walk():
        if node.domain:
            continue
        slots = list(_BESIDE.get(node.op, ()))
        small = [s for s in SLOTS.get(node.op, ()) if node.op not in RECURRENT and node.op != "Gather"]
        if node.op == "Add" and any(_makes_sums(graph.producer(t)) for t in node.inputs):
            slots += [0, 1]
        for slot in [*slots, *small]:
            constant = graph.constant(node.inputs[slot]) if slot < len(node.inputs) and node.inputs[slot] else None
            if (
                constant is None
                or id(constant) in weights
                or constant.data_type not in _FLOATS
                or constant.name in outputs
            ):
                continue
            if slot in small and slot not in slots and constant.elements >= FEWEST:
                continue  # a designed one, which is no layer
            weight = slot in small and slot not in slots
            found[id(constant)] = Trained(constant, Plain(np.asarray(constant.array(), np.float32)), weight=weight)
    return list(found.values())


def _makes_sums(node: Node | None) -> bool:
    return node is not None and node.op in SLOTS


def of_layers(parametrizations: Mapping[Layer, Parametrization]) -> list[Trained]:
    """Layers made from parametrizations."""
    return [Trained(layer.constant, p, layer.transposed, layer) for layer, p in parametrizations.items()]


def without_gradient(graph: Graph, outputs: Sequence[str], constants: Iterable[Constant]) -> dict[str, str]:
    """Constants that no gradient of ``outputs`` reaches: name -> why, the operator named."""
    reached, ends = _walk(graph, outputs, through=False)
    everything, _ = _walk(graph, outputs, through=True)
    found = {}
    for constant in constants:
        if id(constant) in reached:
            continue
        if id(constant) not in everything:
            found[constant.name] = "the loss does not depend on it"
            continue
        blocking = [n for g, n in ends if id(constant) in _walk(g, n.inputs, through=True)[0]]
        named = ", ".join(dict.fromkeys(f"{n.op} ({n.label})" for n in blocking)) or "an operator in a body"
        found[constant.name] = f"{named} has no gradient"
    return found


def _walk(graph: Graph, tensors: Iterable[str], *, through: bool) -> tuple[set[int], list[tuple[Graph, Node]]]:
    """Constants upstream of tensors, by identity; operators without gradient met, which end the walk unless
    ``through``."""
    constants: set[int] = set()
    seen: set[tuple[int, str]] = set()
    ends: list[tuple[Graph, Node]] = []
    front = [(graph, t) for t in tensors if t]
    while front:
        where, tensor = front.pop()
        if (id(where), tensor) in seen:
            continue
        seen.add((id(where), tensor))
        if tensor in where.constants:
            constants.add(id(where.constants[tensor]))
            continue
        node = where.producer(tensor)
        if node is None:
            if where.parent is not None and not where.is_input(tensor):
                front.append((where.parent, tensor))
            continue
        if not through and not OPERATORS[node.op].gradient(node):
            ends.append((where, node))
            continue
        front += [(where, t) for t in node.inputs if t]
        front += [(b, o.name) for bodies in node.bodies.values() for b in bodies for o in b.outputs]
    return constants, ends


def _check_known(model: Model) -> None:
    unknown: dict[str, str] = {}
    for _, node in model.graph.walk():
        if node.domain not in ("", "ai.onnx") or node.op not in OPERATORS:
            unknown.setdefault(f"{node.domain}.{node.op}".lstrip("."), node.label)
    if unknown:
        named = ", ".join(f"{op} ({label})" for op, label in unknown.items())
        raise ModelError(f"training does not know the operators {named}", where=model.path,
                         hint="Without --train the model can be compressed all the same.")  # fmt: skip


def _half(value: Tensor) -> bool:
    return value.dtype in (torch.float16, torch.bfloat16)


def assemble(model: Model, layers: Sequence[Layer], parametrizations: Mapping[Layer, Parametrization]) -> Network:
    """A network to train: layers by their parametrizations, and biases and the like as they are.

    Args:
        layers: all that the model has; those without a parametrization stay as they are.
    """
    return Network(model, [*of_layers(parametrizations), *beside(model, layers)])
