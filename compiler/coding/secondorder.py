"""Codes for a layer's weights, chosen for the layer's output instead of the weights themselves.

The output error of changed weights is tr(D H D^T), with H the second moments of the inputs (compiler/analysis/moments.py). Columns
(inputs) are settled one after another. What rounding, or removing, the weights of a column does to the output is made up for, as far
as it can be, by the weights of the columns still to come: with H^-1 = U^T U, U upper triangular, an error e in column j costs
(e / U_jj)^2 and the rest moves by -e U_j,j+1: / U_jj. This is Optimal Brain Surgeon (Hassibi and Stork, 1993) in a fixed order, for
pruning as in SparseGPT (Frantar and Alistarh, 2023), for rounding as in GPTQ (Frantar et al., 2023); here both at once: zero is one
of the values a weight can become.

Which value: the one that minimizes error + price * bits, bits being what the entropy coder will take for it (compiler/coding/rate.py).
On a grid of even steps that beats pruning followed by k-means at the same bytes, and how many weights become zero follows from the
step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..analysis.moments import Block, Moments
from .rate import Codes, bits_of, cheapest

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

COLUMNS = 64  # settled before the rest is brought up to date
TRUST = 0.4  # share of the mean variance added where weights are made to undo earlier errors: less fits noise of few samples
PRICE = 0.06  # of a bit, in squared steps of a column of mean importance: the slope of an entropy coder's error over its bits


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the input's moments say, ready for use: one item a block of inputs.

    Attributes:
        order: int [n], columns in the order they are settled.
        upper: float32 [groups, n, n], U of the inverse moments, in that order.
        target: float64 [groups, n, n] or None: what to multiply weights by, so that their output on the inputs as they are comes
            nearest to the original's on the original's (``Block.cross``).
        damped: share of the mean variance that was added to each input's.
        dead: inputs that never vary (and are not seen: a share, 0 to 1).
    """

    begin: int
    end: int
    order: npt.NDArray[np.int64]
    upper: Array
    target: Array64 | None
    damped: float
    dead: float


def geometry(moments: Moments, *, centred: bool, damp: float) -> list[Geometry]:
    """Factors of the moments, damped so that they exist and so that few samples are not taken for the truth.

    Args:
        centred: the layer's bias takes up the mean, so that only the covariance counts.
        damp: share of the mean variance that each input is given on top.
    """
    return [_geometry(block, moments.rows, centred, damp) for block in moments.blocks]


def _geometry(block: Block, rows: int, centred: bool, damp: float) -> Geometry:
    h = block.covariance if centred else block.second()
    n = h.shape[-1]
    diagonal = np.einsum("gii->gi", h)
    level = diagonal.mean(axis=1)  # of each group
    scale = float(level.mean())
    dead = float((diagonal <= 1e-12 * max(scale, 1e-300)).mean())
    if rows:  # the moments of few rows are uncertain by about sqrt(n / rows): shrunk towards white ones by as much
        damp = max(damp, min(1.0, 0.1 * n / rows))
    floor = np.where(level > 0, level, max(scale, 1e-30))
    order = np.argsort(-diagonal.mean(axis=0), kind="stable")  # inputs of large variance first
    target = None
    for _ in range(12):
        damped = h + (damp * floor)[:, None, None] * np.eye(n)
        try:
            if block.cross is not None and target is None:
                target = _target(block, h, damped, centred)
            turned = damped[:, order[:, None], order]
            upper = _inverse_factor(turned)
        except np.linalg.LinAlgError:
            damp *= 10
            continue
        if np.isfinite(upper).all():
            return Geometry(block.begin, block.end, order, upper.astype(np.float32), target, damp, dead)
        damp *= 10
    white = np.broadcast_to(np.eye(n, dtype=np.float32), h.shape)
    return Geometry(block.begin, block.end, order, white, None, float("inf"), dead)


