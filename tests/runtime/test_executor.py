"""The executor against ONNX Runtime: a model with dense weights, and the same model with its layers compressed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from eie.runtime import format as container
from eie.runtime.artifact import eie_nodes
from eie.runtime.backends.base import LayerSpec, Run
from eie.runtime.errors import InputError, ModelError
from eie.runtime.executor import Executor
from eie.runtime.modelfile import bodies_of, load_model
from eie.runtime.operators import DOMAIN
from eie.runtime.partition import schedule
from eie.runtime.program import LayerStep
from eie.runtime.segments import Segment
from eie.runtime.tensors import Tensors
from eie.runtime.weight import Weight

Feeds = Mapping[str, Any]

# -- an artifact from any model, by brute force ----------------------------------------------------------------------


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

    def __init__(self) -> None:
        self.specs: list[LayerSpec] = []

    def compile(self, spec: LayerSpec) -> Run:
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

        return run


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


# -- partition ---------------------------------------------------------------------------------------------------------


def check_schedule(reads: list[set[str]], writes: list[list[str]], barriers: list[bool]) -> int:
    pieces = schedule(reads, writes, barriers)
    seen: set[int] = set()
    producer = {t: i for i, names in enumerate(writes) for t in names}
    for piece in pieces:
        assert len(piece.nodes) == 1 or not piece.barrier
        for node in piece.nodes:
            assert barriers[node] == piece.barrier
            assert all(producer[t] in seen for t in reads[node] if t in producer)
            seen.add(node)
    assert seen == set(range(len(reads)))
    return sum(not p.barrier for p in pieces)


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 30), max_size=3)), max_size=25))
@settings(max_examples=60, deadline=None)
def test_schedule_is_valid_and_minimal(nodes: list[tuple[bool, list[int]]]) -> None:
    barriers = [b for b, _ in nodes]
    sources = [{s % i for s in wants} if i else set() for i, (_, wants) in enumerate(nodes)]
    reads = [{f"t{s}" for s in here} for here in sources]
    count = check_schedule(reads, [[f"t{i}"] for i in range(len(nodes))], barriers)
    best: list[int] = []  # runs of plain nodes on the path to here that has the most
    for i, here in enumerate(sources):
        before = [best[s] + (not barriers[i] and barriers[s]) for s in here]
        best.append(max([*before, int(not barriers[i])]))
    assert count == max(best, default=0)


def test_schedule_merges_across_independent_barriers() -> None:
    # p1 -> barrier ; barrier -> p2: both plain nodes fit one piece
    assert check_schedule([{"x"}, {"a"}, {"x"}, {"c"}], [["a"], ["b"], ["c"], ["d"]], [False, True, True, False]) == 1


def test_schedule_takes_nodes_in_any_order() -> None:
    assert check_schedule([{"b"}, {"a"}, {"x"}], [["c"], ["b"], ["a"]], [False, True, False]) == 2


@pytest.mark.parametrize("reads", [[{"b"}, {"a"}], [{"a"}, {"x"}]])
def test_schedule_refuses_cycles(reads: list[set[str]]) -> None:
    with pytest.raises(ModelError, match="cycle"):
        schedule(reads, [["a"], ["b"]], [False, True])


def test_schedule_refuses_two_writers() -> None:
    with pytest.raises(ModelError, match="two nodes"):
        schedule([{"x"}, {"x"}], [["a"], ["a"]], [False, False])


# -- each operator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_gemm(shape: tuple[int, ...]) -> None:
    dims = ", ".join("N" for _ in shape[:-1]) + (", 5" if shape[1:] else "5")
    assert_agrees(
        model(
            f"g (float[{dims}] x) => (float[...] y) {{ h = MatMul(x, w) y = Relu(h) }}".replace("float[...]", "float"),
            w=f32(5, 4),
        ),
        {"x": f32(*shape)},
    )


def test_gemm_with_bias() -> None:
    assert_agrees(
        model("g (float[N,5] x) => (float[N,4] y) { y = Gemm<transB=1>(x, w, b) }", w=f32(4, 5), b=f32(4)),
        {"x": f32(3, 5)},
        {"x": f32(1, 5)},
    )


def test_conv_between_standard_operators() -> None:
    executor = assert_agrees(
        model(
            """g (float[N,3,H,W] x) => (float[N,6,A,B] y) {
            n = Neg(x) c = Conv<pads=[1,1,1,1], strides=[2,1]>(n, w, b)
                r = Relu(c) d = Conv<group=2>(r, v) y = Sigmoid(d) }""",
            w=f32(4, 3, 3, 3),
            b=f32(4),
            v=f32(6, 2, 1, 1),
        ),
        {"x": f32(2, 3, 9, 8)},
        {"x": f32(1, 3, 5, 5)},
    )
    assert segments(executor) == 3


def test_conv_transpose() -> None:
    assert_agrees(
        model(
            "g (float[N,3,L] x) => (float[N,2,M] y) { y = ConvTranspose<strides=[2], output_padding=[1]>(x, w, b) }",
            w=f32(3, 2, 3),
            b=f32(2),
        ),
        {"x": f32(2, 3, 7)},
    )


@pytest.mark.parametrize("direction, d", [("forward", 1), ("reverse", 1), ("bidirectional", 2)])
def test_lstm_with_optional_inputs_and_outputs(direction: str, d: int) -> None:
    text = f"""g (float[T,N,3] x, int32[N] lengths, float[{d},N,4] h) => (float[T,{d},N,4] y, float[{d},N,4] c) {{
        y, , c = LSTM<hidden_size=4, direction="{direction}">(x, w, r, , lengths, h) }}"""
    assert_agrees(
        model(text, w=f32(d, 16, 3), r=f32(d, 16, 4)),
        {"x": f32(5, 2, 3), "lengths": np.array([5, 3], np.int32), "h": f32(d, 2, 4)},
    )


def test_gru() -> None:
    text = """g (float[T,N,3] x) => (float[1,N,4] z) { _y, h = GRU<hidden_size=4>(x, w, r, b) z = Neg(h) }"""
    assert_agrees(model(text, w=f32(1, 12, 3), r=f32(1, 12, 4), b=f32(1, 24)), {"x": f32(5, 2, 3)})


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_gather(kind: str) -> None:
    assert_agrees(
        model(f"g ({kind}[N,M] i) => (float[N,M,4] y) {{ e = Gather(w, i) y = Neg(e) }}", w=f32(10, 4)),
        {"i": np.array([[1, -1, 9], [0, 3, 3]], kind)},
    )


def test_decode_becomes_a_constant() -> None:
    weight = round_weight(f32(4, 6))
    payload = np.frombuffer(container.encode(weight), np.uint8)
    graph = parser.parse_graph("g (float[N,6] x) => (float[N,4] y) { d = Identity(p) y = MatMul(x, d) }")
    decode = helper.make_node("Decode", ["p"], ["d"], domain=DOMAIN, transpose=1)
    graph.node[0].CopyFrom(decode)
    graph.initializer.append(numpy_helper.from_array(payload, "p"))
    artifact = helper.make_model(
        graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    )
    executor = execute(artifact)
    x = f32(3, 6)
    got = executor.program.run({"x": x})[0]
    np.testing.assert_allclose(got, x @ weight.dense().T, rtol=1e-5, atol=1e-5)
    assert segments(executor) == len(executor.program.steps) == 1
    assert executor.layers[0].kernel == "dense"


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_residuals_and_independent_work_share_segments() -> None:
    text = """g (float[N,4] x) => (float[N,4] y, int64[2] s) {
        h = MatMul(x, w) r = Relu(h) k = MatMul(r, w) n = Neg(x) m = Add(k, n) y = Tanh(m) s = Shape(x) }"""
    executor = assert_agrees(model(text, w=f32(4, 4)), {"x": f32(3, 4)})
    assert segments(executor) == 2


def test_shared_payload_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, artifact = compress(
        model("g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) y = MatMul(h, w) }", w=f32(4, 4))
    )
    calls = []
    decode = container.decode
    monkeypatch.setattr(container, "decode", lambda b: calls.append(b) or decode(b))
    backend = OneByOne()
    execute(artifact, backend)
    assert len(calls) == 1
    assert backend.specs[0].weights[0] is backend.specs[1].weights[0]


def test_weights_are_let_go_once_packed() -> None:
    held: list[weakref.ref[Weight]] = []

    class Packing:
        name = "packing"

        def compile(self, spec: LayerSpec) -> Run:
            held.append(weakref.ref(spec.weights[0]))
            packed = spec.weights[0].dense().T
            return lambda inputs: [inputs[0] @ packed]

    _, artifact = compress(
        model("g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) y = MatMul(h, w) }", w=f32(4, 4))
    )
    executor = execute(artifact, Packing())
    gc.collect()
    assert [r() for r in held] == [None, None]
    assert executor.program.run({"x": f32(2, 4)})[0].shape == (2, 4)


def test_outputs_of_every_kind() -> None:
    """An input, a constant, a layer's output and the same output twice, as graph outputs."""
    text = """g (float[N,4] x) => (float[N,4] h, float[N,4] y, float[2] c, float[N,4] x)
        { h = MatMul(x, w) y = Neg(h) }"""
    parsed = model(text, w=f32(4, 4), c=f32(2))
    executor = assert_agrees(parsed, {"x": f32(3, 4)})
    got = executor.program.run({"x": f32(3, 4)}, outputs=("c", "h", "h"))
    assert [g.shape for g in got] == [(2,), (3, 4), (3, 4)]


