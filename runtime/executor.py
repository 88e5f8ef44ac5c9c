"""Makes an artifact ready to run on a backend that computes one layer at a time (cpu, reference, ...).

Three steps. *Read*: every graph and body becomes a ``Block``, its compressed layers checked. *Settle*: each compressed
layer becomes a function of the backend, or, where dense is faster or no compressed form exists, the standard operator
with its weight decoded. *Compile*: what is left between the layers goes to ONNX Runtime in as few segments as can be
(partition.py); If, Loop and Scan around compressed layers are run step by step (controlflow.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import controlflow, valueinfo
from .artifact import EieNode, PayloadReader, eie_node
from .backends.base import Activations, Backend, InsideBackend, LayerSpec, Run
from .dense import NO_OPERATOR, standard_attributes
from .errors import FormatError, ModelError
from .followers import Follower, absorb
from .halves import stay_wide
from .modelfile import bodies_of, has_layers, label, opset_versions
from .operators import DOMAIN
from .partition import schedule, topological
from .program import LayerStep, Program, Step
from .segments import Constant, Segment, Settings
from .tensors import Tensors, constant_tensor

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class LayerReport:
    """What runs a compressed layer.

    Attributes:
        name: of the layer.
        op: of ``ai.eie``.
        kernel: what computes it; ``dense`` where it was turned back into the standard operator.
        why: one sentence.
        bytes: of the packed (or decoded) weight in memory; 0 where the backend does not say.
        followers: operators behind the layer that it applies itself, in their order.
    """

    name: str
    op: str
    kernel: str
    why: str
    bytes: int
    followers: tuple[str, ...] = ()


@dataclass(eq=False)
class Scope:
    """What the names of one graph stand for.

    Attributes:
        constants: initializers, Constant nodes, decoded weights.
        overridable: initializers that are inputs too, and so may be fed: values with a default.
        computed: names the graph's nodes write and its inputs.
        types: of the values that are known so far.
    """

    constants: dict[str, Constant]
    computed: set[str]
    parent: Scope | None = None
    overridable: dict[str, Constant] = field(default_factory=dict)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)

    def owner(self, name: str) -> Scope | None:
        """The innermost scope that gives a name a meaning."""
        scope: Scope | None = self
        while scope is not None and name not in scope.constants and name not in scope.computed:
            scope = scope.parent
        return scope

    def constant(self, name: str) -> Constant | None:
        owner = self.owner(name)
        return None if owner is None else owner.constants.get(name)

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """The initializer behind a name, one that may be fed included: payloads never change."""
        owner = self.owner(name)
        found = owner and (owner.constants.get(name) or owner.overridable.get(name))
        return found.tensor if found else None


@dataclass(eq=False)
class Op:
    """A node: plain, or a compressed layer (``layer``; ``run``, ``follow``, the shapes of its ``weights`` and the place of
    its ``report`` once settled), or control flow around some (``bodies``). ``floats``: it gives what a layer computes, which is
    float32."""

    node: onnx.NodeProto
    layer: EieNode | None = None
    run: Run | None = None
    follow: Callable[[Sequence[Follower]], Run] | None = None
    weights: tuple[tuple[int, ...], ...] = ()
    report: int = -1
    floats: bool = False
    bodies: dict[str, Block] = field(default_factory=dict)

    @property
    def barrier(self) -> bool:
        return self.run is not None or bool(self.bodies)


@dataclass(eq=False)
class Block:
    """A graph, or the body of an If, Loop or Scan."""

    graph: onnx.GraphProto
    scope: Scope
    ops: list[Op]


class Executor:
    """An artifact made ready: ``program`` runs it, ``layers`` says how.

    Args:
        model: as ``load_model`` gives it; the executor takes it over and changes it.
        backend: computes the compressed layers.
        activations: overrides what the layers ask for.
        threads: of ONNX Runtime, for the standard operators.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Tensors, backend: Backend | InsideBackend, *,
                 threads: int = 1, activations: Activations | None = None) -> None:  # fmt: skip
        self._tensors, self._backend, self._activations = tensors, backend, activations
        self._opsets = opset_versions(model)
        self._inside = backend if isinstance(backend, InsideBackend) else None
        self._settings = Settings(model.ir_version, self._opsets, list(model.functions), threads, tensors, self._inside)
        self._payloads = PayloadReader(tensors, threads)
        self._uses: Counter[int] = Counter()
        self._names = _all_names(model.graph)
        self.layers: list[LayerReport] = []
        self.formats: set[Activations] = set()
        self.payload_names: set[str] = set()
        root = self._read(model.graph, None)
        self._constants = root.scope.constants
        for name in self.payload_names & root.scope.overridable.keys():  # listed as inputs, and constants all the same
            self._constants[name] = root.scope.overridable.pop(name)
        self._payloads.expect(_payloads_of(root))
        try:
            self._settle(root)
        finally:
            self._payloads.close()
        types = [i.type for i in _fed_inputs(model.graph, root.scope)]
        self.program = self._compile(root, types)
        del self._constants, self._backend  # the program holds what is still needed

    # -- read --------------------------------------------------------------------------------------------------------

    def _read(self, graph: onnx.GraphProto, parent: Scope | None) -> Block:
        constants = {t.name: Constant(t.name, t, self._tensors) for t in graph.initializer}
        for sparse in graph.sparse_initializer:
            constants[sparse.values.name] = Constant(sparse.values.name, sparse, self._tensors)
        overridable = _overridable(graph, self._settings) if parent is None else set()
        fed = {name: constants.pop(name) for name in overridable}
        computed = {i.name for i in graph.input} | {o for n in graph.node for o in n.output if o}
        nodes = []
        for node in graph.node:
            tensor = constant_tensor(node)
            if tensor is None:
                nodes.append(node)
            else:
                constants[tensor.name] = Constant(tensor.name, tensor, self._tensors)
        twice = next((o for n in nodes for o in n.output if o in constants or o in fed), None)
        if twice is not None:
            raise ModelError("is an initializer, and written by a node", where=f"tensor {twice!r}")
        scope = Scope(constants, computed, parent, fed)
        block = Block(graph, scope, [])
        for node in nodes:
            op = Op(node)
            if node.domain == DOMAIN:
                op.layer = eie_node(node, scope.tensor)
                self._uses.update(id(p) for p in op.layer.payloads)
                self.payload_names.update(p.name for p in op.layer.payloads)
            elif any(has_layers(body) for _, body in bodies_of(node)):
                if self._inside is None:
                    self._check_control(node)
                op.bodies = {name: self._read(body, scope) for name, body in bodies_of(node)}
            block.ops.append(op)
        return block

    def _check_control(self, node: onnx.NodeProto) -> None:
        where = f"node {label(node)!r} ({node.op_type})"
        bodies = [name for name, _ in bodies_of(node)]
        expected = {"If": ["else_branch", "then_branch"], "Loop": ["body"], "Scan": ["body"]}.get(node.op_type)
        if node.domain not in ("", "ai.onnx") or expected is None:
            raise ModelError("holds compressed layers in its body, and only If, Loop and Scan may do that here",
                             where=where,
                             hint="Run it with backend 'ort', or leave its layers uncompressed")  # fmt: skip
        if sorted(bodies) != expected:
            raise ModelError(f"has the bodies {bodies} instead of {expected}", where=where)
        if node.op_type == "Scan" and self._opsets.get("", 1) < 9:
            raise ModelError("is a Scan of opset 8, which works on batches; compressed layers may stand in those from "
                             "opset 9 on", where=where, hint="Convert the model to opset 9 or later")  # fmt: skip

    # -- settle ------------------------------------------------------------------------------------------------------

    def _settle(self, block: Block) -> None:
        """Replace each compressed layer by the backend's function or by standard operators."""
        settled: list[Op] = []
        for op in block.ops:
            if op.layer is not None and op.layer.op == "Decode":
                settled.extend(self._decode(op, self._take(op.layer), block))
            else:
                settled.append(op)
        block.ops, settled = settled, []
        for op in block.ops:
            if op.layer is not None:
                settled.extend(self._settle_layer(op, op.layer))
                continue
            for body in op.bodies.values():
                self._settle(body)
            if op.bodies and not any(o.barrier for body in op.bodies.values() for o in body.ops):
                for body in op.bodies.values():
                    _write_back(body)
                op.bodies = {}
            settled.append(op)
        block.ops = settled

    def _take(self, layer: EieNode) -> LayerSpec:
        """The layer with its payloads decoded; those that no layer after it shares are let go."""
        spec = layer.spec(self._payloads.weight, self._activations)
        for payload in layer.payloads:
            self._uses[id(payload)] -= 1
            if not self._uses[id(payload)]:
                self._payloads.release(payload)
        return spec

    def _settle_layer(self, op: Op, layer: EieNode) -> list[Op]:
        spec = self._take(layer)
        if layer.operator.computes:
            self.formats.add(spec.activations)
        why = ""
        judge = getattr(self._backend, "verdict", None)
        if judge is not None and spec.activations == "f32" and layer.operator.computes:
            verdict = judge(spec)
            if verdict is not None and verdict.dense:
                attributes = standard_attributes(spec)
                if attributes is not None:
                    return self._dense(op, spec, attributes, verdict.why)
            why = "" if verdict is None else NO_OPERATOR if verdict.dense else verdict.why
        if isinstance(self._backend, InsideBackend):
            return self._stay(op, layer, spec, why)
        made = self._backend.compile(spec)
        op.run, op.follow, op.weights = made.run, made.follow, tuple(w.shape for w in spec.weights)
        op.report, op.floats = len(self.layers), layer.operator.computes
        why = why or made.why or f"backend {self._backend.name} runs every layer this way"
        self.layers.append(LayerReport(spec.name, spec.op, made.kernel, why, made.bytes))
        return [op]

    def _stay(self, op: Op, layer: EieNode, spec: LayerSpec, why: str) -> list[Op]:
        """A layer as a plain node, which ONNX Runtime runs as a custom operator."""
        import onnx

        assert isinstance(self._backend, InsideBackend)
        node = onnx.NodeProto()
        node.CopyFrom(op.node)
        if layer.operator.computes:
            others = [a for a in node.attribute if a.name != "activations"]
            del node.attribute[:]
            node.attribute.extend([*others, onnx.helper.make_attribute("activations", spec.activations)])
        kernel, reason = self._backend.kernel(spec)
        self.layers.append(LayerReport(spec.name, spec.op, kernel, why or reason, 0))
        return [Op(node)]

    def _decode(self, op: Op, spec: LayerSpec, block: Block) -> list[Op]:
        """A Decode node becomes a constant of the model's own graph."""
        import onnx

        content = _decoded(spec)
        name = op.node.output[0]
        self.layers.append(LayerReport(spec.name, spec.op, "dense", "decoded once at load", content.nbytes))
        if block.scope.parent is None:
            block.scope.constants[name] = Constant(name, content, self._tensors)
            return []
        outer = self._hoist(name, content)
        _rename([o.node for o in block.ops], name, outer)
        if any(o.name == name for o in block.graph.output):
            return [Op(onnx.helper.make_node("Identity", [outer], [name]))]
        return []

    def _dense(self, op: Op, spec: LayerSpec, attributes: dict[str, Any], why: str) -> list[Op]:
        """Turn a layer back into the standard operator, its weight decoded."""
        import onnx

        node, stem = op.node, label(op.node)
        weights = [w.dense() for w in spec.weights]
        if spec.op == "Gemm":
            weights = [np.ascontiguousarray(weights[0].T)]
        held = [self._hoist(f"{stem}/weight", w) for w in weights]
        rest = list(node.input[1 + len(held) :])
        if spec.op == "Gemm":
            y, bias = node.output[0], rest[0] if rest else ""
            product = self._fresh(f"{y}/product") if bias else y
            nodes = [onnx.helper.make_node("MatMul", [node.input[0], *held], [product], name=node.name)]
            if bias:
                nodes.append(onnx.helper.make_node("Add", [product, bias], [y], name=f"{node.name}/bias"))
        else:
            inputs = [node.input[0], *held, *rest]
            nodes = [onnx.helper.make_node(spec.op, inputs, list(node.output), name=node.name, **attributes)]
        self.layers.append(LayerReport(spec.name, spec.op, "dense", why, sum(w.nbytes for w in weights)))
        return [Op(n, floats=True) for n in nodes]

    def _hoist(self, stem: str, content: np.ndarray[Any, Any]) -> str:
        """Make a tensor a constant of the model's own graph, which every body sees; gives its name."""
        name = self._fresh(stem)
        self._constants[name] = Constant(name, content, self._tensors)
        return name

    def _fresh(self, stem: str) -> str:
        name, n = stem, 0
        while name in self._names:
            n += 1
            name = f"{stem}/{n}"
        self._names.add(name)
        return name

    # -- compile -----------------------------------------------------------------------------------------------------

    def _compile(self, block: Block, input_types: Sequence[onnx.TypeProto]) -> Program:
        scope = block.scope
        inputs = [i.name for i in _fed_inputs(block.graph, scope)]
        self._arity(f"graph {block.graph.name!r}", len(inputs), len(input_types))
        scope.types.update(zip(inputs, input_types, strict=True))
        outputs = tuple(o.name for o in block.graph.output)
        ops = self._absorb(block.ops, outputs, scope)
        reads = [_reads(op.node) for op in ops]
        pieces = schedule(reads, [op.node.output for op in ops], [op.barrier for op in ops])
        readers: Counter[str] = Counter(name for read in reads for name in read)
        readers.update(outputs)
        captured: dict[str, None] = {}
        constants: dict[str, Any] = {}
        steps: list[Step] = []
        for piece in pieces:
            here = [ops[i] for i in piece.nodes]
            if piece.barrier:
                step = self._barrier(here[0], scope)
                constants.update({n: c.array() for n in step.reads if (c := scope.constant(n)) is not None})
            else:
                inside: Counter[str] = Counter(name for i in piece.nodes for name in reads[i])
                outputs_here = [n for i in piece.nodes for n in ops[i].node.output if n and readers[n] > inside[n]]
                if not outputs_here:
                    continue
                step = self._segment([op.node for op in here], outputs_here, scope)
            captured.update({n: None for n in step.reads if n not in constants and scope.owner(n) is not scope})
            scope.types.update(step.types)
            steps.append(step)
        for name in outputs:
            constant = scope.constant(name)
            if constant is not None:
                constants[name] = constant.array()
            elif self._value_scope(scope, name, "the graph's outputs") is not scope:
                captured[name] = None
        kinds = [self._type(scope, o) for o in block.graph.output]
        defaults = {n: c.array() for n, c in scope.overridable.items()}
        return Program(tuple(inputs), outputs, kinds, tuple(captured), constants, steps, defaults)

    def _absorb(self, ops: list[Op], outputs: Sequence[str], scope: Scope) -> list[Op]:
        """Let layers apply the elementwise operators behind them, where their backend can (followers.py)."""
        if any(op.floats for op in ops):
            ops = stay_wide(_ordered(ops), _reads, outputs, self._fresh, Op)
            scope.computed.update(name for op in ops for name in op.node.output if name)
        found = absorb(ops, [_reads(op.node) for op in ops], outputs, scope.constant)
        gone = {place for taken in found.values() for place in taken.nodes}
        for place, taken in found.items():
            op = ops[place]
            assert op.layer is not None and op.follow is not None
            node = type(op.node)()
            node.CopyFrom(op.node)
            node.input.extend([""] * (op.layer.operator.inputs[1] - len(node.input)))
            node.input.extend(taken.operands)
            node.output[0] = taken.output
            op.node, op.layer, op.run = node, replace(op.layer, node=node), op.follow(taken.followers)
            names = tuple(f.op for f in taken.followers)
            self.layers[op.report] = replace(self.layers[op.report], followers=names)
        return [op for place, op in enumerate(ops) if place not in gone]

    def _segment(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], scope: Scope) -> Segment:
        own = {name for node in nodes for name in node.output}
        needed = [n for n in dict.fromkeys(name for node in nodes for name in _ordered_reads(node)) if n not in own]
        constants = {n: c for n in needed if (c := scope.constant(n)) is not None}
        values: dict[str, onnx.TypeProto] = {}
        for name in needed:
            if name not in constants:
                owner = self._value_scope(scope, name, f"node {label(nodes[0])!r} and those after it")
                values[name] = owner.types[name] if owner is scope else valueinfo.without_shape(owner.types[name])
        return Segment(nodes, values, constants, outputs, self._settings)

    def _barrier(self, op: Op, scope: Scope) -> Step:
        if op.layer is not None and op.run is not None:
            return self._layer_step(op.layer, op.run, op.weights, scope)
        node, where = op.node, f"node {label(op.node)!r} ({op.node.op_type})"
        for name in node.input:
            if name:
                self._known(scope, name, where)
        inputs, writes = tuple(node.input), tuple(node.output)
        if node.op_type == "If":
            if len(inputs) != 1:
                raise ModelError(f"has {len(inputs)} inputs instead of one", where=where)
            then_branch = self._compile(op.bodies["then_branch"], [])
            else_branch = self._compile(op.bodies["else_branch"], [])
            self._arity(where, len(writes), len(then_branch.outputs), len(else_branch.outputs))
            return controlflow.If(where, inputs[0], then_branch, else_branch, writes)
        body = op.bodies["body"]
        if node.op_type == "Loop":
            return self._loop(node, body, where, scope)
        return self._scan(node, body, where, scope)

    def _layer_step(self, layer: EieNode, run: Run, weights: tuple[tuple[int, ...], ...], scope: Scope) -> LayerStep:
        import onnx

        where = f"layer {layer.name!r} ({layer.op})"
        for slot, name in enumerate(layer.inputs):
            if not name:
                continue
            kind = self._known(scope, name, where).tensor_type.elem_type
            allowed = {onnx.TensorProto.FLOAT}
            if layer.op == "Gather":
                allowed = {onnx.TensorProto.INT32, onnx.TensorProto.INT64}
            elif layer.op in ("LSTM", "GRU") and slot == 2:
                allowed = {onnx.TensorProto.INT32}
            if kind not in allowed:
                names = " or ".join(valueinfo.element_name(k) for k in sorted(allowed))
                given = valueinfo.type_string(self._known(scope, name, where)) or "of no known type"
                raise FormatError(f"its input {name!r} is {given} instead of {names}", where=where,
                                  hint="The artifact is damaged; compress the model again")  # fmt: skip
        outputs = tuple(layer.node.output)
        shape = _layer_shape(layer.op, weights, valueinfo.shape_of(self._known(scope, layer.inputs[0], where)))
        for name in layer.inputs[layer.operator.inputs[1] - len(layer.operator.payloads) :]:
            shape = _sum_shape(shape, valueinfo.shape_of(self._known(scope, name, where)))
        types = {n: onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shape) for n in outputs if n}
        return LayerStep(layer.inputs, outputs, types, run)

    def _loop(self, node: onnx.NodeProto, body: Block, where: str, scope: Scope) -> Step:
        inputs = (*node.input, "", "")[: max(2, len(node.input))]
        graph = body.graph
        self._arity(where, len(graph.input), len(inputs))
        if not 1 + len(inputs) - 2 <= len(graph.output):
            raise ModelError(f"its body has {len(graph.output)} outputs for {len(inputs)} inputs", where=where)
        self._arity(where, len(node.output), len(graph.output) - 1)
        types = [graph.input[0].type, graph.input[1].type]
        for name, info in zip(inputs[2:], list(graph.input)[2:], strict=True):
            types.append(valueinfo.without_shape(self._known(scope, name, where) if name else info.type))
        program = self._compile(body, types)
        self._carried(where, types[2:], program.output_types[1:])
        self._stacked(where, program.output_types[1 + len(types[2:]) :])
        shapes = [tuple(1 for _ in valueinfo.shape_of(i.type) or []) for i in list(graph.input)[:2]]
        return controlflow.Loop(where, tuple(inputs), program, tuple(node.output), *shapes)

    def _scan(self, node: onnx.NodeProto, body: Block, where: str, scope: Scope) -> Step:
        import onnx

        graph, inputs = body.graph, tuple(node.input)
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        sequences = given.get("num_scan_inputs", 0)
        states = len(inputs) - sequences if isinstance(sequences, int) else -1
        if not 1 <= len(inputs) - states <= len(inputs) or not all(inputs):
            raise ModelError(f"num_scan_inputs is {sequences} for {len(inputs)} inputs", where=where)
        self._arity(where, len(graph.input), len(inputs))
        self._arity(where, len(node.output), len(graph.output))
        stacked = len(graph.output) - states
        lists = []
        for name, count in (("scan_input_axes", sequences), ("scan_input_directions", sequences),
                            ("scan_output_axes", stacked), ("scan_output_directions", stacked)):  # fmt: skip
            values = given.get(name) or [0] * count
            if not isinstance(values, Sequence) or len(values) != count or stacked < 0:
                raise ModelError(f"{name} is {values} instead of {count} numbers", where=where)
            lists.append(list(values))
        types = [valueinfo.without_shape(self._known(scope, name, where)) for name in inputs]
        program = self._compile(body, types)
        self._carried(where, types[:states], program.output_types)
        self._stacked(where, [*types[states:], *program.output_types[states:]])
        return controlflow.Scan(where, inputs, program, tuple(node.output), sequences, *lists)

    # -- names and types ---------------------------------------------------------------------------------------------

    def _arity(self, where: str, *counts: int) -> None:
        if len(set(counts)) > 1:
            raise ModelError(f"its inputs, outputs and body do not fit: {', '.join(map(str, counts))}", where=where)

    def _carried(self, where: str, first: Sequence[onnx.TypeProto], after: Sequence[onnx.TypeProto]) -> None:
        """A value handed from one iteration to the next keeps its type."""
        for before, later in zip(first, after, strict=False):
            if valueinfo.type_string(before) != valueinfo.type_string(later):
                given, back = valueinfo.type_string(before), valueinfo.type_string(later)
                raise ModelError(f"its body takes {given} and hands back {back}", where=where)

    def _stacked(self, where: str, kinds: Sequence[onnx.TypeProto]) -> None:
        """What is taken apart or put together along an axis is a tensor."""
        for kind in kinds:
            if not kind.HasField("tensor_type"):
                raise ModelError(f"takes apart or stacks {valueinfo.type_string(kind)}, no tensor", where=where)

    def _value_scope(self, scope: Scope, name: str, reader: str) -> Scope:
        """The scope whose value a name is, its type known."""
        owner = scope.owner(name)
        if owner is None:
            _undefined(name, reader)
        if name not in owner.types:
            raise ModelError("is read by what must run before it", where=f"tensor {name!r}",
                             hint="The graph has a cycle through a body")  # fmt: skip
        return owner

    def _known(self, scope: Scope, name: str, reader: str) -> onnx.TypeProto:
        constant = scope.constant(name)
        return constant.type if constant is not None else self._value_scope(scope, name, reader).types[name]

    def _type(self, scope: Scope, output: onnx.ValueInfoProto) -> onnx.TypeProto:
        found = self._known(scope, output.name, "the graph's outputs")
        if valueinfo.shape_of(found) is None and valueinfo.type_string(found) == valueinfo.type_string(output.type):
            return output.type
        return found


