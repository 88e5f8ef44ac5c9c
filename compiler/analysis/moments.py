"""Second moments of what flows into a layer: all that its output error depends on.

For y = W x the error of changed weights is E|(W - W') x|^2 = tr((W - W') E[x x^T] (W - W')^T), so E[x x^T] of n x n numbers
stands for any number of samples. Sums are kept in float64, of inputs less a constant offset (their mean in the first batch), since
inputs far from zero would leave nothing of their variance in a difference of large sums.

A layer that reads more than ``WIDE`` values is cut into blocks of neighbouring inputs, and what blocks have in common is left out:
the moments of 9,216 inputs would take 680 MB, those of 6 blocks take 113.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

WIDE = 2048  # inputs from which moments are kept by blocks
_TOGETHER = 512  # rows summed at once
_MOST = 1 << 24  # numbers that a layer's moments hold at most: the wider it is, the narrower its blocks


@dataclass(frozen=True, eq=False)
class Block:
    """Moments of inputs ``begin`` to ``end``.

    Attributes:
        covariance: float64 [groups, n, n], E[(x - m)(x - m)^T]; groups is 1 where all outputs read the same inputs.
        mean: float64 [groups, n], m = E[x].
        cross: float64 [groups, n, n], E[(z - E z)(x - m)^T] with z the inputs in the original model, where x are those in a
            model whose earlier layers are compressed already; None where they are the same.
        mean_before: float64 [groups, n], E[z]; ``mean`` where ``cross`` is None.
    """

    begin: int
    end: int
    covariance: Array64
    mean: Array64
    cross: Array64 | None = None
    mean_before: Array64 | None = None

    def second(self) -> Array64:
        """E[x x^T]."""
        return np.asarray(self.covariance + self.mean[:, :, None] * self.mean[:, None, :])


@dataclass(frozen=True, eq=False)
class Moments:
    """Attributes:
    blocks: side by side they cover all inputs; one, but for layers wider than ``WIDE``.
    rows: how many inputs they are the mean of; 0: nothing is known, and white ones (identity) are assumed.
    low, high: of all values seen.
    vectors: how many inputs the layer multiplies in a run, on average.
    """

    blocks: tuple[Block, ...]
    rows: int
    low: float = 0.0
    high: float = 0.0
    vectors: float = 1.0

    @classmethod
    def white(cls, width: int) -> Moments:
        """Independent inputs of the same energy: an output's error is that of the weights."""
        cuts = [(b, np.broadcast_to(np.eye(e - b), (1, e - b, e - b)), np.zeros((1, e - b))) for b, e in spans(width)]
        return cls(tuple(Block(b, b + m.shape[1], c, m) for b, c, m in cuts), 0)

    @property
    def known(self) -> bool:
        return self.rows > 0

    @property
    def width(self) -> int:
        return self.blocks[-1].end

    def noise(self, difference: Array, *, centred: bool = False) -> float:
        """Summed over outputs, E|d x|^2 for changes d of weights [groups, out, values]; ``centred``: less what a bias takes up."""
        total = 0.0
        for block in self.blocks:
            d = difference[:, :, block.begin : block.end]
            scale = float(np.abs(block.covariance).max(initial=0)) or 1.0
            total += scale * float(np.vdot(np.matmul(d, (block.covariance / scale).astype(np.float32)), d))
            if not centred:
                total += float(
                    np.square(np.matmul(d, block.mean[:, :, None].astype(np.float32)), dtype=np.float64).sum()
                )
        return max(0.0, total)

    def shift(self, before: Array, after: Array) -> Array64:
        """E[W z] - E[W' x], float64 [groups, out]: what the bias has to make up for. W and W' are [groups, out, values]."""
        total = np.zeros(before.shape[:2])
        for block in self.blocks:
            part = slice(block.begin, block.end)
            mean = block.mean if block.mean_before is None else block.mean_before
            total += np.matmul(before[:, :, part], mean[:, :, None])[:, :, 0]
            total -= np.matmul(after[:, :, part], block.mean[:, :, None])[:, :, 0]
        return total


