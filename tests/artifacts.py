"""Artifacts from any model, by brute force, and ONNX Runtime's answers beside ours: what tests of several folders build on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper, parser

from eie.runtime import format as container
from eie.runtime.artifact import eie_nodes
from eie.runtime.backends.base import ACTIVATIONS, Compiled, LayerSpec
from eie.runtime.executor import Executor
from eie.runtime.modelfile import bodies_of, load_model
from eie.runtime.operators import DOMAIN
from eie.runtime.segments import Segment
from eie.runtime.tensors import Tensors
from eie.runtime.weight import Weight

Feeds = Mapping[str, Any]

IF = """g (float[N,4] x, bool c) => (float[N,4] y) {
    a = Neg(x)
    h = If (c) <
        then_branch = t () => (float[N,4] p) { m = MatMul(a, w) p = Add(m, d) },
        else_branch = e () => (float[N,4] q) { q = Add(a, x) }>
    y = Tanh(h) }"""


def round_weight(dense: np.ndarray[Any, Any], values: int = 14) -> Weight:
    """A third of the weights zero, the rest rounded to a grid: not good, but exact from here on."""
    dense = dense.astype(np.float32)
    step = max(float(np.abs(dense).max(initial=0)) / (values // 2), 1e-6)
    rounded = np.rint(dense / step).astype(np.float32) * np.float32(step)
    flat = rounded.reshape(-1)
    flat[::3] = 0
    weight = Weight.exact(rounded)
    assert weight is not None
    return weight


def compress(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(the model with its weights rounded, its artifact): every layer with a constant weight, bodies included."""
    dense, artifact = onnx.ModelProto(), onnx.ModelProto()
    dense.CopyFrom(model)
    artifact.CopyFrom(model)
    artifact.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    _compress(dense.graph, artifact.graph, [])
    return dense, artifact


SLOTS = {
    "MatMul": (1,),
    "Gemm": (1,),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "Gather": (0,),
}


def _compress(
    dense: onnx.GraphProto, artifact: onnx.GraphProto, outer: list[tuple[onnx.GraphProto, onnx.GraphProto]]
) -> None:
    scopes = [(dense, artifact), *outer]
    for d, a in zip(dense.node, artifact.node, strict=True):
        for (_, db), (_, ab) in zip(bodies_of(d), bodies_of(a), strict=True):
            _compress(db, ab, scopes)
        slots = SLOTS.get(d.op_type, ())
        if slots and all(_holder(scopes, d.input[s]) for s in slots) and _has_compressed_form(scopes, d):
            for slot in slots:
                _payload(scopes, d, a, slot)
            a.domain = DOMAIN
            if a.op_type in ("MatMul", "Gemm"):
                a.op_type = "Gemm"
                del a.attribute[:]


def _holder(scopes: Sequence[tuple[onnx.GraphProto, onnx.GraphProto]], name: str) -> Any:
    for dense, artifact in scopes:
        for tensor in dense.initializer:
            if tensor.name == name:
                return tensor, artifact
    return None


def _has_compressed_form(scopes: Any, d: onnx.NodeProto) -> bool:
    tensor = _holder(scopes, d.input[SLOTS[d.op_type][0]])[0]
    given = {a.name: helper.get_attribute_value(a) for a in d.attribute}
    if tensor.data_type != onnx.TensorProto.FLOAT or given.pop("axis", 0) != 0:
        return False
    if d.op_type in ("MatMul", "Gemm"):
        plain = (given.get("transB", 0), given.get("transA", 0), given.get("alpha", 1.0), given.get("beta", 1.0))
        return len(tensor.dims) == 2 and (d.op_type == "MatMul" or plain == (1, 0, 1.0, 1.0))
    return "activations" not in given


def _payload(scopes: Any, d: onnx.NodeProto, a: onnx.NodeProto, slot: int) -> None:
    tensor, artifact = _holder(scopes, d.input[slot])
    weight = round_weight(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(weight.dense(), tensor.name))
    if d.op_type == "MatMul":
        weight = Weight(np.ascontiguousarray(weight.codes.T), weight.codebook)
    name = f"{tensor.name}.{'t' if d.op_type == 'MatMul' else 'p'}"
    if all(t.name != name for t in artifact.initializer):
        payload = np.frombuffer(container.encode(weight), np.uint8)
        artifact.initializer.append(numpy_helper.from_array(payload, name))
    a.input[slot] = name


