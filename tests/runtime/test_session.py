"""Session: what it accepts, what it says, and what it makes of damaged or hostile files."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

import eie.runtime
from eie.runtime import Session, Weight
from eie.runtime import format as container
from eie.runtime.artifact import eie_nodes, payloads, specs
from eie.runtime.errors import FormatError, InputError, ModelError, UserError
from eie.runtime.modelfile import load_model
from eie.runtime.operators import DOMAIN

RNG = np.random.default_rng(7)
BACKENDS = ["reference", "cpu", "ort"]


def weight(*shape: int, values: int = 13) -> Weight:
    codes = RNG.integers(0, values, shape).astype(np.uint8)
    codes[RNG.random(shape) < 0.5] = 0
    book = np.concatenate([[0], RNG.standard_normal(values - 1)]).astype(np.float32)
    return Weight(codes, book)


def payload(name: str, held: Weight) -> onnx.TensorProto:
    return numpy_helper.from_array(np.frombuffer(container.encode(held), np.uint8), name)


def artifact(text: str, *initializers: onnx.TensorProto, ir: int = 8) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : 17, "{DOMAIN}" : 1]> {text}')
    model.graph.initializer.extend(initializers)
    return model


def array(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


W = weight(6, 5)
PLAIN = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,5] x) => (float[N,5] y) { y = Neg(x) }'


def small(activations: str = "f32") -> onnx.ModelProto:
    """Standard, compressed, standard; a bias; two outputs."""
    return artifact(
        f"""g (float[N,5] x, int64[M] k) => (float[N,6] y, float[N,6] h) {{
        a = Neg(x) h = ai.eie.Gemm<activations="{activations}">(a, w, b) e = ReduceSum<keepdims=0>(k)
        f = Cast<to=1>(e) y = Mul(h, f) }}""",
        payload("w", W),
        array("b", 6),
    )


def x(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


FEEDS = {"x": x(3, 5), "k": np.array([1, 1])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.eie.onnx"
    onnx.save(small(), file)
    return file


# -- the same as ONNX Runtime ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_takes_the_place_of_an_inference_session(path: Path, backend: str) -> None:
    session = Session(path, backend)
    b = numpy_helper.to_array(small().graph.initializer[1]).shape
    assert b == (6,)
    assert [(a.name, a.type, a.shape) for a in session.get_inputs()] == [
        ("x", "tensor(float)", ["N", 5]),
        ("k", "tensor(int64)", ["M"]),
    ]
    assert [(a.name, a.type, a.shape) for a in session.get_outputs()] == [
        ("y", "tensor(float)", ["N", 6]),
        ("h", "tensor(float)", ["N", 6]),
    ]
    y, h = session.run(None, FEEDS)
    bias = numpy_helper.to_array(next(t for t in onnx.load(path).graph.initializer if t.name == "b"))
    expected = -FEEDS["x"] @ W.dense().T + bias
    np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y, expected * 2, rtol=1e-4, atol=1e-4)
    again = session.run(["h", "y", "h"], FEEDS)
    np.testing.assert_array_equal(again[0], h)
    np.testing.assert_array_equal(again[1], y)
    np.testing.assert_array_equal(again[2], h)
    assert session.backend == backend
    assert session.activations == "f32"


@pytest.mark.parametrize("backend", BACKENDS)
def test_path_string_and_bytes(path: Path, backend: str) -> None:
    first = Session(path, backend).run(None, FEEDS)
    for source in (str(path), path.read_bytes()):
        for a, b in zip(Session(source, backend).run(None, FEEDS), first, strict=True):
            np.testing.assert_array_equal(a, b)


CASES: dict[str, Callable[[str], tuple[onnx.ModelProto, dict[str, Any]]]] = {
    "gemm": lambda a: (small(a), FEEDS),
    "conv": lambda a: (
        artifact(
            f"""g (float[N,4,H,V] x) => (float[N,6,A,B] y) {{
            r = Relu(x) c = ai.eie.Conv<activations="{a}", pads=[1,1,1,1], group=2>(r, w, b) y = Tanh(c) }}""",
            payload("w", weight(6, 2, 3, 3)),
            array("b", 6),
        ),
        {"x": x(2, 4, 7, 6)},
    ),
    "conv-transpose": lambda a: (
        artifact(
            f"""g (float[N,4,L] x) => (float[N,3,M] y) {{
            y = ai.eie.ConvTranspose<activations="{a}", strides=[2]>(x, w) }}""",
            payload("w", weight(4, 3, 3)),
        ),
        {"x": x(2, 4, 7)},
    ),
    "lstm": lambda a: (
        artifact(
            f"""g (float[T,N,3] x, float[2,N,4] h) => (float[T,2,N,4] y, float[2,N,4] c) {{
            y, , c = ai.eie.LSTM<activations="{a}", hidden_size=4, direction="bidirectional">(x, w, r, b, , h) }}""",
            payload("w", weight(2, 16, 3)),
            payload("r", weight(2, 16, 4)),
            array("b", 2, 32),
        ),
        {"x": x(5, 2, 3), "h": x(2, 2, 4)},
    ),
    "gru": lambda a: (
        artifact(
            f"""g (float[T,N,3] x) => (float[1,N,4] h) {{
            , h = ai.eie.GRU<activations="{a}", hidden_size=4, linear_before_reset=1>(x, w, r) }}""",
            payload("w", weight(1, 12, 3)),
            payload("r", weight(1, 12, 4)),
        ),
        {"x": x(5, 2, 3)},
    ),
    "shared, in a loop": lambda a: (
        artifact(
            f"""g (float[N,5] x, int64 n) => (float[N,5] y, float[n,N,5] all) {{
            y, all = Loop
                (n, , x) <body = b (int64 i, bool ci, float[N,5] s) => (bool co, float[N,5] t, float[N,5] u) {{
                p = ai.eie.Gemm<activations="{a}">(s, w) t = Tanh(p)
                    u = ai.eie.Gemm<activations="{a}">(t, w) co = Identity(ci) }}> }}""",
            payload("w", weight(5, 5)),
        ),
        {"x": x(2, 5), "n": np.array(3)},
    ),
}


@pytest.mark.parametrize("activations", ["i16", "u8"])
@pytest.mark.parametrize("case", CASES)
def test_integer_formats_are_bit_equal_on_every_backend(case: str, activations: str) -> None:
    model, feeds = CASES[case](activations)
    content = model.SerializeToString()
    expected = Session(content, "reference").run(None, feeds)
    for backend in ("cpu", "ort"):
        session = Session(content, backend)
        assert session.activations == activations
        for got, want in zip(session.run(None, feeds), expected, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_floats_agree(case: str, backend: str) -> None:
    model, feeds = CASES[case]("f32")
    content = model.SerializeToString()
    for got, want in zip(
        Session(content, backend).run(None, feeds), Session(content, "reference").run(None, feeds), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_activations_override_the_artifact(path: Path, backend: str) -> None:
    overridden = Session(path, backend, activations="i16")
    assert overridden.activations == "i16"
    content = small("i16")
    content.graph.initializer[1].CopyFrom(next(t for t in onnx.load(path).graph.initializer if t.name == "b"))
    for got, want in zip(
        overridden.run(None, FEEDS), Session(content.SerializeToString(), backend).run(None, FEEDS), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_layers_say_what_runs_and_why(path: Path) -> None:
    for backend in BACKENDS:
        (layer,) = Session(path, backend).layers()
        assert (layer.name, layer.op) == ("h", "Gemm")
        assert layer.kernel
        assert layer.why


def test_threads_share_a_session(path: Path) -> None:
    session = Session(path, "cpu", threads=2)
    inputs = [x(n + 1, 5) for n in range(8)]
    alone = [session.run(["h"], {**FEEDS, "x": i})[0] for i in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: session.run(["h"], {**FEEDS, "x": i})[0], inputs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


# -- plain models ------------------------------------------------------------------------------------------------------


def test_a_plain_model_runs_in_onnx_runtime() -> None:
    content = parser.parse_model(PLAIN).SerializeToString()
    session = Session(content, "reference")
    assert session.backend == "ort"
    assert session.layers() == []
    assert "nothing is compressed" in session.note
    assert session.get_inputs()[0].shape == ["N", 5]
    np.testing.assert_array_equal(session.run(None, {"x": x(2, 5) * 0 + 1})[0], -np.ones((2, 5), np.float32))
    with pytest.raises(UserError, match="none"):
        Session(content, activations="u8")


def test_lists_pass_as_in_onnx_runtime() -> None:
    session = Session(parser.parse_model(PLAIN).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"x": [[1, 2, 3, 4, 5]]})[0], [[-1, -2, -3, -4, -5]])
    value = onnxruntime.OrtValue.ortvalue_from_numpy(x(2, 5))
    np.testing.assert_array_equal(session.run(None, {"x": value})[0], -value.numpy())


# -- inputs that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feeds, words",
    [
        ({"x": x(3, 5)}, ["'k'"]),
        ({}, ["'x'", "'k'"]),
        ({**FEEDS, "y": 1}, ["no input 'y'"]),
        ({"X1": x(3, 5), "k": np.array([1])}, ["'X1'", "Did you mean 'x'"]),
        ({**FEEDS, "w": np.zeros(3, np.uint8)}, ["no input 'w'"]),
        ({**FEEDS, "x": np.zeros((3, 5))}, ["'x'", "tensor(float)", "float64", "astype(np.float32)"]),
        ({**FEEDS, "x": x(3, 4)}, ["'x'", "[N, 5]", "[3, 4]"]),
        ({**FEEDS, "x": x(5)}, ["'x'", "[N, 5]", "[5]"]),
        ({**FEEDS, "x": None}, ["'x'", "NoneType"]),
        ({**FEEDS, "x": [[1], [1, 2]]}, ["'x'"]),
        ({**FEEDS, "x": np.array([["a"] * 5])}, ["'x'", "U1"]),
        ([x(3, 5)], ["dict"]),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_inputs(backend: str, feeds: Any, words: list[str]) -> None:
    session = Session(small().SerializeToString(), backend)
    with pytest.raises(InputError) as error:
        session.run(None, feeds)
    assert all(w in str(error.value) for w in words), str(error.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_checked_once_is_still_refused_when_it_differs(backend: str) -> None:
    session = Session(small().SerializeToString(), backend=backend)
    good: dict[str, Any] = {"x": np.ones((2, 5), np.float32), "k": np.ones(3, np.int64)}
    first = session.run(None, good)
    wrong: list[Any] = [
        {}, {"x": good["x"]}, {**good, "z": good["x"]}, {**good, "x": np.ones((2, 4), np.float32)},
        {**good, "x": np.ones((2, 5))}, {**good, "k": good["x"]}, None,
    ]  # fmt: skip
    for feeds in wrong:
        with pytest.raises(InputError):
            session.run(None, feeds)
        again = session.run(None, dict(good))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert session.run(["y"], {**good, "x": np.ones((7, 5), np.float32)})[0].shape == (7, 6)
    assert session.run(None, {"x": good["x"].tolist(), "k": good["k"]})[0].shape == (2, 6)


def test_unknown_output_names_the_nearest(path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'y'"):
        Session(path, "reference").run(["y2"], FEEDS)


def test_options_are_checked(path: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean 'reference'\? There are 'cpu', 'reference', 'hardware', 'ort'"):
        Session(path, "referense")
    for threads in (0, -1, 2.5, True):
        with pytest.raises(UserError, match="threads"):
            Session(path, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="i16"):
        Session(path, activations="i8")  # type: ignore[arg-type]


# -- hostile files -----------------------------------------------------------------------------------------------------


def test_what_is_no_file(tmp_path: Path) -> None:
    for source, words in (
        (tmp_path, "directory"),
        (tmp_path / "none.onnx", "No such file"),
        (b"", "empty"),
        (b"not onnx at all", "not an ONNX"),
        ("a\0b", "not a path"),
        (b"\x08\x08", "no graph"),
    ):
        with pytest.raises(ModelError, match=words):
            Session(source)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_an_error_of_ours_or_still_runs(place: int, value: int) -> None:
    content = bytearray(CONTENT)
    content[place % len(content)] = value
    for damaged in (bytes(content), CONTENT[: place % len(CONTENT)]):
        try:
            session = Session(damaged, "reference")
            outputs = session.run(None, {a.name: FEEDS.get(a.name, FEEDS["x"]) for a in session.get_inputs()})
        except UserError:
            assert damaged != CONTENT
            continue
        assert len(outputs) == len(session.get_outputs())
        assert all(isinstance(array, np.ndarray) for array in outputs)
        if damaged == CONTENT:
            np.testing.assert_array_equal(outputs[0], INTACT)


CONTENT = small().SerializeToString()
INTACT = Session(CONTENT, "reference").run(None, FEEDS)[0]


def gemm(m: onnx.ModelProto) -> onnx.NodeProto:
    return next(n for n in m.graph.node if n.domain == DOMAIN)


def tensor(m: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in m.graph.initializer if t.name == name)


def put(name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(m: onnx.ModelProto) -> None:
        kept = [a for a in gemm(m).attribute if a.name != name]
        del gemm(m).attribute[:]
        gemm(m).attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def replace(new: onnx.TensorProto) -> Callable[[onnx.ModelProto], None]:
    return lambda m: tensor(m, new.name).CopyFrom(new)


def cut(m: onnx.ModelProto) -> None:
    held = tensor(m, "w")
    raw = held.raw_data[:-3]
    held.raw_data, held.dims[0] = raw, len(raw)


def version(n: int | None) -> Callable[[onnx.ModelProto], None]:
    def change(m: onnx.ModelProto) -> None:
        kept = [o for o in m.opset_import if o.domain != DOMAIN]
        del m.opset_import[:]
        m.opset_import.extend([*kept, *([helper.make_opsetid(DOMAIN, n)] if n is not None else [])])

    return change


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "payload of floats": (replace(array("w", 30)), "'h'.*no uint8 vector"),
    "payload with two dimensions": (
        replace(numpy_helper.from_array(np.zeros((2, 3), np.uint8), "w")),
        "no uint8 vector",
    ),
    "empty payload": (replace(numpy_helper.from_array(np.zeros(0, np.uint8), "w")), "'h', payload 'w'"),
    "payload cut short": (cut, "'h', payload 'w'"),
    "payload that is computed": (lambda m: gemm(m).input.__setitem__(1, "a"), "'h'.*no initializer"),
    "weight of three dimensions": (replace(payload("w", weight(2, 3, 5))), r"'h'.*\[2, 3, 5\]"),
    "unknown operator": (lambda m: setattr(gemm(m), "op_type", "Gem"), "no operator 'Gem'"),
    "newer version": (version(2), "needs version 2"),
    "version 0": (version(0), "needs version 0"),
    "no version": (version(None), "without saying"),
    "unknown attribute": (put("speed", 3), "'speed'"),
    "attribute of the wrong kind": (put("activations", 3), "'activations'.*string"),
    "unknown format": (put("activations", "i4"), "'i4'"),
    "no payload": (lambda m: gemm(m).input.__delitem__(slice(1, None)), "'h'.*inputs"),
    "too many inputs": (lambda m: gemm(m).input.extend(["b", "b"]), "'h'.*inputs"),
    "no input": (lambda m: gemm(m).input.__setitem__(0, ""), "'h'.*inputs"),
    "too many outputs": (lambda m: gemm(m).output.append("z"), "'h'.*outputs"),
    "integers in": (lambda m: gemm(m).input.__setitem__(0, "k"), r"'h'.*tensor\(int64\) instead of float"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_artifacts(case: str) -> None:
    change, words = HOSTILE[case]
    model = small()
    change(model)
    with pytest.raises(FormatError) as error:
        Session(model.SerializeToString(), "reference")
    assert re.search(words, str(error.value)), str(error.value)


CONV = {
    "pads": ([1, 1], "pads"),
    "strides": ([0, 1], "strides"),
    "dilations": ([1, -1], "dilations"),
    "group": (4, "groups"),
    "kernel_shape": ([3, 2], "kernel_shape"),
    "auto_pad": ("SAME", "auto_pad"),
    "output_padding": ([0, 0], "output_padding"),
}


@pytest.mark.parametrize("name", CONV)
def test_hostile_conv_attributes(name: str) -> None:
    value, words = CONV[name]
    model = artifact(
        "g (float[N,2,H,V] x) => (float[N,6,A,B] y) { y = ai.eie.Conv(x, w) }", payload("w", weight(6, 2, 3, 3))
    )
    put(name, value)(model)
    with pytest.raises(FormatError, match=words):
        Session(model.SerializeToString(), "reference")


@pytest.mark.parametrize(
    "name, value",
    [
        ("hidden_size", 5),
        ("direction", "up"),
        ("direction", "bidirectional"),
        ("layout", 2),
        ("clip", -1.0),
        ("clip", float("nan")),
    ],
)
def test_hostile_lstm_attributes(name: str, value: Any) -> None:
    model = artifact(
        "g (float[T,N,3] x) => (float[T,1,N,4] y) { y = ai.eie.LSTM(x, w, r) }",
        payload("w", weight(1, 16, 3)),
        payload("r", weight(1, 16, 4)),
    )
    put(name, value)(model)
    with pytest.raises(FormatError, match="'y'"):
        Session(model.SerializeToString(), "reference")


@pytest.mark.parametrize("attributes", [{"transpose": 2}, {"shape": [7, 5]}, {"shape": [-30]}, {"to": 10}])
def test_hostile_decode_attributes(attributes: dict[str, Any]) -> None:
    model = artifact("g (float[N,6] x) => (float[N,5] y) { d = ai.eie.Decode(w) y = MatMul(x, d) }", payload("w", W))
    for name, value in attributes.items():
        put(name, value)(model)
    with pytest.raises(FormatError, match="'d'"):
        Session(model.SerializeToString(), "reference")


def test_a_sequence_map_around_a_layer_is_refused() -> None:
    model = artifact(
        """g (seq(float[N,5]) x) => (seq(float[N,6]) y) {
        y = SequenceMap (x) <body = b (float[N,5] s) => (float[N,6] t) { t = ai.eie.Gemm(s, w) }> }""",
        payload("w", W),
    )
    with pytest.raises(ModelError, match="If, Loop and Scan"):
        Session(model.SerializeToString(), "reference")


# -- data in other files ---------------------------------------------------------------------------------------------


def external(tmp_path: Path) -> Path:
    file = tmp_path / "big.eie.onnx"
    onnx.save(small(), file, save_as_external_data=True, location="big.data", size_threshold=0)
    return file


@pytest.mark.parametrize("backend", BACKENDS)
def test_external_data(tmp_path: Path, backend: str) -> None:
    file = external(tmp_path)
    y, h = Session(file, backend).run(None, FEEDS)
    np.testing.assert_allclose(y, 2 * h, rtol=1e-6)
    assert np.abs(h).max() > 0


def test_external_data_that_can_not_be_had(tmp_path: Path) -> None:
    file = external(tmp_path)
    with pytest.raises(ModelError, match="path instead of its bytes"):
        Session(file.read_bytes(), "reference")
    (tmp_path / "big.data").write_bytes(b"short")
    with pytest.raises(ModelError, match="does not fit"):
        Session(file, "reference")
    (tmp_path / "big.data").unlink()
    with pytest.raises(ModelError, match="missing"):
        Session(file, "reference")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "", "..\\secret", "."])
def test_external_data_stays_in_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    file = external(folder)
    model = onnx.load(file, load_external_data=False)
    for held in model.graph.initializer:
        for entry in held.external_data:
            if entry.key == "location":
                entry.value = location
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        Session(file, "reference")


# -- the pieces --------------------------------------------------------------------------------------------------------


def test_specs_and_nodes(path: Path) -> None:
    (node,) = eie_nodes(load_model(path))
    assert (node.name, node.op, node.activations, node.inputs) == ("h", "Gemm", "f32", ("a", "b"))
    assert [p.name for p in node.payloads] == ["w"]
    (spec,) = specs(path, "u8")
    assert spec.activations == "u8"
    assert spec.outputs == (True,)
    np.testing.assert_array_equal(spec.weights[0].dense(), W.dense())


def test_payloads_name_their_readers() -> None:
    model, _ = CASES["shared, in a loop"]("f32")
    (found,) = payloads(load_model(model.SerializeToString()))
    assert (found.name, found.readers) == ("w", ("p", "u"))
    assert container.decode(found.content).shape == (5, 5)


def test_empty_lists_mean_the_default() -> None:
    model = artifact("g (float[N,2,H] x) => (float[N,6,A] y) { y = ai.eie.Conv(x, w) }", payload("w", weight(6, 2, 3)))
    gemm(model).attribute.append(onnx.AttributeProto(name="pads", type=onnx.AttributeProto.INTS))
    (node,) = eie_nodes(model)
    assert node.attributes == {}


def test_what_the_package_offers() -> None:
    assert set(eie.runtime.__all__) == {
        "EieError",
        "FormatError",
        "InputError",
        "ModelError",
        "PromiseError",
        "Session",
        "UserError",
        "Weight",
        "custom_op_library",
    }
    with pytest.raises(AttributeError):
        eie.runtime.nothing  # noqa: B018
