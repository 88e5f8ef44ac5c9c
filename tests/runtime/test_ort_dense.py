"""Layers that are hardly sparse, inside ONNX Runtime: its own operators run them, where that means the same."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from eie.runtime import Session, Weight, custom_op_library
from eie.runtime import format as container
from eie.runtime.backends import ort as backend

STATE = ort.capi.onnxruntime_pybind11_state
RNG = np.random.default_rng(5)
Array = np.ndarray[Any, Any]


def weight(*shape: int, density: float = 1.0) -> Weight:
    """One that keeps all but its last value, or the share given; of 13 values."""
    codes = RNG.integers(1, 13, shape).astype(np.uint8)
    codes[RNG.random(shape) >= density] = 0
    codes[(-1,) * len(shape)] = 0
    return Weight(codes, np.concatenate([[0], RNG.standard_normal(12)]).astype(np.float32))


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def build(text: str, constants: dict[str, Array | Weight], *, compressed: bool = True) -> bytes:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "ai.eie" : 1]> g {text}')
    for name, value in constants.items():
        if isinstance(value, Weight):
            value = np.frombuffer(container.encode(value), np.uint8) if compressed else value.dense()
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model.SerializeToString()


def options(dense: str = "auto", threads: int = 1, activations: str = "f32") -> ort.SessionOptions:
    made = ort.SessionOptions()
    made.log_severity_level = 4
    made.intra_op_num_threads = threads
    made.add_session_config_entry(backend.DENSE, dense)
    made.add_session_config_entry(backend.OPTION, activations)
    made.register_custom_ops_library(custom_op_library())
    return made


def opened(model: bytes, made: ort.SessionOptions | None = None) -> ort.InferenceSession:
    return ort.InferenceSession(model, made or options(), providers=["CPUExecutionProvider"])


def standard(text: str) -> str:
    return text.replace("ai.eie.Gemm(", "Gemm<transB=1>(").replace("ai.eie.", "")


@dataclass
class Case:
    """A layer with many weights; ``dense``: whether ONNX Runtime's own operator may run it."""

    text: str
    weight: Weight
    x: Array
    standard: str = ""
    dense: bool = True

    def __post_init__(self) -> None:
        self.bias = floats(self.weight.shape[0] if "Transpose" not in self.text else 64)

    def poisoned(self) -> bytes:
        """The model with no negative weight."""
        return build(self.text, {"w": Weight(self.weight.codes, np.abs(self.weight.codebook)), "b": self.bias})

    def infinities(self) -> Array:
        """An input that is infinite where the weight that is zero meets it: no number, but the packed form never looks."""
        x = np.zeros_like(self.x)
        x[(slice(None), -1) if x.ndim > 3 or "Conv" in self.text else (..., -1)] = np.inf
        return x

    def model(self, *, compressed: bool = True) -> bytes:
        text = self.text if compressed else self.standard or standard(self.text)
        return build(text, {"w": self.weight, "b": self.bias}, compressed=compressed)