class OneByOne:
    """A backend that hands each layer to ONNX Runtime by itself, dense: an oracle for everything around the layers."""

    name = "one by one"
    formats = ACTIVATIONS

    def __init__(self) -> None:
        self.specs: list[LayerSpec] = []

    def compile(self, spec: LayerSpec) -> Compiled:
        self.specs.append(spec)
        slots = {"LSTM": (1, 2), "GRU": (1, 2), "Gather": (0,)}.get(spec.op, (1,))
        weights = [w.dense() for w in spec.weights]
        attributes = dict(spec.attributes)
        if spec.op == "Gemm":
            weights = [weights[0].T]

        def run(inputs: Sequence[Any]) -> list[Any]:
            given = list(inputs)
            for slot, weight in zip(slots, weights, strict=True):
                given.insert(slot, weight)
            names = [f"i{i}" if v is not None else "" for i, v in enumerate(given)]
            outputs = [f"o{i}" for i, wanted in enumerate(spec.outputs) if wanted]
            written = [f"o{i}" if wanted else "" for i, wanted in enumerate(spec.outputs)]
            if spec.op == "Gemm":
                nodes = [helper.make_node("MatMul", names[:2], ["p"])]
                with_bias = len(names) > 2 and names[2]
                nodes.append(
                    helper.make_node("Add", ["p", "i2"], outputs)
                    if with_bias
                    else helper.make_node("Identity", ["p"], outputs)
                )
            else:
                nodes = [helper.make_node(spec.op, names, written, **attributes)]
            infos = [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in zip(names, given, strict=True)
                if n
            ]
            graph = helper.make_graph(nodes, "layer", infos, [onnx.ValueInfoProto(name=o) for o in outputs])
            model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
            results = iter(ort(model).run(None, {n: v for n, v in zip(names, given, strict=True) if n}))
            return [next(results) if wanted else None for wanted in spec.outputs]

        return Compiled(run, self.name)


class AllDense(OneByOne):
    def verdict(self, spec: LayerSpec) -> Any:
        class Verdict:
            dense, why = True, "a test says so"

        return Verdict()


def ort(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def execute(artifact: onnx.ModelProto, backend: Any = None) -> Executor:
    return Executor(load_model(artifact.SerializeToString()), Tensors(None), backend or OneByOne())


def model(text: str, ir: int = 8, opset: int = 17, **weights: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A model from ONNX text, with initializers; those called ``body_...`` go into every body that reads them."""
    parsed = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {text}')
    for name, array in weights.items():
        tensor = numpy_helper.from_array(array, name)
        if name.startswith("body_"):
            for node in parsed.graph.node:
                for _, body in bodies_of(node):
                    if any(name in n.input for n in body.node):
                        body.initializer.append(tensor)
        else:
            parsed.graph.initializer.append(tensor)
    return parsed


def f32(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def assert_agrees(parsed: onnx.ModelProto, *cases: Feeds, layers: int | None = None) -> Executor:
    """The artifact gives what ONNX Runtime gives for the dense model; returns its executor."""
    dense, artifact = compress(parsed)
    found = len(list(eie_nodes(artifact)))
    assert found == layers if layers is not None else found > 0
    reference, executor = ort(dense), execute(artifact)
    for feeds in cases:
        expected = reference.run(None, dict(feeds))
        got = executor.program.run(feeds)
        assert_same(got, expected)
    return executor


def assert_same(got: Sequence[Any], expected: Sequence[Any]) -> None:
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        if isinstance(e, list):
            assert_same(g, e)
        else:
            assert g.dtype == e.dtype
            assert g.shape == e.shape
            if e.dtype.kind == "f":
                np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(g, e)


def segments(executor: Executor) -> int:
    return sum(isinstance(s, Segment) for s in executor.program.steps)
