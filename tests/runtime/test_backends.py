"""One suite of cases over all backends and instruction sets: bit-equal in i16 and u8, within the stated bound in f32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def weight(rng: np.random.Generator, shape: tuple[int, ...], density: float = 0.5, values: int = 16) -> Weight:
    codes = rng.integers(1, max(2, values), shape).astype(np.uint8)
    codes[rng.random(shape) >= density] = 0
    if values == 1:
        codes[...] = 0
    book = np.concatenate([[0], np.sort(rng.standard_normal(values - 1))]).astype(np.float32)
    return Weight(codes, book)


@dataclass(frozen=True)
class Case:
    op: str
    shapes: tuple[tuple[int, ...], ...]  # of the weights
    inputs: tuple[Any, ...]  # a shape, None, or an array
    attributes: Mapping[str, Any] = field(default_factory=dict)
    density: float = 0.5
    values: int = 16
    scale: float = 1.0
    outputs: tuple[bool, ...] = (True,)


def gemm(out: int, inner: int, batch: tuple[int, ...] = (3,), bias: bool = True, **more: Any) -> Case:
    return Case("Gemm", ((out, inner),), ((*batch, inner), (out,) if bias else None), **more)


def conv(shape: tuple[int, ...], x: tuple[int, ...], bias: bool = True, op: str = "Conv",
         more: Mapping[str, Any] | None = None, **attributes: Any) -> Case:  # fmt: skip
    out = shape[0] if op == "Conv" else shape[1] * attributes.get("group", 1)
    return Case(op, (shape,), (x, (out,) if bias else None), attributes, **(more or {}))


def cell(op: str, hidden: int, inner: int, time: int, batch: int, directions: int = 1, lengths: list[int] | None = None,
         states: bool = True, peephole: bool = False, bias: bool = True, **attributes: Any) -> Case:  # fmt: skip
    gates, layout = (4 if op == "LSTM" else 3), attributes.get("layout", 0)
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    inputs: list[Any] = [
        (batch, time, inner) if layout else (time, batch, inner),
        (directions, 2 * gates * hidden) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        state if states else None,
    ]
    if op == "LSTM":
        inputs += [state if states else None, (directions, 3 * hidden) if peephole else None]
    shapes = ((directions, gates * hidden, inner), (directions, gates * hidden, hidden))
    if directions == 2:
        attributes["direction"] = "bidirectional"
    outputs = (True, True, True) if op == "LSTM" else (True, True)
    return Case(op, shapes, tuple(inputs), {"hidden_size": hidden, **attributes}, outputs=outputs)


CASES: dict[str, Case] = {
    **{f"gemm {o}x{i}": gemm(o, i) for o, i in ((1, 1), (15, 31), (16, 32), (17, 33), (40, 64), (33, 65), (16, 127), (31, 129))},
    **{f"gemm {v} values": gemm(20, 200, values=v) for v in (1, 2, 3, 16, 17, 32, 33, 255, 256)},
    **{f"gemm density {d}": gemm(33, 260, density=d) for d in (0.0, 0.02, 0.3, 1.0)},
    "gemm wide": gemm(3, 70_000, (2,), density=0.4),
    "gemm vector": gemm(9, 20, ()),
    "gemm no rows": gemm(9, 20, (0,)),
    "gemm cube": gemm(9, 20, (2, 0, 3), bias=False),
    "gemm no inputs": gemm(5, 0),
    "gemm no outputs": gemm(0, 5),
    "gemm tiny": gemm(9, 50, scale=1e-41),
    "gemm small": gemm(9, 50, scale=1e-30),
    "gemm large": gemm(9, 50, scale=1e30),
    "conv 1x1": conv((8, 5, 1, 1), (2, 5, 7, 9)),
    "conv 3x3": conv((8, 5, 3, 3), (1, 5, 14, 14), pads=[1, 1, 1, 1]),
    "conv strided, dilated, lopsided": conv((6, 3, 3, 2), (2, 3, 17, 12), strides=[2, 3], dilations=[2, 1], pads=[1, 0, 2, 3]),
    "conv grouped": conv((6, 2, 3, 3), (1, 6, 8, 8), group=3),
    "conv depthwise": conv((7, 1, 3, 3), (2, 7, 9, 9), group=7, pads=[1, 1, 1, 1]),
    "conv same upper": conv((4, 3, 4, 4), (1, 3, 9, 10), auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": conv((4, 3, 4, 3), (1, 3, 9, 10), auto_pad="SAME_LOWER", strides=[2, 1]),
    "conv valid": conv((4, 3, 4, 3), (1, 3, 9, 10), auto_pad="VALID"),
    "conv 1-d": conv((5, 3, 7), (2, 3, 600), strides=[4], pads=[3, 3]),
    "conv 3-d": conv((5, 3, 2, 3, 2), (2, 3, 5, 6, 7), strides=[1, 2, 1], pads=[1, 1, 1, 0, 1, 0]),
    "conv no samples": conv((4, 3, 3, 3), (0, 3, 9, 10)),
    "conv empty rows": conv((9, 3, 3, 3), (1, 3, 9, 10), more={"density": 0.05}),
    "conv many products": conv((2, 8000, 3, 3), (1, 8000, 4, 4), more={"density": 1.0}),
    "transposed": conv((5, 4, 3, 3), (2, 5, 6, 7), op="ConvTranspose", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    "transposed, grouped, dilated": conv((6, 2, 3, 2), (1, 6, 6, 7), op="ConvTranspose", group=3, strides=[3, 1], dilations=[2, 3]),
    "transposed 1-d same": conv((5, 4, 5), (1, 5, 21), op="ConvTranspose", strides=[2], auto_pad="SAME_UPPER"),
    "transposed to a shape": conv((5, 4, 3, 3), (1, 5, 6, 7), op="ConvTranspose", strides=[2, 3], output_shape=[11, 24]),
    "transposed 3-d": conv((2, 3, 2, 2, 3), (1, 2, 3, 4, 3), op="ConvTranspose", strides=[2, 1, 2], bias=False),
    "lstm": cell("LSTM", 20, 13, 5, 2),
    "lstm both ways, lengths": cell("LSTM", 9, 30, 6, 4, 2, lengths=[6, 0, 3, 1], peephole=True),
    "lstm reverse": cell("LSTM", 5, 6, 4, 3, direction="reverse", lengths=[4, 2, 3]),
    "lstm batch first": cell("LSTM", 5, 6, 4, 3, 2, layout=1, states=False),
    "lstm coupled, clipped": cell("LSTM", 5, 6, 4, 3, input_forget=1, clip=0.3, bias=False),
    "gru": cell("GRU", 20, 13, 5, 2),
    "gru linear before reset": cell("GRU", 17, 40, 4, 3, 2, linear_before_reset=1, lengths=[1, 4, 0]),
    "gru reverse, clipped": cell("GRU", 6, 4, 4, 1, direction="reverse", clip=0.5, bias=False),
    "gru batch first": cell("GRU", 6, 4, 4, 2, layout=1),
    "gather": Case("Gather", ((11, 3, 2),), (np.array([[0, -1], [10, -11]]),)),
    "gather none": Case("Gather", ((11, 4),), (np.zeros((0,), np.int32),)),
}  # fmt: skip


def make(case: Case, seed: int = 0) -> tuple[tuple[Weight, ...], list[Any]]:
    rng = np.random.default_rng(seed)
    weights = tuple(weight(rng, s, case.density, case.values) for s in case.shapes)
    inputs = [
        i if i is None or isinstance(i, np.ndarray)
        else (rng.standard_normal(i) * (case.scale if k == 0 else 1)).astype(np.float32)
        for k, i in enumerate(case.inputs)
    ]  # fmt: skip
    return weights, inputs


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


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_matrix(data: st.DataObject) -> None:
    out, inner = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 300))
    case = gemm(out, inner, (data.draw(st.integers(0, 3)),), bias=data.draw(st.booleans()),
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
