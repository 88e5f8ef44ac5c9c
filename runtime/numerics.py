"""What i16 and u8 mean, and the functions of gates: the specification that the C core matches bit for bit.

docs/numerics.md says it in words. Everything is float32, one operation at a time, rounded to nearest even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

_F = np.float32
_TINY = _F(2.0**-100)
_LARGEST = np.finfo(np.float32).max


# -- quantization: of vectors along the last axis --------------------------------------------------------------------------


@np.errstate(all="ignore")
def quantize_u8(x: Floats) -> tuple[npt.NDArray[np.uint8], Floats, npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Each vector as q, scale and zero with x about (q - zero) * scale.

    Args:
        x: float32 [..., n].

    Returns:
        q uint8 [..., n]; scale float32 [...]; zero int32 [...]; finite bool [...]: False where a vector holds a NaN or an
        infinity, or its range overflows. All outputs of such a vector are NaN, and its q, scale and zero mean nothing.
    """
    finite = np.asarray(np.isfinite(x).all(-1))
    held = np.where(finite[..., None], x, _F(0))
    lo, hi = held.min(-1, initial=_F(0)), held.max(-1, initial=_F(0))
    scale = (hi - lo) / _F(255)
    finite = finite & (scale <= _LARGEST)
    flat = scale < _TINY
    scale = np.where(flat, _F(1), scale)
    inverse = np.where(flat, _F(0), _F(1) / scale)
    zero = np.rint(-lo * inverse)
    q = np.clip(np.rint(held * inverse[..., None]) + zero[..., None], _F(0), _F(255))
    usable = finite[..., None]
    return np.where(usable, q, 0).astype(np.uint8), scale, np.where(finite, zero, 0).astype(np.int32), finite


def quantize_i16(x: Floats) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Each vector as q and an exponent with x about q * 2^-exponent.

    Args:
        x: float32 [..., n].

    Returns:
        q int16 [..., n], exponent int32 [...], finite bool [...] as in ``quantize_u8``.
    """
    finite = np.asarray(np.isfinite(x).all(-1))
    held = np.where(finite[..., None], x, _F(0))
    exponent = _exponent(np.abs(held).max(-1, initial=_F(0)), 15)
    q = np.clip(np.rint(np.ldexp(held, exponent[..., None])), -32767, 32767)
    return q.astype(np.int16), exponent, finite


def codebook_u8(codebook: Floats) -> tuple[npt.NDArray[np.int8], np.float32]:
    """The codebook's values in -127 .. 127, and the step they count."""
    largest = np.abs(codebook).max(initial=_F(0))
    if largest < _TINY:
        return np.zeros(codebook.shape, np.int8), _F(1)
    step = _F(largest / _F(127))
    return np.clip(np.rint(codebook * (_F(1) / step)), -127, 127).astype(np.int8), step


def codebook_i16(codebook: Floats) -> tuple[npt.NDArray[np.int16], int]:
    """The codebook's values in -4095 .. 4095, and the exponent: values about c * 2^exponent."""
    exponent = _exponent(np.abs(codebook).max(initial=_F(0)), 12)
    return np.clip(np.rint(np.ldexp(codebook, exponent)), -4095, 4095).astype(np.int16), int(exponent)


def _exponent(largest: Array, bits: int) -> npt.NDArray[np.int32]:
    _, p = np.frexp(largest)
    return np.where(largest > 0, np.clip(bits - p, -100, 100), 0).astype(np.int32)


@np.errstate(all="ignore")
def scale_u8(sums: npt.NDArray[np.int64], factor: Array) -> Floats:
    """Outputs from exact sums, the zero point taken off; ``factor`` is scale * step, one float32 product."""
    return sums.astype(np.float32) * factor


@np.errstate(all="ignore")
def scale_i16(sums: npt.NDArray[np.int64], exponent: Array) -> Floats:
    """Outputs from exact sums; ``exponent`` is that of the activations plus that of the codebook."""
    return np.ldexp(sums.astype(np.float32).astype(np.float64), -exponent).astype(np.float32)


# -- gates -------------------------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def exp(x: Floats) -> Floats:
    """e^x for x in -87 .. 87, beyond that its value at the end; NaN stays NaN. Relative error below 2^-22.

    x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts), a polynomial of degree 7 in r, times 2^n.
    """
    x = np.clip(x, _F(-87), _F(87))
    n = np.rint(x * _F(1.44269504))
    r = (x - n * _F(0.693359375)) - n * _F(-2.12194440e-4)
    p = np.full_like(x, _F(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + _F(c)
    known = np.nan_to_num(n).astype(np.int32)
    y: Floats = np.ldexp((p * (r * r) + r) + _F(1), known)
    return y


@np.errstate(all="ignore")
def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    return _F(1) / (_F(1) + exp(-x))


@np.errstate(all="ignore")
def tanh(x: Floats) -> Floats:
    """Below 0.625 an odd polynomial, from there (1 - t) / (1 + t) with t = e^(-2 |x|)."""
    a = np.abs(x)
    z = x * x
    p = np.full_like(x, _F(-5.70498872745e-3))
    for c in (2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
        p = p * z + _F(c)
    t = exp(_F(-2) * a)
    return np.where(a < _F(0.625), (p * z) * x + x, np.copysign((_F(1) - t) / (_F(1) + t), x))
