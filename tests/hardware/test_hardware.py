"""The backend ``hardware``: the same bits as the reference in i16, on machines large and small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from artifacts import compress, f32, model
from cases import CASES, conv, gemm, make
from eie.runtime import Session
from eie.runtime.backends.base import LayerSpec
from eie.runtime.backends.hardware import HardwareBackend
from eie.runtime.backends.reference import ReferenceBackend
from eie.runtime.errors import FormatError, UserError
from eie.runtime.hardware import Config
from eie.runtime.hardware.lower import lower_matrix

MACHINES = {
    "published": Config(),
    "256 elements": Config.preset("eie-256-28nm"),
    "tiny": Config(name="tiny", processing_elements=3, fifo_slots=2, run_bits=2, line_bits=12, registers=4, activation_bytes=2,
                   spmat_bytes=600, pointer_bytes=40, bias_column=False),
    "ese": Config.preset("ese-ku060"),
}  # fmt: skip
SLOW_IN_PYTHON = {"gemm wide", "conv many products"}  # hundreds of thousands of tiles on the tiny machine


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", CASES)
def test_the_machine_gives_the_bits_of_the_reference(name: str, machine: str) -> None:
    if machine == "tiny" and name in SLOW_IN_PYTHON:
        pytest.skip("it takes hundreds of thousands of tiles there")
    case = CASES[name]
    weights, inputs = make(case)
    spec = LayerSpec(case.op, name, case.attributes, weights, "i16", case.outputs)
    expected = ReferenceBackend().compile(spec)(inputs)
    backend = HardwareBackend(MACHINES[machine])
    for got, want in zip(backend.compile(spec)(inputs), expected, strict=True):
        assert (got is None) == (want is None)
        if got is not None and want is not None:
            np.testing.assert_array_equal(got, want)
    for cost in backend.costs.values():
        a = cost.activity
        spent = a.visited + a.empty_cycles + a.starved_cycles + a.hazard_cycles + a.idle_cycles
        assert spent == a.cycles * MACHINES[machine].processing_elements
        assert cost.loads.sum() == a.visited


def test_what_does_not_fit_is_cut_into_tiles() -> None:
    weights, inputs = make(gemm(60, 90, (2,), bias=False))
    spec = LayerSpec("Gemm", "g", {}, weights, "i16")
    large, small = HardwareBackend(), HardwareBackend(MACHINES["tiny"])
    y = [backend.compile(spec)(inputs)[0] for backend in (large, small)]
    np.testing.assert_array_equal(y[0], y[1])
    (whole,), (tiled,) = large.programs, small.programs
    assert whole.resident
    assert len(whole.images) == 1
    assert not tiled.resident
    assert len(tiled.images) > 10
    assert all(image.misfit(small.machines["g"]) is None for image in tiled.images)
    assert small.costs["g"].load > 0
    assert large.costs["g"].load == 0


def test_a_machine_that_is_too_small_is_said() -> None:
    weights, _ = make(gemm(60, 90))
    with pytest.raises(FormatError, match="one column does not fit"):
        lower_matrix(weights[0], Config(spmat_bytes=8, processing_elements=2), "layer 1")
    with pytest.raises(FormatError, match="pointer SRAM holds 2 pointers"):
        lower_matrix(weights[0], Config(pointer_bytes=4), "layer 1")


def test_wide_codes_make_the_machine_a_variant_and_say_so() -> None:
    weights, inputs = make(gemm(20, 30, values=200))
    backend = HardwareBackend()
    compiled = backend.compile(LayerSpec("Gemm", "g", {}, weights, "i16"))
    compiled(inputs)
    assert "codes widened to 8 bits" in compiled.why
    assert backend.machines["g"].code_bits == 8
    assert backend.machines["g"].line_entries == Config().line_entries


def test_a_convolution_is_a_vector_a_position() -> None:
    case = conv((6, 3, 3, 3), (2, 3, 9, 8), pads=[1, 1, 1, 1], strides=[2, 1])
    weights, inputs = make(case)
    backend = HardwareBackend()
    (y,) = backend.compile(LayerSpec("Conv", "c", case.attributes, weights, "i16"))(inputs)
    assert y is not None
    assert backend.costs["c"].vectors == y[:, 0].size


def test_zeros_are_skipped() -> None:
    weights, inputs = make(gemm(64, 200, (1,), bias=False))
    dense, sparse = HardwareBackend(), HardwareBackend()
    spec = LayerSpec("Gemm", "g", {}, weights, "i16")
    dense.compile(spec)(inputs)
    inputs[0][:, ::2] = 0
    sparse.compile(spec)(inputs)
    assert sparse.costs["g"].compute < 0.7 * dense.costs["g"].compute
    sparse.clear()
    assert not sparse.costs


TEXT = """g (float[N,6] x) => (float[N,4] y) {
    a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) t = Gather(table, k) y = Add(c, t) }"""


def session(**options: Any) -> Session:
    _, artifact = compress(model(TEXT, w=f32(6, 5), v=f32(5, 4), table=f32(3, 4), k=np.array([1])))
    return Session(artifact.SerializeToString(), **options)


def test_sessions() -> None:
    x = f32(3, 6)
    backend = HardwareBackend(Config.preset("eie-256-28nm"))
    for given in ("hardware", backend):
        on_machine, on_cpu = session(backend=given), session(backend="cpu", activations="i16")
        np.testing.assert_array_equal(on_machine.run(None, {"x": x})[0], on_cpu.run(None, {"x": x})[0])
        assert on_machine.activations == "i16"
        assert {r.op: r.kernel for r in on_machine.layers()}["Gather"] == "host"
    assert set(backend.costs) == {r.name for r in session(backend="cpu").layers() if r.op == "Gemm"}
    with pytest.raises(UserError, match="computes in i16, not u8"):
        session(backend="hardware", activations="u8")