def _undefined(name: str, reader: str) -> NoReturn:
    raise ModelError(f"is read by {reader}, and nothing gives it", where=f"tensor {name!r}",
                     hint="The model is damaged or incomplete")  # fmt: skip


def _payloads_of(block: Block) -> Iterator[onnx.TensorProto]:
    """In the order in which ``_settle`` reads them."""
    for op in block.ops:
        if op.layer is not None and op.layer.op == "Decode":
            yield from op.layer.payloads
    for op in block.ops:
        if op.layer is not None and op.layer.op != "Decode":
            yield from op.layer.payloads
        for body in op.bodies.values():
            yield from _payloads_of(body)


def _decoded(spec: LayerSpec) -> np.ndarray[Any, Any]:
    """What a Decode node gives."""
    dense = spec.weights[0].dense()
    dense = dense.T if spec.attributes.get("transpose", 0) else dense
    return np.ascontiguousarray(dense).reshape(spec.attributes.get("shape", dense.shape))


def _layer_shape(op: str, weights: Sequence[tuple[int, ...]],
                 first: list[valueinfo.Dim] | None) -> list[valueinfo.Dim] | None:  # fmt: skip
    """What is known of the shape of a layer's output before it runs; ``first`` is that of its first input."""
    if first is None or op not in ("Gemm", "Gather", "Conv"):
        return None
    if op == "Gemm":
        return [*first[:-1], weights[0][0]]
    if op == "Gather":
        return [*first, *weights[0][1:]]
    return [first[0] if first else None, weights[0][0], *([None] * (len(weights[0]) - 2))]