def spans(width: int) -> list[tuple[int, int]]:
    """Begin and end of each block."""
    count = -(-width // min(WIDE, max(64, _MOST // max(1, width))))
    edges = np.linspace(0, width, count + 1).astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def bytes_of(groups: int, width: int, *, paired: bool = False) -> int:
    """Memory that the sums of a layer take."""
    return groups * sum((e - b) ** 2 for b, e in spans(width)) * 8 * (2 if paired else 1)


class Sums:
    """Running sums of a layer's inputs, in a model and, where given, in the original beside it."""

    def __init__(self) -> None:
        self.rows = self.runs = self.vectors = 0
        self.low, self.high = float("inf"), float("-inf")
        self._blocks: list[_BlockSums] = []
        self._waiting: list[tuple[Array, Array | None]] = []
        self._count = 0

    def add(self, x: Array, vectors: int, z: Array | None = None) -> None:
        """Take in rows, float32 [groups, rows, values], drawn from so many of a run; ``z``: the same rows in the original. Rows
        that are not finite are left out."""
        self.runs += 1
        self.vectors += vectors
        good = np.isfinite(x).all(axis=(0, 2))
        if z is not None:
            good &= np.isfinite(z).all(axis=(0, 2))
        if not good.all():
            x, z = x[:, good], None if z is None else z[:, good]
        if not x.shape[1]:
            return
        self.rows += x.shape[1]
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self._waiting.append((x, z))
        self._count += x.shape[1]
        if self._count >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        """Rows of several runs at once: a sum of n x n numbers costs as much for one row as for hundreds."""
        if not self._waiting:
            return
        x = np.concatenate([part[0] for part in self._waiting], axis=1)
        z = (
            np.concatenate([part[1] for part in self._waiting if part[1] is not None], axis=1)
            if self._waiting[0][1] is not None
            else None
        )
        self._waiting, self._count = [], 0
        if not self._blocks:
            self._blocks = [_BlockSums(b, e, x[:, :, b:e], z is not None) for b, e in spans(x.shape[2])]
        for block in self._blocks:
            block.add(x, z)

    def moments(self) -> Moments | None:
        """Their means; None where nothing was seen."""
        if not self.rows:
            return None
        self._flush()
        blocks = tuple(b.moments(self.rows) for b in self._blocks)
        return Moments(blocks, self.rows, self.low, self.high, self.vectors / self.runs)


class _BlockSums:
    def __init__(self, begin: int, end: int, x: Array, paired: bool) -> None:
        groups, n = x.shape[0], end - begin
        self.begin, self.end = begin, end
        self.offset = x.mean(axis=1, dtype=np.float64).astype(np.float32)
        self.first, self.second = np.zeros((groups, n)), np.zeros((groups, n, n))
        self.first_z = np.zeros((groups, n)) if paired else None
        self.cross = np.zeros((groups, n, n)) if paired else None

    def add(self, x: Array, z: Array | None) -> None:
        x = x[:, :, self.begin : self.end] - self.offset[:, None]
        self.first += x.sum(axis=1, dtype=np.float64)
        self.second += _products(x, x)
        if z is not None:
            assert self.first_z is not None and self.cross is not None
            z = z[:, :, self.begin : self.end] - self.offset[:, None]
            self.first_z += z.sum(axis=1, dtype=np.float64)
            self.cross += _products(z, x)

    def moments(self, rows: int) -> Block:
        mean = self.first / rows
        covariance = self.second / rows - mean[:, :, None] * mean[:, None, :]
        covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
        if self.first_z is None or self.cross is None:
            return Block(self.begin, self.end, covariance, mean + self.offset)
        mean_z = self.first_z / rows
        cross = self.cross / rows - mean_z[:, :, None] * mean[:, None, :]
        return Block(self.begin, self.end, covariance, mean + self.offset, cross, mean_z + self.offset)


def _products(z: Array, x: Array) -> Array64:
    """Sum of z x^T over rows: in float32 for those of a batch, where it holds them; sums of batches are in float64."""
    scale = max(float(np.abs(z).max(initial=0)), float(np.abs(x).max(initial=0)))
    if not 1e-12 < scale < 1e12:
        return np.asarray(np.matmul(z.transpose(0, 2, 1).astype(np.float64), x.astype(np.float64)))
    return np.asarray(np.matmul(z.transpose(0, 2, 1), x), np.float64)