IMAGE, KERNEL = "(float[N,64,H,V] x) => (float[] y)", weight(64, 64, 3, 3)
X = floats(2, 64, 7, 6)
CASES = {
    "gemm": Case("(float[N,64] x) => (float[] y) { y = ai.eie.Gemm(x, w, b) }", weight(48, 64), floats(3, 64)),
    "gemm, no bias": Case("(float[N,64] x) => (float[] y) { y = ai.eie.Gemm(x, w) }", weight(48, 64), floats(3, 64)),
    "gemm, three dimensions": Case(
        "(float[A,B,64] x) => (float[] y) { y = ai.eie.Gemm(x, w, b) }", weight(48, 64), floats(2, 3, 64),
        "(float[A,B,64] x) => (float[] y) { t = Transpose(w) m = MatMul(x, t) y = Add(m, b) }"),
    "gemm, a vector": Case("(float[64] x) => (float[] y) { y = ai.eie.Gemm(x, w, b) }", weight(48, 64), floats(64),
                           "(float[64] x) => (float[] y) { m = MatMul(w, x) y = Add(m, b) }"),
    "one place": Case(f"{IMAGE} {{ y = ai.eie.Conv(x, w, b) }}", weight(64, 64, 1, 1), X),
    "one place, strides": Case(f"{IMAGE} {{ y = ai.eie.Conv<strides=[2,3]>(x, w) }}", weight(64, 64, 1, 1), X),
    "pads": Case(f"{IMAGE} {{ y = ai.eie.Conv<pads=[1,0,2,1], strides=[2,1], dilations=[1,2]>(x, w, b) }}", KERNEL, X),
    "groups": Case(f"{IMAGE} {{ y = ai.eie.Conv<group=2>(x, w, b) }}", weight(128, 32, 3, 3), X),
    "same, upper": Case(f'{IMAGE} {{ y = ai.eie.Conv<auto_pad="SAME_UPPER", dilations=[1,2]>(x, w) }}', KERNEL, X,
                        f"{IMAGE} {{ y = Conv<pads=[1,2,1,2], dilations=[1,2]>(x, w) }}"),
    "same, lower": Case(f'{IMAGE} {{ y = ai.eie.Conv<auto_pad="SAME_LOWER">(x, w) }}', weight(64, 64, 2, 4), X),
    "same, upper, strides": Case(f'{IMAGE} {{ y = ai.eie.Conv<auto_pad="SAME_UPPER", strides=[2,3]>(x, w) }}', KERNEL, X),
    "same, lower, strides": Case(f'{IMAGE} {{ y = ai.eie.Conv<auto_pad="SAME_LOWER", strides=[3,2]>(x, w) }}', KERNEL, X),
    "valid": Case(f'{IMAGE} {{ y = ai.eie.Conv<auto_pad="VALID", pads=[1,1,1,1]>(x, w, b) }}', KERNEL, X,
                  f"{IMAGE} {{ y = Conv(x, w, b) }}"),
    "one dimension": Case("(float[N,64,L] x) => (float[] y) { y = ai.eie.Conv<pads=[1,1]>(x, w, b) }", weight(64, 64, 3),
                          floats(2, 64, 9)),
    "three dimensions": Case("(float[N,64,A,B,C] x) => (float[] y) { y = ai.eie.Conv<strides=[1,2,1]>(x, w, b) }",
                             weight(64, 64, 2, 2, 2), floats(1, 64, 4, 5, 3)),
    "transposed": Case(f"{IMAGE} {{ y = ai.eie.ConvTranspose<strides=[2,2], output_padding=[1,0], pads=[1,0,0,1]>(x, w, b) }}",
                       KERNEL, X),
    "transposed, groups": Case(f"{IMAGE} {{ y = ai.eie.ConvTranspose<group=2, dilations=[2,1]>(x, w, b) }}",
                               weight(64, 32, 3, 3), X),
    "in an If": Case(
        "(float[N,64] x, bool c) => (float[] y) { y = If(c) <then_branch = t () => (float[N,48] p) "
        "{ p = ai.eie.Gemm(x, w, b) }, else_branch = e () => (float[N,48] q) { g = ai.eie.Gemm(x, w) q = Neg(g) }> }",
        weight(48, 64), floats(3, 64)),
    "in a Loop": Case(
        "(float[N,64] x, int64 n) => (float[] y) { y = Loop(n, , x) <body = l (int64 i, bool ci, float[N,64] s) "
        "=> (bool co, float[N,64] t) { p = ai.eie.Gemm(s, w, b) t = Tanh(p) co = Identity(ci) }> }",
        weight(64, 64), floats(3, 64)),
    # where versions of ONNX Runtime differ, or might write past an output
    "same, dilated, strides": Case(
        f'{IMAGE} {{ y = ai.eie.Conv<auto_pad="SAME_UPPER", strides=[2,2], dilations=[2,2]>(x, w) }}', KERNEL, X,
        f"{IMAGE} {{ y = Conv<pads=[2,1,2,2], strides=[2,2], dilations=[2,2]>(x, w) }}", False),
    "same, strides longer than the kernel": Case(
        f'{IMAGE} {{ y = ai.eie.Conv<auto_pad="SAME_UPPER", strides=[3,3]>(x, w) }}', weight(64, 64, 2, 2), X,
        f"{IMAGE} {{ y = Conv<pads=[0,0,1,0], strides=[3,3]>(x, w) }}", False),
    "transposed, same": Case(f'{IMAGE} {{ y = ai.eie.ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) }}', KERNEL, X,
                             dense=False),
    "transposed, shape": Case(f"{IMAGE} {{ y = ai.eie.ConvTranspose<output_shape=[14,12], strides=[2,2]>(x, w) }}", KERNEL, X,
                              dense=False),
}  # fmt: skip
EXTRA = {"in an If": {"c": np.array(True)}, "in a Loop": {"n": np.array(2)}}
LAYERS = [name for name in CASES if name not in EXTRA]


