"""Designed constants are left alone, with the reason; what training leaves is not mistaken for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eie.compiler.analysis.constants import designed

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)


def hann(n: int, *, periodic: bool = True) -> Array:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / (n if periodic else n - 1))


def hamming(n: int) -> Array:
    return 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(n) / n)


def stft(n: int, window: Array) -> Array:
    """Real and imaginary parts of a windowed DFT as kernels [2 (n/2 + 1), 1, n], as silero-vad has them."""
    angles = 2 * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n
    return (np.concatenate([np.cos(angles), -np.sin(angles)]) * window)[:, None]


def dft(n: int) -> Array:
    return np.cos(2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n)


def dct(n: int, rows: int) -> Array:
    return np.cos(np.pi / n * np.outer(np.arange(rows), np.arange(n) + 0.5)) * np.sqrt(2 / n)


def cqt(bins: int, taps: int) -> Array:
    """Constant-Q kernels: each a windowed sinusoid of its own length, centred."""
    kernels = np.zeros((bins, 1, taps))
    for i in range(bins):
        length = int(taps / 2 ** (i / bins * 1.2))
        start = (taps - length) // 2
        tone = np.cos(2 * np.pi * 17 * np.arange(length) / length) * hann(length) / length
        kernels[i, 0, start : start + length] = tone
    return kernels


def gabor(filters: int, taps: int) -> Array:
    t = np.arange(taps) - taps // 2
    return np.stack([np.exp(-(t**2) / (2 * (taps / 8) ** 2)) * np.cos(0.3 * (i + 1) * t) for i in range(filters)])[
        :, None
    ]


def sinc(filters: int, taps: int) -> Array:
    t = np.arange(taps) - (taps - 1) / 2
    return np.stack([np.sinc(t * c) * c * np.hamming(taps) for c in np.linspace(0.05, 0.8, filters)])[:, None]


def mel(bands: int, bins: int) -> Array:
    """Triangles, evenly spaced in mel, [bins, bands]."""
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), bands + 2)
    hertz = 700 * (10 ** (mels / 2595) - 1)
    grid = np.linspace(0, 8000, bins)
    rise = (grid[:, None] - hertz[:-2]) / np.diff(hertz)[:-1]
    fall = (hertz[2:] - grid[:, None]) / np.diff(hertz)[1:]
    return np.maximum(0, np.minimum(rise, fall))


def positions(length: int, width: int) -> Array:
    """The table of Attention Is All You Need, section 3.5."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    table = np.zeros((length, width))
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return table


def bilinear(channels: int) -> Array:
    """The kernel of bilinear interpolation, one filter for every channel."""
    line = np.array([0.25, 0.75, 0.75, 0.25])
    return np.tile(np.outer(line, line), (channels, 1, 1, 1))


DESIGNED: list[tuple[str, Callable[[], Array], str, str]] = [
    ("STFT, Hann", lambda: stft(256, hann(256)), "Conv", "filter bank"),
    ("STFT, Hamming", lambda: stft(128, hamming(128)), "Conv", "filter bank"),
    ("STFT, no window", lambda: stft(64, np.ones(64)), "Conv", "filter bank"),
    ("STFT, symmetric Hann", lambda: stft(400, hann(400, periodic=False)), "Conv", "filter bank"),
    ("inverse STFT", lambda: stft(256, hann(256)), "ConvTranspose", "filter bank"),
    ("CQT", lambda: cqt(36, 256), "Conv", "filter bank"),
    ("Gabor", lambda: gabor(32, 101), "Conv", "filter bank"),
    ("sinc band-pass", lambda: sinc(16, 64), "Conv", "filter bank"),
    ("DFT matrix", lambda: dft(64), "MatMul", "table"),
    ("DCT matrix", lambda: dct(80, 40).T, "MatMul", "table"),
    ("mel bank", lambda: mel(40, 257), "MatMul", "bumps"),
    ("mel bank, the other way", lambda: mel(80, 201).T, "Gemm", "bumps"),
    ("positions", lambda: positions(512, 64), "Gather", "table"),
    ("long positions", lambda: positions(2048, 128), "Gather", "table"),
    ("average pooling", lambda: np.full((16, 1, 3, 3), 1 / 9), "Conv", "values are the same"),
    ("moving average", lambda: np.full((1, 1, 25), 1 / 25), "Conv", "values are the same"),
    ("bilinear interpolation", lambda: bilinear(8), "ConvTranspose", "one filter repeated"),
    ("blur", lambda: np.tile(np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256, (8, 1, 1, 1)), "Conv", "one filter repeated"),
    ("identity", lambda: np.eye(32), "MatMul", "mask or a selection"),
    ("one-hot table", lambda: np.eye(10)[RNG.integers(0, 10, 50)], "Gather", "mask or a selection"),
    ("permutation", lambda: np.eye(24)[RNG.permutation(24)], "Gemm", "mask or a selection"),
    ("causal mask", lambda: np.triu(np.ones((16, 16)), 1) * -1e4, "MatMul", "mask or a selection"),
    ("zeros", lambda: np.zeros((16, 16)), "Gemm", "values are the same"),
    ("ones", lambda: np.ones((16, 16)), "MatMul", "values are the same"),
]  # fmt: skip


