"""Values to share: one-dimensional k-means, exact (csrc/cluster/kmeans1d.c), or by Lloyd's iterations from a start."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST = 1 << 20  # distinct values that are clustered one by one; of more, equal shares are merged into their means first
_ITERATIONS = 300


def fit_codebook(values: Array, bits: int, *, init: str = "optimal", seed: int = 0, bins: int = MOST) -> Array:
    """At most 2^bits - 1 centroids for non-zero values, ascending, float32, none of them zero.

    Args:
        values: float32 [n], n > 0, finite.
        bits: 1 to 8.
        init: of Lloyd's iterations (``_start``); ``optimal`` needs none.
        seed: of Forgy's draw.
        bins: distinct values kept apart; of more, neighbours are merged into their means first.
    """
    k = (1 << bits) - 1
    found, counts = np.unique(values, return_counts=True)
    if found.size <= k:
        return found.astype(np.float32)
    distinct = found.astype(np.float64)
    if distinct.size > bins:
        distinct, counts = _merge(distinct, counts, bins)
    weights = counts.astype(np.float64)
    centroids = (
        _optimal(distinct, weights, k)
        if init == "optimal"
        else _lloyd(distinct, weights, _start(distinct, weights, k, init, seed))
    )
    found = centroids.astype(np.float32)
    found[found == 0] = np.finfo(np.float32).tiny  # zero itself is code 0's
    return np.unique(found)


def nearest(centroids: Array, values: Array) -> Array:
    """Index of the nearest centroid (ascending) for each value; of two as near, the lower."""
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2  # in float32 the sum could overflow
    return np.searchsorted(middles, values)


def _merge(values: Array, counts: Array, bins: int) -> tuple[Array, Array]:
    total = np.cumsum(counts)
    # bins half as narrow where values are many, half as evenly spread: rare large values keep bins of their own
    place = (total - counts / 2) / total[-1] + (values - values[0]) / (values[-1] - values[0])
    bin_of = np.minimum(place * (bins / 2), bins - 1).astype(np.int64)
    weight = np.bincount(bin_of, counts, bins)
    mean = np.bincount(bin_of, counts * values, bins)
    kept = weight > 0
    return mean[kept] / weight[kept], weight[kept]


def _optimal(values: Array, weights: Array, k: int) -> Array:
    from eie.runtime._core import ffi, lib

    centroids, first = np.zeros(k), np.zeros(k, np.uint64)
    used, cost = ffi.new("size_t *"), ffi.new("double *")
    values, weights = np.ascontiguousarray(values), np.ascontiguousarray(weights)
    status = lib.eie_kmeans1d(
        ffi.from_buffer("double[]", values),
        ffi.from_buffer("double[]", weights),
        values.size,
        k,
        ffi.from_buffer("double[]", centroids),
        ffi.from_buffer("size_t[]", first),
        used,
        cost,
    )
    if status == lib.EIE_E_MEMORY:
        raise MemoryError("clustering")
    assert status == lib.EIE_OK, status
    return centroids[: used[0]]


def _start(values: Array, weights: Array, k: int, init: str, seed: int) -> Array:
    """Section 3.2: ``linear`` spaces the centroids evenly between the extremes, ``density`` evenly along the cumulative
    distribution, ``forgy`` draws them from the data."""
    if init == "linear":
        return np.linspace(values[0], values[-1], k)
    if init == "density":
        cumulative = np.cumsum(weights) / weights.sum()
        return np.interp((np.arange(k) + 0.5) / k, cumulative, values)
    drawn = np.random.default_rng(seed).choice(values, k, replace=False, p=weights / weights.sum())
    return np.sort(drawn)


def _lloyd(values: Array, weights: Array, centroids: Array) -> Array:
    """Lloyd's iterations until nothing moves; a centroid without members stays where it is, and is dropped at the end."""
    held = np.ones(centroids.size, np.bool_)
    for _ in range(_ITERATIONS):
        owner = nearest(centroids, values)
        weight = np.bincount(owner, weights, centroids.size)
        total = np.bincount(owner, weights * values, centroids.size)
        held = weight > 0
        moved = np.where(held, total / np.where(held, weight, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = np.sort(moved)
    return centroids[held]