def _inverse_factor(h: Array64) -> Array64:
    """U upper triangular with h^-1 = U^T U."""
    lower = np.linalg.cholesky(h[:, ::-1, ::-1])[:, ::-1, ::-1]  # h = R R^T with R upper triangular
    return np.asarray(np.linalg.inv(lower))


def _target(block: Block, h: Array64, damped: Array64, centred: bool) -> Array64:
    """T with W T the weights that on the inputs as they are now come nearest to W on the original's; near 1 by damping."""
    assert block.cross is not None and block.mean_before is not None
    cross = block.cross if centred else block.cross + block.mean_before[:, :, None] * block.mean[:, None, :]
    # W T = argmin |W z - V x|^2 + d |V - W|^2  =>  V = W (E[z x^T] + d) (E[x x^T] + d)^-1
    level = np.einsum("gii->gi", h).mean(axis=1)
    more = (TRUST * level)[:, None, None] * np.eye(h.shape[-1])
    damped = damped + more
    return np.asarray(np.linalg.solve(damped, (cross + (damped - h)).transpose(0, 2, 1)).transpose(0, 2, 1))


class Settings:
    """How codes are chosen.

    Args:
        levels: float64 [k], ascending, zero among them: what a weight can become.
        price: of a bit, in squared steps; 0: the nearest value.
        mask: which weights may be other than zero, bool [groups, out, n]; None: all.
        exact: weights in the mask never become zero: patterns that kernels rely on.
    """

    def __init__(
        self, levels: Array64, price: float, mask: npt.NDArray[np.bool_] | None = None, exact: bool = False
    ) -> None:
        self.levels, self.price, self.mask, self.exact = levels, price, mask, exact
        self.zero = int(np.searchsorted(levels, 0.0))


def grid(weights: Array, step: float) -> Array64:
    """Multiples of ``step`` from the least to the largest weight, at most 255 beside zero: the step grows where they are more.
    There are more of them than the weights need, as far as that allows: weights that make up for others grow."""
    low, high = float(weights.min(initial=0)), float(weights.max(initial=0))
    step = max(step, (high - low) / 253, 1e-30)
    room = min(1.0, max(0.0, 253 * step / max(high - low, 1e-30) - 1))
    low, high = low * (1 + room), high * (1 + room)
    return step * np.arange(np.floor(low / step), np.ceil(high / step) + 1)[:256]


def pruned(weights: Array, factors: list[Geometry], mask: npt.NDArray[np.bool_]) -> Array:
    """What the weights in ``mask`` become when the others go: as ``assign``, but that any value will do."""
    found = np.array(weights, np.float32)
    for factor in factors:
        part = slice(factor.begin, factor.end)
        order, upper = factor.order, factor.upper
        rest = np.ascontiguousarray(found[:, :, part][:, :, order].transpose(0, 2, 1))  # [groups, n, out]
        gone = ~mask[:, :, part][:, :, order].transpose(0, 2, 1)
        n = len(order)
        for begin in range(0, n, COLUMNS):
            end = min(n, begin + COLUMNS)
            errors = np.zeros((rest.shape[0], end - begin, rest.shape[2]), np.float32)
            for j in range(begin, end):
                error = np.where(gone[:, j], rest[:, j], 0) / upper[:, j, j, None]
                errors[:, j - begin] = error
                rest[:, j] = np.where(gone[:, j], 0, rest[:, j])
                if j + 1 < end:
                    rest[:, j + 1 : end] -= upper[:, j, j + 1 : end, None] * error[:, None]
            if end < n:
                rest[:, end:] -= np.matmul(upper[:, begin:end, end:].transpose(0, 2, 1), errors)
        block = np.empty_like(found[:, :, part])
        block[:, :, order] = rest.transpose(0, 2, 1)
        found[:, :, part] = block
    return np.where(mask, found, 0)