@pytest.mark.parametrize("make, op, why", [d[1:] for d in DESIGNED], ids=[d[0] for d in DESIGNED])
def test_designed(make: Callable[[], Array], op: str, why: str) -> None:
    array = make().astype(np.float32)
    for stored in (array, array.astype(np.float16).astype(np.float32)):
        found = designed(stored, op)
        assert found is not None
        assert why in found


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape) * 0.1


def smooth_noise(*shape: int) -> Array:
    """Trained kernels of audio are often smooth: white noise through a short average."""
    wide = RNG.standard_normal((*shape[:-1], shape[-1] + 4))
    return sum(wide[..., i : i + shape[-1]] for i in range(5)) / 5


TRAINED: list[tuple[str, Callable[[], Array], str]] = [
    ("matrix", lambda: normal(64, 128), "Gemm"),
    ("wide matrix", lambda: normal(4, 4096), "MatMul"),
    ("low rank", lambda: normal(64, 3) @ normal(3, 128), "MatMul"),
    ("sparse matrix", lambda: normal(64, 64) * (RNG.random((64, 64)) < 0.1), "MatMul"),
    ("non-negative", lambda: np.abs(normal(64, 64)), "Gemm"),
    ("non-negative and sparse", lambda: np.abs(normal(64, 64)) * (RNG.random((64, 64)) < 0.2), "Gemm"),
    ("kernels", lambda: normal(16, 8, 3, 3), "Conv"),
    ("points", lambda: normal(64, 32, 1, 1), "Conv"),
    ("depthwise", lambda: normal(32, 1, 3, 3), "Conv"),
    ("long kernels", lambda: normal(16, 8, 31), "Conv"),
    ("longest kernels", lambda: normal(32, 1, 400), "Conv"),
    ("smooth kernels", lambda: smooth_noise(32, 1, 64), "Conv"),
    ("large kernels", lambda: normal(8, 3, 39, 3), "Conv"),
    ("transposed", lambda: normal(16, 8, 4, 4), "ConvTranspose"),
    ("embedding", lambda: normal(500, 32), "Gather"),
    ("ternary", lambda: RNG.integers(-1, 2, (64, 64)) * 0.3, "Gemm"),
    ("binary", lambda: np.sign(normal(64, 64)), "Gemm"),
    ("few levels", lambda: np.round(normal(64, 64) * 20) / 20, "MatMul"),
    ("attention", lambda: normal(4, 16, 16), "MatMul"),
    ("einsum", lambda: normal(16, 16, 4), "Einsum"),
]


@pytest.mark.parametrize("make, op", [t[1:] for t in TRAINED], ids=[t[0] for t in TRAINED])
def test_trained(make: Callable[[], Array], op: str) -> None:
    array = make().astype(np.float32)
    for stored in (array, array.astype(np.float16).astype(np.float32)):
        assert designed(stored, op) is None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["Gemm", "MatMul", "Gather", "Conv", "ConvTranspose"]), st.data())
def test_noise_is_never_designed(seed: int, op: str, data: st.DataObject) -> None:
    rank = data.draw(st.integers(3, 5)) if op.startswith("Conv") else 2
    shape = tuple(data.draw(st.integers(1, 40 if rank < 4 else 8)) for _ in range(rank))
    rng = np.random.default_rng(seed)
    draw = data.draw(st.sampled_from([rng.standard_normal, lambda size: rng.uniform(-1, 1, size), rng.standard_cauchy]))
    array = np.asarray(draw(size=shape), np.float32)
    if array.size >= 64:
        assert designed(array, op) is None


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_what_was_designed_and_trained_since_is_a_weight(noise: float) -> None:
    """Learnable filter banks start designed; once trained they are weights."""
    for array, op in ((stft(128, hann(128)), "Conv"), (positions(256, 64), "Gather")):
        moved = array + noise * array.std() * RNG.standard_normal(array.shape)
        assert designed(moved.astype(np.float32), op) is None
