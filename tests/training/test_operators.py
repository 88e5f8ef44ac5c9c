"""Every operator that training knows, against ONNX's own backend tests; and whole models against ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test import loader

from eie.compiler.errors import ModelError
from eie.compiler.ir.graph import Model
from eie.compiler.ir.reader import read
from eie.compiler.training.network import Network, without_gradient
from eie.compiler.training.operators import OPERATORS
from eie.compiler.training.operators.shapes import tensor_of

from .conftest import floats, model

Values = Sequence[Any]
# what ONNX allows and training refuses with an error that says so
REFUSED = {
    "training_mode": "statistics of the batch, dropping out",
    "the indices of MaxPool": "places of maxima",
    "before version 9": "Scan of version 8",
    "reduction =": "ScatterND that multiplies or takes extremes",
    "antialias": "resizing with a low-pass filter, or by a policy",
    "tf_crop_and_resize": "resizing a part",
    "does not know tensors of": "types torch has no arithmetic for",
    "does not know the operators": "an operator inside a body",
    "non-zero size": "extremes of nothing",
}
NO_TENSORS = {"test_identity_sequence", "test_identity_opt"}  # sequences and optionals
WIDER = {"test_bitwise_not_3d"}  # uint16 is computed in int32: what is above 16 bits differs
ROUNDED = {"test_averagepool_2d_ceil_last_window_starts_on_pad"}  # four digits are written down
LIKE_TORCH = (np.floating, np.integer, np.bool_)


def cases() -> Iterator[tuple[str, onnx.ModelProto, Values, Values]]:
    """ONNX's tests of single operators, and of what other tools exported, that hold nothing but known operators."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the cases compute their expected outputs, with the warnings numpy has for them
        for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
            for case in loader.load_model_tests(kind=kind):
                found = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
                known = all(n.op_type in OPERATORS and n.domain in ("", "ai.onnx") for n in found.graph.node)
                if not known or case.name.endswith("_expanded") or case.name in NO_TENSORS:
                    continue
                if case.data_sets:
                    yield case.name, found, *case.data_sets[0]
                else:
                    folder = Path(case.model_dir) / "test_data_set_0"
                    yield case.name, found, stored(folder, "input"), stored(folder, "output")


def stored(folder: Path, kind: str) -> Values:
    found = []
    for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{i}.pb").read_bytes())
        found.append(numpy_helper.to_array(tensor))
    return found


def plain(values: Values) -> bool:
    """Whether all are arrays of numbers that numpy has itself."""
    return all(isinstance(v, np.ndarray) and issubclass(v.dtype.type, LIKE_TORCH) for v in values)


def test_onnx_backend_tests() -> None:
    right, wrong = 0, {}
    for name, proto, given, wanted in cases():
        if not plain(given) or not plain(wanted):
            continue
        try:
            network = Network(read(proto), widen=False, device="cpu")
            names = [i.name for i in proto.graph.input]
            got = network({n: tensor_of(v, False) for n, v in zip(names, given, strict=False)})
        except ModelError as error:
            if not any(text in str(error) for text in REFUSED):
                wrong[name] = str(error)
            continue
        try:
            for one, other in zip(got, wanted, strict=True):
                close(one, other, 1e-3 if name in ROUNDED else 1e-4)
            right += 1
        except AssertionError as error:
            wrong[name] = str(error)
    assert set(wrong) == WIDER
    assert right > 850


def close(got: torch.Tensor, wanted: np.ndarray[Any, Any], rtol: float) -> None:
    assert tuple(got.shape) == wanted.shape
    if wanted.dtype.kind == "b":
        np.testing.assert_array_equal(got.numpy(), wanted)
    elif wanted.dtype.kind != "f":
        np.testing.assert_array_equal(got.numpy().astype(np.int64), wanted.astype(np.int64))
    else:
        loose = 20 if wanted.dtype == np.float16 else 1
        values = got.to(torch.float64).numpy()
        np.testing.assert_allclose(values, wanted.astype(np.float64), rtol=loose * rtol, atol=1e-5 * loose)