def test_only_what_is_asked_for_runs() -> None:
    text = (
        "g (float[N,4] x) => (float[N,4] a, float[N,4] b) { h = MatMul(x, w) a = Neg(h) k = MatMul(a, v) b = Abs(k) }"
    )
    _, artifact = compress(model(text, w=f32(4, 4), v=f32(4, 4, seed=1)))
    ran: list[str] = []

    class Noted(OneByOne):
        def compile(self, spec: LayerSpec) -> Run:
            run = super().compile(spec)
            return lambda inputs: ran.append(spec.name) or run(inputs)  # type: ignore[func-returns-value]

    execute(artifact, Noted()).program.run({"x": f32(2, 4)}, outputs=("a",))
    assert ran == ["h"]


def test_sequences_strings_and_bfloat16_cross_segments() -> None:
    text = """g (float[N,4] x, string[N] s, seq(float) q) => (float[N,4] y, string[N] t, seq(float) z, float[N,4] f) {
        n = Neg(x) b = Cast<to=16>(n) p = SequenceConstruct(n, x)
        h = MatMul(n, w) r = Relu(h)
        k = MatMul(r, w) c = Cast<to=16>(k) m = Cast<to=1>(b) f = Cast<to=1>(c)
        y = Add(k, m) t = Identity(s) o = SequenceInsert(p, y) z = Identity(o) }"""
    parsed = model(text, w=f32(4, 4))
    assert_agrees(parsed, {"x": f32(3, 4), "s": np.array(["a", "b", "c"], object), "q": [f32(2)]})