def _ordered(ops: list[Op]) -> list[Op]:
    """Producers first, which files need not have."""
    return [ops[i] for i in topological([_reads(op.node) for op in ops], [op.node.output for op in ops])]


def _sum_shape(a: list[valueinfo.Dim] | None, b: list[valueinfo.Dim] | None) -> list[valueinfo.Dim] | None:
    """What is known of the shape of a sum; where one has fewer dimensions, nothing is said."""
    if a is None or b is None or len(a) != len(b):
        return None
    return [m if m == n else None for m, n in zip(a, b, strict=True)]


def _overridable(graph: onnx.GraphProto, settings: Settings) -> set[str]:
    """Initializers that may be fed. Before IR version 4 every initializer was listed as input, and none may."""
    inputs = {i.name for i in graph.input} if settings.ir_version >= 4 else set()
    return {t.name for t in graph.initializer if t.name in inputs}


def _fed_inputs(graph: onnx.GraphProto, scope: Scope) -> list[onnx.ValueInfoProto]:
    """The graph's inputs without those that are constants."""
    return [i for i in graph.input if i.name not in scope.constants]


def _ordered_reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from (n for n in node.input if n)
    for _, body in bodies_of(node):
        yield from _captured(body)


def _reads(node: onnx.NodeProto) -> set[str]:
    """The tensors a node reads, itself or in its bodies."""
    return set(_ordered_reads(node))


