"""One suite of cases over all backends and instruction sets: bit-equal in i16 and u8, within the stated bound in f32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import CASES, conv, gemm, make
from eie.runtime import InputError, Weight
from eie.runtime.backends.base import LayerSpec
from eie.runtime.backends.cpu import CpuBackend, isa, isas
from eie.runtime.backends.reference import ReferenceBackend

Floats = npt.NDArray[np.float32]


def select(name: str) -> None:
    from eie.runtime._core import lib

    assert lib.eie_isa_select(name.encode()) == lib.EIE_OK


@pytest.fixture(autouse=True)
def _same_instruction_set_afterwards() -> Iterator[None]:
    before = isa()
    yield
    select(before)


def bound(spec: LayerSpec, inputs: list[Any]) -> Any:
    """docs/numerics.md, f32: what a sum may differ from the exact one; for cells, whose steps feed each other, a small number."""
    if spec.op in ("LSTM", "GRU"):
        return 2e-5
    magnitude = LayerSpec(spec.op, spec.name, spec.attributes,
                          tuple(Weight(w.codes, np.abs(w.codebook)) for w in spec.weights), "f32", spec.outputs)  # fmt: skip
    biggest = [None if i is None else np.abs(i) for i in inputs]
    total = ReferenceBackend().compile(magnitude)(biggest)[0]
    assert total is not None
    terms = spec.weights[0].size + 3
    return terms * 2.0**-24 * total.astype(np.float64) + 2.0**-22 * total + 1e-44


def assert_backends_agree(spec: LayerSpec, inputs: list[Any]) -> None:
    """The reference, and cpu on every instruction set, on one thread and on three."""
    expected = ReferenceBackend().compile(spec)(inputs)
    for name in isas():
        select(name)
        for threads in (1, 3):
            run = CpuBackend(threads).compile(spec)
            assert spec.op == "Gather" or name in run.kernel
            for got, want in zip(run(inputs), expected, strict=True):
                assert (got is None) == (want is None)
                if got is None or want is None:
                    continue
                assert got.dtype == want.dtype
                if spec.activations != "f32" or spec.op == "Gather":
                    np.testing.assert_array_equal(got, want, err_msg=f"{name}, {threads} threads")
                else:
                    assert got.shape == want.shape
                    assert (np.abs(got.astype(np.float64) - want) <= bound(spec, inputs)).all(), (
                        f"{name}, {threads} threads"
                    )


@pytest.mark.parametrize("activations", ["f32", "i16", "u8"])
@pytest.mark.parametrize("name", CASES)
def test_every_backend_and_instruction_set_agrees(name: str, activations: Any) -> None:
    case = CASES[name]
    weights, inputs = make(case)
    assert_backends_agree(LayerSpec(case.op, name, case.attributes, weights, activations, case.outputs), inputs)


@pytest.mark.parametrize("activations", ["i16", "u8"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3.4e38])
def test_a_vector_that_is_not_finite_spoils_itself_alone(activations: Any, odd: float) -> None:
    weights, inputs = make(gemm(20, 33, (3,)))
    inputs[0][1, 5] = odd
    inputs[0][1, 6] = -odd
    spec = LayerSpec("Gemm", "g", {}, weights, activations)
    assert_backends_agree(spec, inputs)
    (y,) = ReferenceBackend().compile(spec)(inputs)
    assert y is not None
    assert np.isfinite(y[[0, 2]]).all()
    if activations == "u8" or not np.isfinite(odd):
        assert np.isnan(y[1]).all()


@pytest.mark.parametrize("activations", ["f32", "i16", "u8"])
@pytest.mark.parametrize("signs", ["both", "one"])
@pytest.mark.parametrize("batch", [2, 17, 31, 65, 130])
def test_a_batch_is_its_vectors(activations: Any, signs: str, batch: int) -> None:
    """In i16 and u8 bit for bit, on one thread and on three; with weights of one sign too, which are paired otherwise."""
    rng = np.random.default_rng(batch)
    (weight,), _ = make(gemm(150, 2300, density=0.2), batch)
    weight = Weight(weight.codes, np.abs(weight.codebook) if signs == "one" else weight.codebook)
    spec = LayerSpec("Gemm", "batch", {}, (weight,), activations)
    x = rng.standard_normal((batch, 2300)).astype(np.float32)
    bias = rng.standard_normal(150).astype(np.float32)
    for name in isas():
        select(name)
        outputs = []
        for threads in (1, 3):
            run = CpuBackend(threads).compile(spec)
            outputs.append(run([x, bias])[0])
        one = CpuBackend(1).compile(spec)
        alone = np.stack([one([row, bias])[0] for row in x])  # type: ignore[arg-type]
        assert outputs[0] is not None and outputs[1] is not None
        np.testing.assert_array_equal(outputs[0], outputs[1])
        if activations == "f32":
            np.testing.assert_allclose(outputs[0], alone, rtol=1e-4, atol=1e-3)
        else:
            np.testing.assert_array_equal(outputs[0], alone)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_matrix(data: st.DataObject) -> None:
    out, inner = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 300))
    case = gemm(out, inner, (data.draw(st.integers(0, 3) | st.integers(4, 70)),), bias=data.draw(st.booleans()),
                density=data.draw(st.floats(0, 1)), values=data.draw(st.integers(2, 256)),
                scale=10.0 ** data.draw(st.integers(-30, 30)))  # fmt: skip
    weights, inputs = make(case, data.draw(st.integers(0, 1000)))
    assert_backends_agree(LayerSpec("Gemm", "g", {}, weights, data.draw(st.sampled_from(["f32", "i16", "u8"]))), inputs)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_convolution(data: st.DataObject) -> None:
    op, spatial = data.draw(st.sampled_from(["Conv", "ConvTranspose"])), data.draw(st.integers(1, 3))
    group, a, b = (data.draw(st.integers(1, 3)) for _ in range(3))
    numbers = st.integers(1, 3)
    kernel = tuple(data.draw(st.integers(1, 4)) for _ in range(spatial))
    x = (
        data.draw(st.integers(0, 2)),
        (b if op == "Conv" else a) * group,
        *(data.draw(st.integers(1, 12)) for _ in range(spatial)),
    )
    attributes: dict[str, Any] = {
        "group": group,
        "strides": [data.draw(numbers) for _ in range(spatial)],
        "dilations": [data.draw(numbers) for _ in range(spatial)],
    }
    if data.draw(st.booleans()):
        attributes["pads"] = [data.draw(st.integers(0, 4)) for _ in range(2 * spatial)]
    else:
        attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    case = conv((a * group, b, *kernel), x, data.draw(st.booleans()), op, **attributes)
    weights, inputs = make(case, data.draw(st.integers(0, 1000)))
    spec = LayerSpec(op, "c", case.attributes, weights, data.draw(st.sampled_from(["f32", "i16", "u8"])))
    try:
        ReferenceBackend().compile(spec)(inputs)
    except InputError:
        with pytest.raises(InputError, match="'c'"):
            CpuBackend().compile(spec)(inputs)
        return
    assert_backends_agree(spec, inputs)


@pytest.mark.parametrize("make_backend", [ReferenceBackend, CpuBackend])
@pytest.mark.parametrize(
    ("name", "slot", "wrong"),
    [
        ("gemm 16x32", 0, np.zeros((3, 31), np.float32)),
        ("gemm 16x32", 0, np.zeros((3, 32), np.float64)),
        ("gemm 16x32", 0, np.zeros((), np.float32)),
        ("gemm 16x32", 1, np.zeros(15, np.float32)),
        ("conv 3x3", 0, np.zeros((1, 4, 9, 9), np.float32)),
        ("conv 3x3", 0, np.zeros((1, 5, 9), np.float32)),
        ("conv valid", 0, np.zeros((1, 3, 3, 9), np.float32)),
        ("lstm", 0, np.zeros((5, 2, 12), np.float32)),
        ("lstm", 1, np.zeros((1, 7), np.float32)),
        ("lstm", 2, np.array([5, 6], np.int32)),
        ("lstm", 2, np.array([5, 5], np.int64)),
        ("lstm", 3, np.zeros((1, 3, 20), np.float32)),
        ("gather", 0, np.array([11])),
        ("gather", 0, np.array([-12])),
        ("gather", 0, np.array([0.0], np.float32)),
    ],
)
def test_inputs_that_do_not_fit(make_backend: Any, name: str, slot: int, wrong: Any) -> None:
    case = CASES[name]
    weights, inputs = make(case)
    inputs[slot] = wrong
    run = make_backend().compile(LayerSpec(case.op, "that layer", case.attributes, weights, "f32", case.outputs))
    with pytest.raises(InputError, match="that layer"):
        run(inputs)