def test_large_constants_are_shared_by_segments() -> None:
    text = """g (float[N,64] x) => (float[N,64] y) {
        a = Add(x, c) h = MatMul(a, w) r = Add(h, c) k = MatMul(r, w) y = Add(k, c) }"""
    parsed = model(text, w=f32(64, 64), c=f32(64, 64))
    assert_agrees(parsed, {"x": f32(64, 64)})


def test_nodes_in_the_wrong_order() -> None:
    parsed = model("g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }", w=f32(4, 4))
    nodes = list(parsed.graph.node)[::-1]
    _, artifact = compress(parsed)
    expected = execute(artifact).program.run({"x": f32(3, 4)})
    turned = [onnx.NodeProto.FromString(n.SerializeToString()) for n in artifact.graph.node][::-1]
    del artifact.graph.node[:]
    artifact.graph.node.extend(turned)
    assert len(nodes) == 3
    assert_same(execute(artifact).program.run({"x": f32(3, 4)}), expected)


@pytest.mark.parametrize("ir", [3, 8])
def test_initializers_that_are_inputs(ir: int) -> None:
    text = "g (float[N,4] x, float[4] c) => (float[N,4] y) { h = MatMul(x, w) y = Add(h, c) }"
    parsed = model(text, ir=ir, w=f32(4, 4), c=f32(4))
    if ir == 3:
        parsed.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 4]))
    dense, artifact = compress(parsed)
    if ir == 3:
        artifact.graph.input.append(helper.make_tensor_value_info("w.t", 2, None))
    executor = execute(artifact)
    assert_same(executor.program.run({"x": f32(3, 4)}), ort(dense).run(None, {"x": f32(3, 4)}))
    if ir == 8:
        other = {"x": f32(3, 4), "c": f32(4, seed=5)}
        assert_same(executor.program.run(other), ort(dense).run(None, other))