def feeds(name: str, x: Array) -> dict[str, Array]:
    return {"x": x, **EXTRA.get(name, {})}


@pytest.mark.parametrize("parallel", [False, True], ids=["one thread", "threads"])
@pytest.mark.parametrize("name", CASES)
def test_dense_is_packed_is_the_standard_operator(name: str, parallel: bool) -> None:
    case = CASES[name]
    made = options(threads=2 if parallel else 1)
    if parallel:
        made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    sessions = [opened(case.model(), made), opened(case.model(), options("never")),
                Session(case.model(), "ort"), Session(case.model(), "cpu")]  # fmt: skip
    plain = opened(case.model(compressed=False))
    for x in (case.x, case.x[:1], case.x[:0]) if case.x.ndim > 1 else (case.x,):
        (want,) = plain.run(None, feeds(name, x))
        for session in sessions:
            (got,) = session.run(None, feeds(name, x))
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_what_runs_dense(name: str) -> None:
    case = CASES[name]
    inside, never = (opened(case.poisoned(), options(d)) for d in ("auto", "never"))
    auto, never = (s.run(None, feeds(name, case.infinities()))[0] for s in (inside, never))
    assert np.isnan(auto).any() == case.dense
    assert not np.isnan(never).any()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("activations", ["i16", "u8"])
def test_integers_are_never_dense(name: str, activations: str) -> None:
    case = CASES[name]
    auto, never = (opened(case.model(), options(d, activations=activations)) for d in ("auto", "never"))
    np.testing.assert_array_equal(auto.run(None, {"x": case.x})[0], never.run(None, {"x": case.x})[0])


def test_few_weights_and_few_channels_stay_packed() -> None:
    """A dense kernel of many places first copies its input to columns, which few channels do not pay for."""
    for shape, density in (((64, 64, 3, 3), 0.05), ((2, 64, 3, 3), 1.0)):
        case = Case(f"{IMAGE} {{ y = ai.eie.Conv(x, w) }}", weight(*shape, density=density), X)
        auto, never = (opened(case.model(), options(d)).run(None, {"x": X})[0] for d in ("auto", "never"))
        np.testing.assert_array_equal(auto, never)


@pytest.mark.parametrize("backend_name", ["cpu", "ort"])
def test_what_onnx_runtime_refuses_runs_packed(backend_name: str) -> None:
    """An output's shape the kernel does not reach."""
    model = build(f"{IMAGE} {{ y = ai.eie.ConvTranspose<output_shape=[40,40], strides=[2,2]>(x, w) }}", {"w": KERNEL})
    session = Session(model, backend_name)
    (got,), (want,) = (s.run(None, {"x": X}) for s in (session, Session(model, "reference")))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    (layer,) = session.layers()
    assert "no operator" in layer.why


def test_a_fed_payload_is_packed() -> None:
    case = CASES["gemm"]
    text = "(float[N,64] x, uint8[P] w) => (float[N,48] y) { y = ai.eie.Gemm(x, w, b) }"
    fed = {"x": case.x, "w": np.frombuffer(container.encode(case.weight), np.uint8)}
    (got,) = opened(build(text, {"b": case.bias})).run(None, fed)
    (want,) = opened(case.model(), options("never")).run(None, {"x": case.x})
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["gemm", "pads"])
def test_inputs_that_do_not_fit_fail_the_run(name: str) -> None:
    case = CASES[name]
    model = onnx.load_model_from_string(case.model())
    model.graph.input[0].type.tensor_type.ClearField("shape")
    session = opened(model.SerializeToString())
    for shape in ((2, 63), (2, 63, 7, 6), (2, 64, 1, 1)):
        with pytest.raises(STATE.InvalidArgument, match="X has the shape"):
            session.run(None, {"x": floats(*shape)})


def test_the_option_is_checked() -> None:
    for text in ("always", "never" * 9):
        made = ort.SessionOptions()
        made.add_session_config_entry(backend.DENSE, text)
        with pytest.raises(STATE.InvalidArgument, match="auto or never"):
            made.register_custom_ops_library(custom_op_library())


