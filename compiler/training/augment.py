"""More samples than there are: each one moved a little, another way every time it is seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import describe, inputs_of
from ..ir.graph import Model
from .data import TrainingData

Axes = tuple[int, int]  # of rows and columns, counted from the end

_LEAST = 16  # rows and columns of an image at least: 49 steps of 10 coefficients are none, and no state of a network is


def pictures(model: Model, data: TrainingData) -> dict[str, Axes]:
    """The arrays that ``shifted`` may move, and along which axes: inputs that hold images, [N, C, H, W] or [N, H, W, C], and labels
    or other arrays of the same places. Nothing where an array of three axes or more has other places than the images: it
    might say where in them something is.
    """
    probe = {n: np.asarray(a) for n, a in data.train.take(np.arange(1)).items() if n not in data.alike}
    found: dict[str, Axes] = {}
    sizes: set[tuple[int, int]] = set()
    for i in describe(inputs_of(model)):
        array = probe.get(i.name)
        if array is None or array.dtype.kind != "f" or array.ndim - (1 if data.stacked else 0) != 4:
            continue
        axes = (-3, -2) if array.shape[-1] <= 4 < array.shape[-3] else (-2, -1)
        size = (array.shape[axes[0]], array.shape[axes[1]])
        if min(size) >= _LEAST:
            found[i.name] = axes
            sizes.add(size)
    if len(sizes) != 1:
        return {}
    (size,) = sizes
    for name, array in probe.items():
        if name in found or array.ndim < 3 + data.stacked:
            continue
        fit: list[Axes] = [a for a in ((-2, -1), (-3, -2)) if array.ndim > -a[0] and (array.shape[a[0]], array.shape[a[1]]) == size]
        if not fit:
            return {}
        found[name] = fit[0]
    return found


def shifted(batch: Mapping[str, Tensor], most: int, moved: Mapping[str, Axes]) -> dict[str, Tensor]:
    """Every sample moved by up to ``most`` places along its rows and its columns, zeros coming in; all arrays of a sample alike.

    Args:
        batch: arrays [samples, ...].
        most: places; draws come from torch's generator.
        moved: which arrays, and along which axes; others stay.
    """
    if not most or not moved:
        return dict(batch)
    first = batch[next(iter(moved))]
    by = torch.randint(0, 2 * most + 1, (2, len(first)), device=first.device)
    return {name: _shift(value, most, by, moved[name]) if name in moved else value for name, value in batch.items()}


def _shift(images: Tensor, most: int, by: Tensor, axes: Axes) -> Tensor:
    """``by``: where in an image with ``most`` zeros around it each one begins, [2, samples]."""
    last = images.movedim(axes, (-2, -1))
    count, height, width = len(last), last.shape[-2], last.shape[-1]
    padded = F.pad(last, (most, most, most, most)).reshape(count, -1, (height + 2 * most) * (width + 2 * most))
    rows = (by[0][:, None] + torch.arange(height, device=images.device)) * (width + 2 * most)
    columns = by[1][:, None] + torch.arange(width, device=images.device)
    places = (rows[:, :, None] + columns[:, None, :]).reshape(count, 1, -1).expand(-1, padded.shape[1], -1)
    return padded.gather(2, places).reshape(last.shape).movedim((-2, -1), axes)