def test_functions_are_carried_and_inlined() -> None:
    plain = """<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        g (float[N,4] x) => (float[N,4] y) { a = my.twice(x) h = MatMul(a, w) y = my.twice(h) }
        <domain: "my", opset_import: ["" : 17]> twice (p) => (q) { q = Add(p, p) }"""
    parsed = parser.parse_model(plain)
    parsed.graph.initializer.append(numpy_helper.from_array(f32(4, 4), "w"))
    assert_agrees(parsed, {"x": f32(3, 4)})
    _, artifact = compress(parsed)
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(artifact)
    inner = wrapped.functions.add(name="layer", domain="my")
    inner.input.extend(["p", "w"])
    inner.output.append("q")
    inner.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    inner.node.append(helper.make_node("Gemm", ["p", "w"], ["q"], domain=DOMAIN))
    wrapped.graph.node[1].domain, wrapped.graph.node[1].op_type = "my", "layer"
    assert_same(execute(wrapped).program.run({"x": f32(3, 4)}), execute(artifact).program.run({"x": f32(3, 4)}))


def test_many_threads() -> None:
    parsed = model("g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }", w=f32(4, 4))
    dense, artifact = compress(parsed)
    executor, reference = execute(artifact), ort(dense)
    inputs = [f32(n + 1, 4) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: executor.program.run({"x": x}), inputs))
    for x, result in zip(inputs, results, strict=True):
        assert_same(result, reference.run(None, {"x": x}))


# -- control flow ------------------------------------------------------------------------------------------------------

IF = """g (float[N,4] x, bool c) => (float[N,4] y) {
    a = Neg(x)
    h = If (c) <
        then_branch = t () => (float[N,4] p) { m = MatMul(a, w) p = Add(m, d) },
        else_branch = e () => (float[N,4] q) { q = Add(a, x) }>
    y = Tanh(h) }"""


def test_if_with_captures() -> None:
    for c in (True, False):
        executor = assert_agrees(model(IF, w=f32(4, 4), d=f32(4)), {"x": f32(3, 4), "c": np.array(c)}, layers=1)
    assert segments(executor) == 2


def test_if_whose_bodies_hold_the_weights() -> None:
    assert_agrees(
        model(IF.replace("w)", "body_w)"), body_w=f32(4, 4), d=f32(4)),
        {"x": f32(3, 4), "c": np.array([True])},
        layers=1,
    )


LOOP = """g (float[N,4] x, int64 n, bool c) => (float[N,4] y, float[K,N,4] all, int64[K] counts) {
    a = Neg(x)
    last, all, counts = Loop
        (n, c, a) <body = b (int64 i, bool ci, float[N,4] s) => (bool co, float[N,4] t, float[N,4] u, int64 j) {
        m = MatMul(s, w) t = Add(m, x) u = Neg(t) j = Identity(i) z = ReduceSum<keepdims=0>(t) co = Less(z, limit) }>
    y = Tanh(last) }"""


@pytest.mark.parametrize("n, c", [(4, True), (0, True), (3, False), (100, True)])
def test_loop(n: int, c: bool) -> None:
    parsed = model(LOOP, w=f32(4, 4) / 8, limit=np.float32(3.5))
    assert_agrees(parsed, {"x": f32(3, 4) / 4, "n": np.array(min(n, 30)), "c": np.array(c)}, layers=1)


