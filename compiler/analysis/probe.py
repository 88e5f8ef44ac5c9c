"""A layer's output error for changed weights, without running the model again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .layers import Layer

Array = npt.NDArray[np.float32]

_WEIGHTS = 1 << 19  # a larger layer is judged on as many of its rows, drawn at random: the error is a mean over rows


class Probe:
    """Keeps a layer's weights as they are now, and the activations to judge changes on.

    Args:
        layer: the layer, before it is changed.
        rows: its activations [groups, rows, values] from ``capture``; None: white ones are assumed, so that the error is
            that of the weights themselves.
    """

    def __init__(self, layer: Layer, rows: Array | None) -> None:
        weight = layer.array()
        matrix = as_matrix(layer, weight)
        self.size = int(weight.size)
        self._picked: npt.NDArray[np.integer] | None = None
        if weight.size > _WEIGHTS:
            keep = max(1, matrix.shape[1] * _WEIGHTS // weight.size)
            self._picked = np.sort(np.random.default_rng(0).permutation(matrix.shape[1])[:keep])
            matrix = matrix[:, self._picked]
        self.matrix = np.ascontiguousarray(matrix)
        self._rows = None if rows is None else np.ascontiguousarray(rows.transpose(0, 2, 1))
        self._signal = self._energy(self.matrix)

    def _energy(self, matrix: Array) -> float:
        """|M X|^2, or |M|^2 without rows."""
        if self._rows is not None:
            matrix = matrix @ self._rows
        return float(np.square(matrix, dtype=np.float64).sum())

    def noise_ratio(self, changed: Array) -> float:
        """|(M - M') X|^2 / |M X|^2 for a changed ``matrix``."""
        noise = self._energy(self.matrix - changed)
        return noise / self._signal if self._signal > 0 else float(noise > 0)

    def error(self, layer: Layer) -> float:
        """Relative error (root mean square) of the layer's output for the weights it has now."""
        matrix = as_matrix(layer, layer.array())
        return float(np.sqrt(self.noise_ratio(matrix if self._picked is None else matrix[:, self._picked])))


def as_matrix(layer: Layer, weight: Array) -> Array:
    """A layer's weight as [groups, out, values], matching ``capture``'s rows."""
    if layer.op == "Conv":
        groups = int(layer.node.get("group", 1))
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    if layer.op == "ConvTranspose":  # each input position scatters x W: [in, out, k...] read as [out * k, in]
        groups = int(layer.node.get("group", 1))
        return weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    return weight.reshape(1, -1, weight.shape[-1])
