"""The executor against ONNX Runtime: a model with dense weights, and the same model with its layers compressed."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from artifacts import (
    IF,
    AllDense,
    Feeds,
    OneByOne,
    assert_agrees,
    assert_same,
    compress,
    execute,
    f32,
    model,
    ort,
    round_weight,
    segments,
)
from eie.runtime import format as container
from eie.runtime.backends.base import Compiled, LayerSpec
from eie.runtime.errors import ModelError
from eie.runtime.operators import DOMAIN
from eie.runtime.partition import schedule
from eie.runtime.weight import Weight

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

        def compile(self, spec: LayerSpec) -> Compiled:
            held.append(weakref.ref(spec.weights[0]))
            packed = spec.weights[0].dense().T
            return Compiled(lambda inputs: [inputs[0] @ packed], self.name)

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
        def compile(self, spec: LayerSpec) -> Compiled:
            run = super().compile(spec).run
            return Compiled(lambda inputs: ran.append(spec.name) or run(inputs), self.name)  # type: ignore[func-returns-value]

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


# -- dense where dense is faster ---------------------------------------------------------------------------------------


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