@pytest.mark.parametrize("inputs", ["(n, , a)", "( , c, a)", "( , , a)"])
def test_loop_without_count_or_condition(inputs: str) -> None:
    text = LOOP.replace("(n, c, a)", inputs).replace("Less(z, limit)", "Less(i, limit)")
    assert_agrees(
        model(text, w=f32(4, 4) / 8, limit=np.array(3)),
        {"x": f32(3, 4), "n": np.array(5), "c": np.array(True)},
        layers=1,
    )


def test_loop_of_growing_shape_and_sequence() -> None:
    text = """g (float[N,4] x) => (float[M,4] y, seq(float) z) {
        n = Constant<value_int=3>() s0 = SequenceEmpty<dtype=1>()
        y, z = Loop
            (n, , x, s0) <body = b (int64 i, bool ci, float[P,4] s, seq(float) q)
            => (bool co, float[Q,4] t, seq(float) v) {
            m = MatMul(s, w) t = Concat<axis=0>(m, s) v = SequenceInsert(q, m) co = Identity(ci) }> }"""
    assert_agrees(model(text, w=f32(4, 4)), {"x": f32(1, 4)}, layers=1)


SCAN = """g (float[2,3] h, float[5,2,3] x, float[2,5,3] v) => (float[2,3] y, float[A,B,C] all) {
    y, all = Scan <num_scan_inputs=2, scan_input_axes=[0,1], scan_input_directions=[0,1], scan_output_axes=[-1],
        scan_output_directions=[1],
            body = b (float[2,3] s, float[2,3] p, float[2,3] q) => (float[2,3] t, float[2,3] u) {
            m = MatMul(s, w) o = Add(m, p) t = Sub(o, q) u = Identity(t) }> (h, x, v) }"""


def test_scan() -> None:
    assert_agrees(model(SCAN, w=f32(3, 3)), {"h": f32(2, 3), "x": f32(5, 2, 3), "v": f32(2, 5, 3)}, layers=1)


def test_control_flow_inside_control_flow() -> None:
    text = """g (float[N,4] x, bool c) => (float[N,4] y) {
        k = Constant<value_int=2>()
        y = Loop (k, c, x) <body = b (int64 i, bool ci, float[N,4] s) => (bool co, float[N,4] t) {
            f = Identity(s) odd = Cast<to=9>(i)
            t = If (odd) <then_branch = p () => (float[N,4] a) { m = MatMul(f, w) a = Add(m, x) },
                          else_branch = q () => (float[N,4] e) { e = MatMul(s, v) }>
            co = Identity(ci) }> }"""
    assert_agrees(model(text, w=f32(4, 4), v=f32(4, 4, seed=3)), {"x": f32(3, 4), "c": np.array(True)}, layers=2)


def test_bodies_without_layers_stay_whole() -> None:
    text = IF.replace("m = MatMul(a, w) p = Add(m, d)", "p = Add(a, d)").replace("y = Tanh(h)", "y = MatMul(h, w)")
    executor = assert_agrees(model(text, w=f32(4, 4), d=f32(4)), {"x": f32(3, 4), "c": np.array(True)}, layers=1)
    assert segments(executor) == 1
    assert sum(isinstance(s, LayerStep) for s in executor.program.steps) == 1


def test_old_scan_is_refused() -> None:
    _, artifact = compress(model(SCAN, w=f32(3, 3)))
    for entry in artifact.opset_import:
        if not entry.domain:
            entry.version = 8
    with pytest.raises(ModelError, match="opset 9"):
        execute(artifact)


# -- dense where dense is faster ---------------------------------------------------------------------------------------


class AllDense(OneByOne):
    def verdict(self, spec: LayerSpec) -> Any:
        class Verdict:
            dense, why = True, "a test says so"

        return Verdict()


