"""What a compressed model promises, and whether samples show that it is kept.

Three kinds. *Error*: every output's energy of error stays below a share of its own energy. *Drop*: top-1 accuracy falls by so much at
most. *Score*: a function of the user's falls by so much at most.

Without labels it is not known which of the answers that change were right. Answers change where the original hardly prefers one to
another: there it is right not much more often with the one than with the other, so that a change costs the difference of two shares
that together are at most 1. Where outputs are probabilities the original says itself what that difference is, and is believed between
a fifth and a half; otherwise it is taken to be half (docs/decisions/0017 has measured 0.2 to 0.5).

Few samples can't count a drop of half a percent: of 100 samples none may differ, and the rate can still be 3 %. But how far each
answer is from being another one is known, for every sample, and how far compression moves answers, from those held back. So the
expected share of answers that change is computed over all pairs of a margin and a move (in logits, as moves of probabilities depend on
where they are), and its uncertainty by the bootstrap; counts are reported with Wilson's interval (1927) and have to agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..usercode import calling
from .fidelity import decibels

Array = npt.NDArray[Any]
# the outputs and the data, both as arrays by name, a sample an item of the first axis; the larger the better
Score = Callable[[Mapping[str, Array], Mapping[str, Array]], float]

COST = 0.5  # of an answer that changes, in right ones, at most
_LEAST_COST = 0.2  # networks can be less sure than they are right
_DRAWS = 200  # of the bootstrap
_SURE = 0.9  # how sure a promise has to be on samples held back, one-sided
_Z = 1.96


@dataclass(frozen=True)
class Reading:
    """What samples say of a promise.

    Attributes:
        ratio: measured by allowed, of error energies: at most 1 where it is kept.
        sure: the same for the upper end of what the samples leave open.
        text: for people.
        value: the measured quantity in its own unit: dB, or a share of answers, or a score.
    """

    ratio: float
    sure: float
    text: str
    value: float


def wilson(right: int, samples: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if samples == 0:
        return 0.0, 1.0
    p, z = right / samples, _Z
    middle = (p + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(p * (1 - p) / samples + z * z / (4 * samples * samples))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))  # rounding must not leave p out


def paired_interval(before: Array, after: Array) -> tuple[float, float]:
    """95 % interval of how much a share of right answers changed, truths of the same samples before and after (bootstrap)."""
    change = after.astype(np.float64) - before
    if change.size < 2:
        return -1.0, 1.0
    rng = np.random.default_rng(0)
    means = change[rng.integers(0, change.size, (1000, change.size))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


# -- error ---------------------------------------------------------------------------------------------------------------


def error_reading(
    noise: Array, signal: Array, names: Sequence[str], allowed: float, *, quartile_only: bool = False
) -> Reading:
    """Of energies [samples, outputs] of errors and of originals: the worst output's error by its energy, taken together and in the
    sample that three quarters do not exceed, against what is allowed."""
    worst, sure, which, value = 0.0, 0.0, 0, 0.0
    for k in range(noise.shape[1]):
        ratio = _error(noise[:, k], signal[:, k], quartile_only)
        if ratio >= worst:
            worst, which, value = ratio, k, ratio
        sure = max(sure, _upper(lambda pick, k=k: _error(noise[pick, k], signal[pick, k], quartile_only), len(noise)))  # type: ignore[misc]
    name = f" (output {names[which]})" if len(names) > 1 else ""
    text = f"{decibels(value):.1f} dB{name}, {decibels(allowed):.1f} dB promised"
    return Reading(worst / allowed, sure / allowed, text, decibels(value))


def _error(noise: Array, signal: Array, quartile_only: bool) -> float:
    if not np.isfinite(noise).all():
        return float("inf")
    each = np.where(noise == 0, 0.0, noise / np.where(signal > 0, signal, np.where(noise > 0, noise, 1)))
    quartile = float(np.quantile(each, 0.75, method="higher"))
    if quartile_only:
        return quartile
    total, energy = float(noise.sum()), float(signal.sum())
    return max(quartile, 0.0 if total == 0 else total / energy if energy > 0 else 1.0)


def _upper(statistic: Callable[[Array], float], count: int) -> float:
    """The ``_SURE`` quantile of a statistic over samples drawn again."""
    if count < 2:
        return statistic(np.arange(count))
    rng = np.random.default_rng(0)
    found = sorted(statistic(rng.integers(0, count, count)) for _ in range(_DRAWS))
    return float(found[math.ceil(_SURE * (_DRAWS - 1))])


# -- top-1 ---------------------------------------------------------------------------------------------------------------


def logits(scores: Array) -> Array:
    """Scores [samples, classes] on a scale where moves mean the same everywhere: logarithms where they are probabilities."""
    probabilities = _probabilities(scores)
    scores = scores.astype(np.float64)
    return np.asarray(np.log(np.maximum(scores, 1e-9)) if probabilities else scores)


def _probabilities(scores: Array) -> bool:
    scores = scores.astype(np.float64)
    return scores.min(initial=0) >= 0 and scores.shape[1] > 1 and bool((np.abs(scores.sum(axis=1) - 1) < 2e-2).all())


def drop_reading(
    before: Array,
    after: Array,
    everywhere: Array,
    allowed: float,
    labels: Array | None,
    labels_everywhere: Array | None,
) -> Reading:
    """How much top-1 accuracy falls, or, without labels, how many answers change.

    Args:
        before, after: scores [samples, classes] of the samples it is judged on.
        everywhere: the original's scores of all samples, which may be more.
        allowed: share, above 0.
        labels: of the first; labels_everywhere: of all.
    """
    y, z, all_of_them = logits(before), logits(after), logits(everywhere)
    own = y.argmax(1) if labels is None else labels
    own_all = all_of_them.argmax(1) if labels_everywhere is None else labels_everywhere
    moves = _margin(z, own, _rival(y, own)) - _margin(y, own, _rival(y, own))
    margins = _margin(all_of_them, own_all, _rival(all_of_them, own_all))
    costs = np.ones(margins.size) if labels_everywhere is not None else _costs(everywhere)
    expected = _changed(margins, moves, costs)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        pick = rng.integers(0, margins.size, margins.size)
        drawn.append(_changed(margins[pick], moves[rng.integers(0, moves.size, moves.size)], costs[pick]))
    upper = max(expected, float(np.quantile(drawn, _SURE)))
    same, samples = (y.argmax(1) == z.argmax(1)), len(y)
    if labels is None:
        low, high = wilson(int(same.sum()), samples)
        counted, least = float((_costs(before) * ~same).mean()), _LEAST_COST * (1 - high)
        text = (
            f"{same.mean():.2%} of answers agree on {samples} samples ({low:.1%} to {high:.1%}), a drop of {expected * 100:.2f} points is "
            f"expected (up to {upper * 100:.2f}), {allowed * 100:.2f} allowed"
        )
    else:
        right_before, right_after = y.argmax(1) == labels, z.argmax(1) == labels
        low_change, high_change = paired_interval(right_before, right_after)
        counted, least = float(right_before.mean() - right_after.mean()), -high_change
        text = (
            f"{right_before.mean():.2%} before, {right_after.mean():.2%} after on {samples} samples (change {low_change * 100:+.1f} to "
            f"{high_change * 100:+.1f} points), a drop of {expected * 100:.2f} points is expected (up to {upper * 100:.2f}), "
            f"{allowed * 100:.2f} allowed"
        )
    measured = max(expected, least, 0.0)
    # changes grow with the size of moves, the root of their energy
    return Reading((measured / allowed) ** 2, (max(upper, least, 0.0) / allowed) ** 2, text, counted)


def _rival(scores: Array, own: Array) -> Array:
    others = scores.copy()
    others[np.arange(len(own)), own] = -np.inf
    return np.asarray(others.argmax(1))


def _margin(scores: Array, own: Array, rival: Array) -> Array:
    at = np.arange(len(own))
    return np.asarray(scores[at, own] - scores[at, rival])


def _costs(scores: Array) -> Array:
    """What a changed answer costs, [samples] in right ones, as far as the scores [samples, classes] tell."""
    if not _probabilities(scores):
        return np.full(len(scores), COST)
    best = np.sort(scores.astype(np.float64), axis=1)[:, -2:]
    return np.asarray(np.clip(best[:, 1] - best[:, 0], _LEAST_COST, COST))


def _changed(margins: Array, moves: Array, costs: Array) -> float:
    """Share of right answers lost, less that of wrong ones put right, over all pairs of a margin and a move."""
    moves = np.sort(moves)
    after = 1 - np.searchsorted(moves, -margins, side="right") / moves.size  # how often margin + move stays above 0
    return float((costs * ((margins > 0) - after)).mean())


# -- a function of the user's ----------------------------------------------------------------------------------------------


def called(score: Score, outputs: Mapping[str, Array], data: Mapping[str, Array]) -> float:
    """What the function says.

    Raises:
        UserError: that is no finite number.
    """
    with calling("--metric"):
        value = score(outputs, data)
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"gives {type(value).__name__} instead of a number", where="--metric") from error
    if not math.isfinite(number):
        raise UserError(f"gives {number}", where="--metric")
    return number


def score_reading(
    score: Score,
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    data: Mapping[str, Array],
    allowed: float,
    count: int,
) -> Reading:
    """How much the user's score falls, and how sure that is (bootstrap over samples)."""
    was, now = called(score, before, data), called(score, after, data)
    rng, drops = np.random.default_rng(0), []
    for _ in range(20 if count > 1 else 0):
        pick = rng.integers(0, count, count)
        a, b, d = ({k: v[pick] for k, v in arrays.items()} for arrays in (before, after, data))
        drops.append(called(score, a, d) - called(score, b, d))
    upper = max(was - now, float(np.quantile(drops, _SURE))) if drops else was - now
    text = f"{was:.4g} before, {now:.4g} after on {count} samples (a drop of up to {upper:.4g}), {allowed:.4g} allowed"
    return Reading((max(0.0, was - now) / allowed) ** 2, (max(0.0, upper) / allowed) ** 2, text, was - now)