@pytest.mark.parametrize("name", ["gemm", "pads", "transposed", "in an If"])
def test_many_threads_share_a_session(name: str) -> None:
    case = CASES[name]
    sessions = [opened(case.model(), options(threads=2)) for _ in range(2)]
    (want,) = sessions[0].run(None, feeds(name, case.x))
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda i: sessions[i % 2].run(None, feeds(name, case.x))[0], range(64)):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    del sessions[0]
    gc.collect()
    np.testing.assert_array_equal(sessions[0].run(None, feeds(name, case.x))[0], want)


def test_sessions_leave_nothing_behind() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the memory a process has from /proc, as on Linux")
    w = weight(512, 512)
    model = build("(float[N,512] x) => (float[] y) { y = ai.eie.Gemm(x, w) }", {"w": w})
    feed = {"x": floats(1, 512)}

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(10):
        opened(model).run(None, feed)
    before = resident()
    for _ in range(60):
        opened(model).run(None, feed)
    assert resident() - before < 20 * w.size * 4


def test_session_says_what_runs_dense() -> None:
    text = (
        f"{IMAGE} {{ h = ai.eie.Conv<pads=[1,1,1,1]>(x, w) r = Relu(h) s = ai.eie.Conv(r, v) p = GlobalAveragePool(s) "
        "f = Flatten(p) d = ai.eie.Decode<transpose=1>(u) y = MatMul(f, d) }"
    )
    model = build(text, {"w": KERNEL, "v": weight(64, 64, 3, 3, density=0.04), "u": weight(10, 64)})
    session = Session(model, "ort")
    dense, packed, decoded = sorted(session.layers(), key=lambda n: "hsd".index(n.name))
    assert (dense.op, packed.op, decoded.op) == ("Conv", "Conv", "Decode")
    assert dense.kernel == decoded.kernel == "dense"
    assert "100 % kept" in dense.why
    assert dense.bytes == KERNEL.size * 4
    assert packed.kernel.startswith("conv_f32")
    assert "faster than dense" in packed.why
    (got,), (want,) = (s.run(None, {"x": X}) for s in (session, opened(model, options("never"))))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    integers = Session(model, "ort", activations="u8")
    assert [n.kernel.split("_")[1] for n in integers.layers() if n.op == "Conv"] == ["u8", "u8"]
    (got,), (want,) = (s.run(None, {"x": X}) for s in (integers, opened(model, options(activations="u8"))))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


SCRIPT = """
import sys, numpy, onnxruntime
library, *names = sys.argv[1:]
for name in names:
    for dense in ("auto", "never"):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("ai.eie.dense", dense)
        options.register_custom_ops_library(library)
        for kind in ("", ".inf"):
            session = onnxruntime.InferenceSession(name + kind + ".onnx", options, providers=["CPUExecutionProvider"])
            numpy.save(name + kind + "." + dense, session.run(None, dict(numpy.load(name + kind + ".npz")))[0])
"""


@pytest.mark.slow
def test_the_oldest_onnx_runtime(oldest_onnxruntime: Path, tmp_path: Path) -> None:
    names = [str(tmp_path / str(i)) for i in range(len(CASES))]
    for file, (name, case) in zip(names, CASES.items(), strict=True):
        Path(file + ".onnx").write_bytes(case.model())
        Path(file + ".inf.onnx").write_bytes(case.poisoned())
        np.savez(file + ".npz", **feeds(name, case.x))
        np.savez(file + ".inf.npz", **feeds(name, case.infinities()))
    command = [str(oldest_onnxruntime), "-c", SCRIPT, custom_op_library(), *names]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    for file, (name, case) in zip(names, CASES.items(), strict=True):
        (want,) = opened(case.model(compressed=False)).run(None, feeds(name, case.x))
        np.testing.assert_allclose(np.load(file + ".auto.npy"), want, rtol=1e-3, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(np.load(file + ".never.npy"), want, rtol=1e-3, atol=1e-3, err_msg=name)
        if (
            name in LAYERS
        ):  # it does not show constants from outside to the layers of a body: they are packed at the first run
            assert np.isnan(np.load(file + ".inf.auto.npy")).any() == case.dense, name