@pytest.mark.parametrize(
    "parsed, feeds",
    [
        (
            model(
                "g (float[N,5] x) => (float[N,4] y) { n = Neg(x) h = Gemm<transB=1>(n, w, b) y = Relu(h) }",
                w=f32(4, 5),
                b=f32(4),
            ),
            {"x": f32(3, 5)},
        ),
        (
            model(
                "g (float[N,3,L] x) => (float[N,4,M] y) "
                "{ h = Conv<strides=[2]>(x, w) y = ConvTranspose<pads=[1,1]>(h, v) }",
                w=f32(4, 3, 3),
                v=f32(4, 4, 3),
            ),
            {"x": f32(2, 3, 9)},
        ),
        (model(IF, w=f32(4, 4), d=f32(4)), {"x": f32(3, 4), "c": np.array(True)}),
        (
            model(IF.replace("w)", "body_w)"), body_w=f32(40, 4, seed=1)[:4], d=f32(4)),
            {"x": f32(3, 4), "c": np.array(True)},
        ),
    ],
)
def test_dense_layers_join_their_segment(parsed: onnx.ModelProto, feeds: Feeds) -> None:
    dense, artifact = compress(parsed)
    executor = execute(artifact, AllDense())
    assert segments(executor) == len(executor.program.steps) == 1
    assert {(r.kernel, r.why) for r in executor.layers} == {("dense", "a test says so")}
    assert_same(executor.program.run(feeds), ort(dense).run(None, dict(feeds)))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def artifact_of(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    _, artifact = compress(
        model("g (float[N,4] x) => (float[N,4] y) { a = Neg(x) h = MatMul(a, w) y = Relu(h) }", w=f32(4, 4))
    )
    change(artifact)
    return artifact


def test_a_failing_segment_names_its_node() -> None:
    text = "g (float[N,4] x, float[M,4] z) => (float[N,4] y) { h = MatMul(x, w) y = Add(h, z) }"
    _, artifact = compress(model(text, w=f32(4, 4)))
    artifact.graph.node[1].name = "the sum"
    executor = execute(artifact)
    with pytest.raises(InputError, match="the sum"):
        executor.program.run({"x": f32(3, 4), "z": f32(2, 4)})


def test_unknown_operator_names_its_node() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.node[0].op_type, m.graph.node[0].name = "Nagg", "first"

    with pytest.raises(ModelError, match="first"):
        execute(artifact_of(change))


def test_a_tensor_nobody_writes() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.node[0].input[0] = "nowhere"

    with pytest.raises(ModelError, match="nowhere"):
        execute(artifact_of(change))


def test_bodies_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="do not fit"):
        execute(compress(model(IF.replace("t () =>", "t (float[N,4] z) =>"), w=f32(4, 4), d=f32(4)))[1])
    text = LOOP.replace("t = Add(m, x) u = Neg(t)", "t = Shape(m) u = Neg(m)").replace("(t)", "(m)")
    with pytest.raises(ModelError, match=r"takes tensor\(float\) and hands back tensor\(int64\)"):
        execute(compress(model(text, w=f32(4, 4), limit=np.float32(1)))[1])


def test_a_written_initializer() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.initializer.append(numpy_helper.from_array(f32(4), "h"))

    with pytest.raises(ModelError, match="initializer, and written"):
        execute(artifact_of(change))


def test_a_function_that_calls_itself() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.opset_import.append(helper.make_opsetid("my", 1))
        f = m.functions.add(name="f", domain="my", input=["p", "w"], output=["q"])
        f.opset_import.extend([helper.make_opsetid(DOMAIN, 1), helper.make_opsetid("my", 1)])
        f.node.append(helper.make_node("Gemm", ["p", "w"], ["r"], domain=DOMAIN))
        f.node.append(helper.make_node("f", ["r", "w"], ["q"], domain="my"))
        m.graph.node[1].domain, m.graph.node[1].op_type = "my", "f"

    with pytest.raises(ModelError, match="calls itself"):
        execute(artifact_of(change))


def test_a_cycle() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.node[0].input[0] = "y"

    with pytest.raises(ModelError, match="cycle"):
        execute(artifact_of(change))
