"""Real models, as their users would compress them: no options, every backend, and what it does to accuracy."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from eie.compiler import Recipe, optimize
from eie.compiler.report.result import Result
from eie.runtime import Session

REPOSITORY = Path(__file__).parents[2]
MODELS = [
    "armkws-dnn-l",
    "armkws-gru-s",
    "basic-pitch",
    "cifar-cnn",
    "dtln-1",
    "espcn",
    "kws-ds-cnn",
    "lenet-300-100",
    "lenet-5",
    "mnist-cntk",
    "mobilenet-v1-0.25-128",
    "silero-vad-16k",
    "squeezenet-1.1-fp16",
    "ultraface-slim-320",
]
BACKENDS = ("reference", "cpu", "ort")


def feeds_of(session: onnxruntime.InferenceSession, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for info in session.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in info.shape]
        if info.type == "tensor(int64)":  # a sampling rate
            found[info.name] = np.full(shape, 16000, np.int64)
        elif info.type == "tensor(uint8)":
            found[info.name] = rng.integers(0, 256, shape).astype(np.uint8)
        elif info.type == "tensor(int8)":
            found[info.name] = rng.integers(-128, 128, shape).astype(np.int8)
        else:
            if shape == [1, 1]:  # sound: 512 samples after 64 of context
                shape = [1, 576]
            kind = np.float16 if info.type == "tensor(float16)" else np.float32
            found[info.name] = rng.random(shape).astype(kind)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_optimized_with_no_options_it_runs_everywhere(shared: Path, tmp_path: Path, name: str) -> None:
    source, artifact = shared / "models" / f"{name}.onnx", tmp_path / "a.eie.onnx"
    result = optimize(source)
    result.save(artifact)
    assert artifact.stat().st_size < source.stat().st_size
    assert result.verify.sqnr_db > 20
    feeds = feeds_of(onnxruntime.InferenceSession(str(source)), 3)
    answers = {backend: Session(artifact, backend).run(None, feeds) for backend in BACKENDS}
    for backend in BACKENDS[1:]:
        for got, want in zip(answers[backend], answers["reference"], strict=True):
            assert got.dtype == want.dtype
            if want.dtype.kind == "f":
                scale = max(1e-3, float(np.abs(want).max(initial=0)))
                tolerance = 2e-2 if want.dtype == np.float16 or name == "squeezenet-1.1-fp16" else 1e-3
                np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
            else:
                assert np.abs(got.astype(np.int64) - want.astype(np.int64)).max(initial=0) <= 1
    machine, fixed = Session(artifact, "hardware"), Session(artifact, "cpu", activations="i16")
    for got, want in zip(machine.run(None, feeds), fixed.run(None, feeds), strict=True):
        np.testing.assert_array_equal(got, want)  # the accelerator, to the bit
    assert {layer.kernel for layer in machine.layers()} <= {"eie-64-45nm", "host"}


@pytest.mark.parametrize("activations", ["i16", "u8"])
@pytest.mark.parametrize("name", ["lenet-5", "cifar-cnn", "dtln-1"])
def test_integer_formats_are_close_and_equal_everywhere(
    shared: Path, tmp_path: Path, name: str, activations: Any
) -> None:
    source, artifact = shared / "models" / f"{name}.onnx", tmp_path / "a.eie.onnx"
    optimize(source, activations=activations).save(artifact)
    original = onnxruntime.InferenceSession(str(source))
    feeds = feeds_of(original, 4)
    first, *others = (Session(artifact, backend).run(None, feeds) for backend in BACKENDS)
    for values in others:
        for got, want in zip(values, first, strict=True):
            # the compressed layers are equal to the bit; float operators between them sum in another order
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max(initial=1e-3)))
    for got, want in zip(first, original.run(None, feeds), strict=True):
        assert np.linalg.norm(got - want) < 0.4 * max(1e-3, float(np.linalg.norm(want)))


# -- MNIST ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(shared: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    sys.path.insert(0, str(REPOSITORY / "models"))
    try:
        load = runpy.run_path(str(REPOSITORY / "models" / "mnist.py"))["load"]
    finally:
        sys.path.pop(0)
    images, labels = load(shared / "mnist", "test5k")
    return images, labels


def top1(session: Any, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], at_once: int) -> float:
    name = session.get_inputs()[0].name
    found = [
        session.run(None, {name: images[i : i + at_once]})[0].reshape(at_once, -1).argmax(1)
        for i in range(0, len(images), at_once)
    ]
    return float((np.concatenate(found) == labels).mean())


@pytest.mark.parametrize(
    ("path", "scale", "at_once"),
    [
        ("data:models/lenet-300-100.onnx", 1, 500),
        ("data:models/lenet-5.onnx", 1, 500),
        ("data:models/mnist-cntk.onnx", 255, 1),
        ("models/lenet-300-100.onnx", 1, 500),
    ],
)
def test_the_default_loses_at_most_a_tenth_of_a_point(
    shared: Path, tmp_path: Path, digits: tuple[Any, Any], path: str, scale: int, at_once: int
) -> None:
    images, labels = digits[0] * np.float32(scale), digits[1]
    source = shared / path.removeprefix("data:") if path.startswith("data:") else REPOSITORY / path
    optimize(source).save(tmp_path / "a.eie.onnx")
    before = top1(onnxruntime.InferenceSession(str(source)), images, labels, at_once)
    after = top1(Session(tmp_path / "a.eie.onnx"), images, labels, at_once)
    assert before > 0.96
    assert after >= before - 0.001 - 1e-9


# -- SqueezeNet as the authors of Deep Compression published it ----------------------------------------------------------


@pytest.fixture(scope="module")
def squeezenet(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """The model as ONNX, its artifact, and what optimize says."""
    folder = tmp_path_factory.mktemp("squeezenet")
    model, artifact = folder / "squeezenet-1.0.onnx", folder / "a.eie.onnx"
    script = REPOSITORY / "models" / "squeezenet_deep_compression.py"
    arguments = sys.argv
    sys.argv = [str(script), str(shared / "squeezenet-deep-compression"), "-o", str(model)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = arguments
    result = optimize(model)
    result.save(artifact)
    return model, artifact, result


def test_published_weights_decode_to_the_bit_from_550_000_bytes(squeezenet: tuple[Path, Path, Result]) -> None:
    model, artifact, result = squeezenet
    assert artifact.stat().st_size <= 550_000
    assert sum(round(row.kept * np.prod(row.shape)) for row in result.layers) == 415_921
    from eie.runtime.artifact import specs

    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    kernels = {v.tobytes(): n for n, v in weights.items() if v.ndim == 4}
    found = [spec.weights[0].dense().tobytes() for spec in specs(artifact)]
    assert len(found) == len(kernels) == 26
    assert set(found) == set(kernels)


def test_the_published_model_gives_the_same_answers(squeezenet: tuple[Path, Path, Result]) -> None:
    model, artifact, _ = squeezenet
    x = np.random.default_rng(0).normal(0, 50, (1, 3, 227, 227)).astype(np.float32)
    want = onnxruntime.InferenceSession(str(model)).run(None, {"data": x})[0]
    for backend in ("cpu", "ort"):
        got = Session(artifact, backend).run(None, {"data": x})[0]
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_a_recipe_of_the_paper(squeezenet: tuple[Path, Path, Result], tmp_path: Path) -> None:
    """Huffman alone, as in the paper, comes close to the entropy of codes and gaps."""
    result = optimize(
        squeezenet[0], recipe=Recipe.parse('passes = ["cluster{bits=8}", "encode{codec=huffman,index_bits=4}"]')
    )
    result.save(tmp_path / "a.eie.onnx")
    assert json.loads(json.dumps(result.json()))["output_bytes"] < 560_000