def assign(weights: Array, factors: list[Geometry], settings: Settings) -> Codes:
    """Index of the level each weight becomes, int64 [groups, out, n]: what the coder takes for each level is estimated from the
    nearest levels, then from a first pass.

    Args:
        weights: float32 [groups, out, n], those to approximate on the inputs as they are.
    """
    first = _nearest(settings.levels, weights)
    if settings.mask is not None:
        first[~settings.mask] = settings.zero
    bits = _bits(first, settings.levels.size)
    if settings.price > 0:
        bits = _bits(_settle(weights, factors, settings, bits), settings.levels.size)
    return _settle(weights, factors, settings, bits)


def _bits(codes: Codes, count: int) -> Array64:
    return bits_of(np.bincount(codes.reshape(-1), minlength=count), unseen=0.1)


def _nearest(levels: Array64, values: npt.NDArray[np.floating]) -> Codes:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)


def _settle(weights: Array, factors: list[Geometry], settings: Settings, bits: Array64) -> Codes:
    codes = np.empty(weights.shape, np.int64)
    for factor in factors:
        part = slice(factor.begin, factor.end)
        mask = None if settings.mask is None else settings.mask[:, :, part]
        codes[:, :, part] = _settle_block(weights[:, :, part], factor, settings, bits, mask)
    return codes


def _settle_block(
    weights: Array, factor: Geometry, settings: Settings, bits: Array64, mask: npt.NDArray[np.bool_] | None
) -> Codes:
    order, upper = factor.order, factor.upper
    groups, out, n = weights.shape
    # columns outermost: each is then one stretch of memory
    rest = np.ascontiguousarray(weights[:, :, order].transpose(0, 2, 1))  # [groups, n, out]
    kept = None if mask is None else mask[:, :, order].transpose(0, 2, 1)
    found = np.empty((n, groups, out), np.int64)
    levels = settings.levels.astype(np.float32)
    middles = ((settings.levels[1:] + settings.levels[:-1]) / 2).astype(np.float32)
    zero, bits32 = settings.zero, bits.astype(np.float32)
    steps = np.diff(settings.levels)
    step = float(np.median(steps)) if steps.size else 1.0
    pivots = np.einsum("gii->gi", upper)  # U_jj
    # importance of a column: what a unit error costs; the price of a bit is set against the mean
    mean = float(np.mean(1 / np.square(pivots, dtype=np.float64)))
    charge = settings.price * step * step * mean
    downward = np.arange(levels.size) - np.sign(np.arange(levels.size) - zero)
    for begin in range(0, n, COLUMNS):
        end = min(n, begin + COLUMNS)
        errors = np.empty((groups, end - begin, out), np.float32)
        for j in range(begin, end):
            w = rest[:, j]
            pivot = pivots[:, j, None]
            code = np.searchsorted(middles, w)
            if charge > 0:
                rate = (charge * np.square(pivot)).astype(np.float32)  # per bit, in squared units of this column
                code = cheapest(w, levels, bits32, rate, _candidates(code, downward[code], zero, settings.exact))
            if settings.exact:
                code = np.where(code == zero, np.where(w >= 0, zero + 1, zero - 1).clip(0, levels.size - 1), code)
            if kept is not None:
                code = np.where(kept[:, j], code, zero)
            found[j] = code
            error = (w - levels[code]) / pivot
            errors[:, j - begin] = error
            if j + 1 < end:
                rest[:, j + 1 : end] -= upper[:, j, j + 1 : end, None] * error[:, None]
        if end < n:
            rest[:, end:] -= np.matmul(upper[:, begin:end, end:].transpose(0, 2, 1), errors)
    codes = np.empty((groups, out, n), np.int64)
    codes[:, :, order] = found.transpose(1, 2, 0)
    return codes


def _candidates(near: Codes, lower: Codes, zero: int, exact: bool) -> tuple[Codes | int, ...]:
    """The nearest level, the next one towards zero, and zero, where it is allowed: others cost more."""
    return (near, np.where(lower == zero, near, lower)) if exact else (near, lower, zero)
