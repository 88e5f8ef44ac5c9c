"""Is it a weight? Constants somebody designed (filter banks, windows, masks, tables) look like weights and are none.

What training leaves is noise to everyone who does not know the data: no value follows from its neighbours. What is designed
follows a formula, and that shows without knowing which: a windowed sinusoid obeys a short linear recurrence along its taps,
a linear-phase filter mirrors itself, a mask has two values, a mel bank's rows are single bumps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LONG = 16  # taps from which a kernel can be told from noise by its shape
_PREDICTED = 3e-3  # share of energy a recurrence may leave unexplained
_ORDER = 6  # of the recurrence: a sinusoid takes 2, under a Hann window 6
_MIRRORED = 1e-3  # relative difference between a filter and its mirror image


def designed(array: Array, op: str, slot: int = 1) -> str | None:
    """Why a constant is no trained weight, as a sentence; None where it looks trained.

    Args:
        array: float32, all finite, two or more dimensions, as its operator has it.
        op: the operator that reads it.
        slot: the input it is.
    """
    distinct = _few_distinct(array)
    if distinct is not None:
        if distinct.size == 1:
            return "all its values are the same: no trained weight"
        if distinct.size == 2 and 0 in distinct:
            return "a mask or a selection: its only values are 0 and one other"
    largest = float(np.abs(array).max(initial=0))
    if largest > 0:  # what follows squares values
        array = array.astype(np.float64) / largest
    if op in {"Conv", "ConvTranspose"}:
        return _kernel(array)
    if op in {"Gemm", "MatMul", "Gather", "Einsum"} and array.ndim == 2 and min(array.shape) >= 4:
        return _matrix(array)
    return None


def _few_distinct(array: Array) -> Array | None:
    """The distinct values where there are at most two."""
    flat = array.reshape(-1)
    first = flat[0]
    others = flat[flat != first]
    if not others.size:
        return np.array([first])
    return np.array([first, others[0]]) if bool((others == others[0]).all()) else None


def _kernel(array: Array) -> str | None:
    """Designed convolution kernels, [out, in/group, k...]."""
    filters = array.reshape(array.shape[0] * array.shape[1], -1)
    taps = filters.shape[1]
    alive = filters[np.abs(filters).max(axis=1) > 0]
    if taps >= 4 and len(alive) >= 4 and np.abs(alive - alive[0]).max() <= 1e-6 * np.abs(alive[0]).max():
        return "one filter repeated for every channel: an averaging or interpolation kernel"
    longest = max(array.shape[2:], default=0)
    if longest < _LONG or taps > longest:  # two-dimensional kernels of this length are trained ones
        return None
    if _mirrored(alive):
        return "a filter bank: every filter mirrors itself"
    if _predictable(alive):
        return "a filter bank: its taps follow a short recurrence, as windowed sinusoids do"
    return None


def _matrix(array: Array) -> str | None:
    """Designed matrices: transforms, mel banks, tables of sinusoids."""
    for rows in (array, array.T):
        if rows.shape[1] >= _LONG and _bumps(rows):
            return "a bank of overlapping windows: its rows are single non-negative bumps"
        if rows.shape[1] >= 2 * _LONG and _predictable(rows):
            return "a table: its values follow a short recurrence, as sinusoids do"
    return None


def _mirrored(filters: Array) -> bool:
    """Every filter equals its mirror image, or the negative of it; a periodic window lacks its last tap."""
    if len(filters) == 0:
        return False
    for part in (filters, filters[:, 1:]):
        mirror = part[:, ::-1]
        scale = np.abs(part).max(axis=1)
        difference = np.minimum(np.abs(part - mirror).max(axis=1), np.abs(part + mirror).max(axis=1))
        if bool((difference <= _MIRRORED * np.maximum(scale, 1e-30)).all()):
            return True
    return False


def _predictable(rows: Array) -> bool:
    """A recurrence of a few taps, fitted to each row, explains almost all of most rows."""
    if rows.shape[1] < 4 * _ORDER:
        return False
    picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), 64)).astype(int)].astype(np.float64)
    left = []
    for row in picked:
        energy = float(row @ row)
        if energy == 0:
            continue
        past = np.lib.stride_tricks.sliding_window_view(row[:-1], _ORDER)
        target = row[_ORDER:]
        coefficients, *_ = np.linalg.lstsq(past, target, rcond=1e-10)
        rest = target - past @ coefficients
        left.append(float(rest @ rest) / max(float(target @ target), 1e-30 + 1e-9 * energy))
    return bool(left) and float(np.quantile(left, 0.75)) < _PREDICTED


def _bumps(rows: Array) -> bool:
    """Non-negative, mostly zero, and each row rises once and falls once on one stretch."""
    if rows.min() < 0 or np.count_nonzero(rows) > 0.5 * rows.size:
        return False
    slope = np.sign(np.diff(rows, axis=1, prepend=0, append=0))
    for line in slope:
        steps = line[line != 0]
        if steps.size and (np.diff(steps) > 0).any():  # falls, then rises again
            return False
    return True
