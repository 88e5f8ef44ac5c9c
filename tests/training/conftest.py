"""What the tests of training share. Where torch is not installed they are left out, and the summary says so (tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper, parser

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The same sums whatever the machine does besides."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> npt.NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


MLP = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,16] x) => (float[N,4] y) {
    [first] a = Gemm<transB=1>(x, w1, b1) b = Relu(a)
    [second] c = MatMul(b, w2) d = Relu(c)
    [last] y = Gemm<transB=1>(d, w3, b3) }"""


def untrained() -> onnx.ModelProto:
    shapes = {"w1": (32, 16), "b1": (32,), "w2": (32, 24), "w3": (4, 24), "b3": (4,)}
    return model(MLP, {n: floats(*s, seed=i, scale=0.3) for i, (n, s) in enumerate(shapes.items())})


@pytest.fixture
def mlp() -> onnx.ModelProto:
    """16-32-24-4, the second weight stored [in, out]; not trained."""
    return untrained()


@pytest.fixture(scope="session")
def trained(blobs: Arrays) -> onnx.ModelProto:
    """The MLP, trained on the blobs; nobody changes it."""
    from eie.compiler.training.fit import fit, right
    from eie.compiler.training.settings import Settings

    found = fit(untrained(), blobs, Settings(epochs=12, lr=0.01, optimizer="adam", batch=50))
    assert right(found.model, blobs) > 0.97
    return found.model


def model(text: str, constants: Arrays) -> onnx.ModelProto:
    """A model from ONNX text and constants by name."""
    found = parser.parse_model(text)
    found.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return found


@pytest.fixture(scope="session")
def blobs() -> Arrays:
    """600 points of four classes in 16 dimensions, two clouds a class: easy, but not for a linear model."""
    rng = np.random.default_rng(7)
    centres = 2.0 * rng.standard_normal((8, 16))
    which = rng.integers(0, 8, 600)
    x = centres[which] + 0.7 * rng.standard_normal((600, 16))
    return {"x": x.astype(np.float32), "label": which % 4}
