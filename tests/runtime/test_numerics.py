"""The specification against docs/numerics.md by plain loops, and the functions of gates against float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eie.runtime import numerics

F = np.float32
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("name", "exact", "relative", "absolute"),
    [
        ("exp", np.exp, 1.0e-7, 0.0),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 0.0, 1.0e-7),
        ("tanh", np.tanh, 1.6e-7, 1.0e-7),
    ],
)
def test_functions_of_gates(name: str, exact: Any, relative: float, absolute: float) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.uniform(-87, 87, 200_000), rng.standard_normal(200_000), [0.0, -0.0, 0.625, -0.625]]
    ).astype(F)
    got, want = getattr(numerics, name)(x).astype(np.float64), exact(x.astype(np.float64))
    wrong = np.abs(got - want)
    limit = (
        np.maximum(relative * np.abs(want), absolute) if absolute and relative else relative * np.abs(want) + absolute
    )
    assert (wrong <= limit).all()


def test_functions_of_gates_at_the_ends() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 100, -100], F)
    np.testing.assert_array_equal(numerics.tanh(x), np.array([np.nan, 1, -1, 1, -1], F))
    s = numerics.sigmoid(x)
    assert np.isnan(s[0])
    assert s[1] == s[3] == 1
    assert 0 <= s[2] == s[4] < 1e-37


@settings(max_examples=300, deadline=None)
@given(st.lists(floats, max_size=40))
def test_u8_is_as_written_down(values: list[float]) -> None:
    x = np.array(values, F)
    q, scale, zero, finite = numerics.quantize_u8(x)
    lo, hi = F(min([0.0, *values])), F(max([0.0, *values]))
    with np.errstate(over="ignore"):
        wanted = F((hi - lo) / F(255))
    assert finite == np.isfinite(wanted)
    if not finite:
        return
    if wanted < 2.0**-100:
        assert (scale, zero) == (1, 0)
        assert not q.any()
        return
    inverse = F(1) / wanted
    assert (scale, zero) == (wanted, np.rint(-lo * inverse))
    for v, got in zip(x, q, strict=True):
        assert got == min(255, max(0, np.rint(v * inverse) + F(zero)))
    assert (np.abs((q.astype(np.float64) - zero) * scale - x) <= 1.01 * float(scale)).all()


@settings(max_examples=300, deadline=None)
@given(st.lists(floats, max_size=40))
def test_i16_is_as_written_down(values: list[float]) -> None:
    x = np.array(values, F)
    q, exponent, finite = numerics.quantize_i16(x)
    assert finite
    largest = max([0.0, *map(abs, values)])
    wanted = 0 if largest == 0 else min(100, max(-100, 15 - math.frexp(largest)[1]))
    assert exponent == wanted
    for v, got in zip(x, q, strict=True):
        assert got == min(32767, max(-32767, np.rint(np.ldexp(v, wanted))))


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=255))
def test_codebooks_are_as_written_down(values: list[float]) -> None:
    book = np.array([0, *values], F)
    small, step = numerics.codebook_u8(book)
    wide, exponent = numerics.codebook_i16(book)
    largest = float(np.abs(book).max())
    assert small[0] == wide[0] == 0
    assert np.abs(small.astype(int)).max() <= 127
    assert np.abs(wide.astype(int)).max() <= 4095
    if largest >= 2.0**-60:
        assert np.abs(small.astype(int)).max() == 127
        assert (np.abs(small * np.float64(step) - book) <= 0.51 * float(step)).all()
        if largest < 2.0**100:
            assert (np.abs(np.ldexp(wide.astype(np.float64), -exponent) - book) <= np.ldexp(1.01, -exponent)).all()