MODELS = [
    "armkws-dnn-l", "armkws-gru-s", "basic-pitch", "cifar-cnn", "dtln-1", "espcn", "kws-ds-cnn", "lenet-300-100", "lenet-5",
    "mnist-cntk", "mobilenet-v1-0.25-128", "silero-vad-16k", "squeezenet-1.1-fp16", "ultraface-slim-320",
]  # fmt: skip


def feeds_of(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    found: dict[str, Any] = {}
    for info in session.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in info.shape]
        shape = [1, 576] if shape == [1, 1] else shape  # sound: 512 samples after 64 of context
        if info.type == "tensor(int64)":
            found[info.name] = np.full(shape, 16000, np.int64)
        elif info.type == "tensor(uint8)":
            found[info.name] = rng.integers(0, 256, shape).astype(np.uint8)
        else:
            kind = np.float16 if info.type == "tensor(float16)" else np.float32
            found[info.name] = rng.random(shape).astype(kind)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_real_models_as_onnx_runtime_runs_them(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options)
    feeds = feeds_of(session)
    with torch.no_grad():
        got = Network(read(path), device="cpu")({n: tensor_of(v, True) for n, v in feeds.items()})
    for one, wanted in zip(got, session.run(None, feeds), strict=True):
        assert tuple(one.shape) == wanted.shape
        np.testing.assert_allclose(one.numpy().astype(np.float64), wanted.astype(np.float64), rtol=0, atol=1e-4)


OPTIONS = [
    ("LSTM", ""),
    ("LSTM", ', direction="bidirectional"'),
    ("LSTM", ', direction="reverse", clip=0.3'),
    ("LSTM", ", input_forget=1"),
    ("LSTM", ', activations=["Sigmoid","Softsign","Relu"]'),
    ("GRU", ""),
    ("GRU", ", linear_before_reset=1"),
    ("GRU", ', direction="bidirectional", linear_before_reset=1'),
    ("GRU", ', activations=["HardSigmoid","Tanh"], activation_alpha=[0.3], activation_beta=[0.4]'),
    ("RNN", ""),
    ("RNN", ', activations=["Affine"], activation_alpha=[0.7], activation_beta=[0.1]'),
]


@pytest.mark.parametrize(("op", "options"), OPTIONS)
def test_recurrent_options_as_onnx_runtime_has_them(op: str, options: str) -> None:
    d, gates = (2 if "bidirectional" in options else 1), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    constants = {"w": floats(d, gates * 4, 5), "r": floats(d, gates * 4, 4, seed=1), "b": floats(d, gates * 8, seed=2)}
    proto = model(recurrent(op, options, d), constants)
    feeds = {"x": floats(6, 3, 5, seed=3), "h": floats(d, 3, 4, seed=4)}
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    network = Network(read(proto), device="cpu")
    for got in (network({n: torch.from_numpy(v) for n, v in feeds.items()}), alone(network, feeds)):
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-5)


def alone(network: Network, feeds: dict[str, Any]) -> list[torch.Tensor]:
    """The same through ``each``, a stack of one: the steps are computed one by one there."""
    return [y[0] for y in network.each({n: torch.from_numpy(v)[None] for n, v in feeds.items()}, ["y", "last"])]


def recurrent(op: str, options: str, d: int) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 14]> main (float[6,3,5] x, float[{d},3,4] h) => (float[A,B,C,D] y, float[E,F,G] last) {{
        y, last = {op}<hidden_size=4{options}>(x, w, r, b, , h) }}"""


def test_an_unknown_operator_is_named() -> None:
    proto = model(
        '<ir_version: 8, opset_import: ["" : 17]> main (float[4] x) => (float[M] y) { [odd] y = Unique(x) }', {}
    )
    with pytest.raises(ModelError, match=r"Unique \(odd\)"):
        Network(read(proto))


def test_an_operator_without_gradient_is_named() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,8] x) => (float[N,8] y) {
        a = MatMul(x, w) [rounding] b = Round(a) c = MatMul(b, v) y = Add(c, x) }"""
    graph: Model = read(model(text, {"w": floats(8, 8), "v": floats(8, 8, seed=1)}))
    constants = list(graph.graph.constants.values())
    assert without_gradient(graph.graph, ["y"], constants) == {"w": "Round (rounding) has no gradient"}
