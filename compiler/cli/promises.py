"""What people promise on the command line: ``--max-drop 0.5%``, ``--max-error 5%``, ``--size 8x``, ``--latency 2ms``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError

MaxDrop = Annotated[
    str | None,
    typer.Option(
        help="Most that top-1 accuracy may fall (without labels: estimated from answers that change), such as 0.5%; with --metric, "
        "most that it may fall, a number.",
        show_default=False,
    ),
]
MaxError = Annotated[
    str | None,
    typer.Option(
        help="Most error of the outputs by their size, such as 5%, or least SQNR, such as 26dB.", show_default=False
    ),
]
Size = Annotated[
    str | None,
    typer.Option(help="Most bytes of the artifact: 120kB, or 8x for an eighth of the model's.", show_default=False),
]
Latency = Annotated[
    str | None,
    typer.Option(
        help="Most time that the compressed layers are expected to take in a run: 500us, 2ms.", show_default=False
    ),
]
Objective = Annotated[
    str | None, typer.Option(help="What is made small within that: size or latency.", show_default=False)
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="module:function of yours that rates outputs (given with the data, both by name); the larger the better.",
        show_default=False,
    ),
]
Samples = Annotated[int | None, typer.Option(min=1, help="How many of the samples to use at most.", show_default=False)]
Cached = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep what was measured of layers, and use what was kept.")
]
Jobs = Annotated[int, typer.Option(help="Processes that measure layers; -1 for one a core.")]
Dask = Annotated[str | None, typer.Option(help="Measure layers on this cluster: tcp://host:8786.", show_default=False)]

_FEWEST_BYTES = 1000  # below which a size without a unit is rather a factor, or lacks its unit


def budget(
    model: Path,
    max_drop: str | None = None,
    max_error: str | None = None,
    size: str | None = None,
    latency: str | None = None,
    objective: str | None = None,
    metric: str | None = None,
    samples: int | None = None,
    data: bool = False,
) -> dict[str, Any]:
    """Fields of a recipe's budget.

    Raises:
        UserError: an option does not read as it should, or contradicts another.
    """
    found: dict[str, Any] = {}
    if max_drop is not None and max_error is not None:
        raise UserError("--max-drop and --max-error exclude each other", where="--max-drop")
    if size is not None and latency is not None:
        raise UserError("--size and --latency exclude each other", where="--latency",
                        hint="Bound one, and look at the report for the other.")  # fmt: skip
    if metric is not None and max_drop is None:
        raise UserError("needs --max-drop: how much it may fall", where="--metric")
    if max_drop is not None and not data:
        raise UserError("needs samples: answers to made-up input mean nothing", where="--max-drop", hint="Give --data.")
    bounds = any(v is not None for v in (max_drop, max_error, size, latency))
    if bounds:
        found.update(max_drop=0.0, size=0, latency_us=0.0, metric="")
        if data:
            found["layer_sqnr_db"] = 0.0
    if max_drop is not None:
        found.update(max_drop=_drop(max_drop, metric is not None), metric=metric or "")
    if max_error is not None:
        found["model_sqnr_db"] = _error(max_error)
    elif max_drop is None and size is not None:
        found.update(model_sqnr_db=0.0, layer_sqnr_db=0.0)
    if size is not None:
        found["size"] = _bytes(size, model)
    if latency is not None:
        found["latency_us"] = _microseconds(latency)
    if objective is not None:
        found["objective"] = objective
    if samples is not None:
        found["samples"] = samples
    return found


def _number(text: str, unit: str, where: str, hint: str) -> tuple[float, str]:
    match = re.fullmatch(rf"\s*([0-9.]+(?:e-?[0-9]+)?)\s*({unit})\s*", text, re.IGNORECASE)
    try:
        value = float(match[1]) if match else math.nan
    except ValueError:
        value = math.nan
    if match is None or not 0 < value < math.inf:
        raise UserError(f"can't read {text!r}", where=where, hint=hint)
    return value, match[2].lower()


def _drop(text: str, metric: bool) -> float:
    hint = "It is written 0.5%, or 0.005."
    value, unit = _number(text, "%?", "--max-drop", hint)
    if unit == "%":
        value /= 100
    if not metric and (value >= 1 or (unit != "%" and value > 0.2)):
        raise UserError(f"{text!r} would be {value:.0%}", where="--max-drop", hint=hint)
    return value


def _error(text: str) -> float:
    hint = "It is written 5%, or 26dB."
    value, unit = _number(text, "%|db", "--max-error", hint)
    decibels = value if unit == "db" else -20 * math.log10(value / 100)
    if not 0 < decibels <= 100:
        raise UserError(f"{text!r} is {decibels:.1f} dB, outside 0 to 100", where="--max-error", hint=hint)
    return decibels


def _bytes(text: str, model: Path) -> int:
    value, unit = _number(text, "x|b|kb|mb|gb|kib|mib|", "--size", "It is written 120kB, 1.5MB, or 8x.")
    if unit == "x":
        if not model.is_file():
            raise UserError("no such file", where=str(model))
        external = model.with_name(model.name + ".data")
        whole = model.stat().st_size + (external.stat().st_size if external.is_file() else 0)
        return max(1, int(whole / value))
    if not unit and value < _FEWEST_BYTES:
        raise UserError(
            f"{text!r} would be {value:g} bytes", where="--size", hint=f"{text}x, or {text}kB? (Bytes are written {text}B.)"
        )
    scale = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1 << 10, "mib": 1 << 20}[unit]
    return max(1, int(value * scale))


def _microseconds(text: str) -> float:
    value, unit = _number(text, "us|ms|s", "--latency", "It is written 500us or 2ms.")
    return value * {"us": 1.0, "ms": 1e3, "s": 1e6}[unit]