def _captured(graph: onnx.GraphProto) -> list[str]:
    """The tensors a body reads from the graphs around it."""
    own = _own_names(graph)
    read = [n for node in graph.node for n in _ordered_reads(node)] + [o.name for o in graph.output if o.name]
    return [n for n in dict.fromkeys(read) if n not in own]


def _own_names(graph: onnx.GraphProto) -> set[str]:
    names = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    names.update(s.values.name for s in graph.sparse_initializer)
    names.update(o for node in graph.node for o in node.output)
    return names


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = _own_names(graph)
    for node in graph.node:
        names.update(node.input)
        for _, body in bodies_of(node):
            names |= _all_names(body)
    return names


def _rename(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    """Let nodes and their bodies read ``new`` instead of ``old``."""
    import onnx

    for node in nodes:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new
        for _, body in bodies_of(node):
            if old in _own_names(body):
                continue
            _rename(list(body.node), old, new)
            for output in body.output:
                if output.name == old:  # an output must be the body's own
                    output.name = f"{new}/out"
                    body.node.append(onnx.helper.make_node("Identity", [new], [output.name]))


def _write_back(block: Block) -> None:
    """Bring a body that no longer holds a compressed layer into its protobuf."""
    import onnx

    nodes = [*(n for n in block.graph.node if constant_tensor(n) is not None), *(op.node for op in block.ops)]
    read = {name for node in nodes for name in _ordered_reads(node)} | {o.name for o in block.graph.output}
    body = onnx.GraphProto()
    body.CopyFrom(onnx.GraphProto(name=block.graph.name, node=nodes, input=block.graph.input, output=block.graph.output,
                                  sparse_initializer=block.graph.sparse_initializer))  # fmt: skip
    body.initializer.extend(t for t in block.graph.initializer if t.name in read)
    block.graph.CopyFrom(body)
