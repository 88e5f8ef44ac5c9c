"""More samples than there are: each one moved a little, another way every time it is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted(batch: Mapping[str, Tensor], most: int, spared: Collection[str] = ()) -> dict[str, Tensor]:
    """Every sample moved along its last two axes by up to ``most`` places each way, zeros coming in.

    Args:
        batch: arrays [samples, ..., height, width] of floats are moved; those of fewer than 3 axes, and of integers, stay.
        most: places; draws come from torch's generator.
        spared: names of arrays that stay.
    """
    moved = {}
    for name, value in batch.items():
        image = value.ndim >= 3 and value.is_floating_point() and name not in spared
        moved[name] = _shift(value, most) if most and image else value
    return moved


def _shift(images: Tensor, most: int) -> Tensor:
    count, height, width = len(images), images.shape[-2], images.shape[-1]
    padded = F.pad(images, (most, most, most, most)).reshape(count, -1, (height + 2 * most) * (width + 2 * most))
    down, right = torch.randint(0, 2 * most + 1, (2, count), device=images.device)
    rows = (down[:, None] + torch.arange(height, device=images.device)) * (width + 2 * most)
    columns = right[:, None] + torch.arange(width, device=images.device)
    places = (rows[:, :, None] + columns[:, None, :]).reshape(count, 1, -1).expand(-1, padded.shape[1], -1)
    return padded.gather(2, places).reshape(images.shape)
