"""Many machines on one model: every combination of some parameters' values, in parallel, and resumable.

The points are spread over processes or a Dask cluster (compiler/spread.py); finished ones are appended to a file of JSON lines,
and a second run with that file does only what is missing.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eie.runtime import Session
from eie.runtime.backends.hardware import HardwareBackend
from eie.runtime.hardware.config import Config

from .errors import UserError
from .progress import Progress
from .report.hardware import of_backend
from .spread import spread

Feeds = Mapping[str, npt.NDArray[Any]]
ALIASES = {"pe": "processing_elements", "fifo": "fifo_slots", "clock": "clock_mhz", "line": "line_bits", "run": "run_bits",
           "code": "code_bits"}  # fmt: skip
MOST_POINTS = 100_000


def parse_values(text: str) -> tuple[str, list[Any]]:
    """``fifo=1,2,4`` or ``pe=1..256`` (doubling) as a parameter and its values.

    Raises:
        UserError: it does not read so.
    """
    name, equals, rest = text.partition("=")
    name = ALIASES.get(name.strip(), name.strip())
    values: list[Any] = []
    hint = "For example: --sweep fifo=1,2,4,8 --sweep pe=1..256 (doubling)"
    for part in filter(None, (p.strip() for p in rest.split(","))):
        low, dots, high = part.partition("..")
        if dots:
            first, last = _number(low, text, hint), _number(high, text, hint)
            if not 0 < first <= last:
                raise UserError(f"{part!r} is no range", where=f"--sweep {text}", hint=hint)
            while first <= last:
                values.append(first)
                first *= 2
        else:
            values.append(_number(part, text, hint))
    if not equals or not values:
        raise UserError("gives no values", where=f"--sweep {text}", hint=hint)
    return name, values


def _number(text: str, whole: str, hint: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        if text.isidentifier():
            return text
        raise UserError(f"{text!r} is no value", where=f"--sweep {whole}", hint=hint) from None


def points(base: Config, sweeps: Sequence[str]) -> list[tuple[dict[str, Any], Config]]:
    """Every combination of values, with its machine; parameters in the order given, the last one fastest.

    Raises:
        UserError: an unknown parameter, a value a machine can't have, or too many combinations.
    """
    parsed = [parse_values(text) for text in sweeps]
    names = [name for name, _ in parsed]
    if len(set(names)) < len(names):
        raise UserError("a parameter is swept twice", where="--sweep", hint="Give all its values in one --sweep")
    total = int(np.prod([len(values) for _, values in parsed], dtype=np.float64))
    if total > MOST_POINTS:
        raise UserError(f"{total:,} machines are more than {MOST_POINTS:,}", where="--sweep")
    found = []
    for combination in itertools.product(*(values for _, values in parsed)):
        given = dict(zip(names, combination, strict=True))
        found.append((given, base.changed(**given)))
    return found


def simulate_once(artifact: bytes, feeds: Feeds, config: Config) -> dict[str, Any]:
    """A model on one machine: figures of every layer and of all (report/hardware.py)."""
    backend = HardwareBackend(config)
    Session(artifact, backend).run(None, feeds)
    return of_backend(backend)


def run_points(artifact: bytes, feeds: Feeds, machines: Sequence[tuple[dict[str, Any], Config]], *, jobs: int = 1,
               dask: str | None = None, results: Path | None = None, progress: Progress | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """Figures of every machine, in the order of ``machines``; ``parameters`` of each says what was swept.

    Args:
        artifact: the bytes of ``model.eie.onnx``: workers elsewhere see no files of ours.
        jobs: processes; -1 for one a core.
        dask: a scheduler's address; instead of processes.
        results: finished points are read from this file of JSON lines, and appended to it.

    Raises:
        UserError: the cluster can't be reached, or the file can't be used.
    """
    digest = hashlib.sha256(artifact)
    for name in sorted(feeds):
        digest.update(name.encode() + np.ascontiguousarray(feeds[name]).tobytes())
    keys = [hashlib.sha256(digest.digest() + config.to_toml().encode()).hexdigest()[:24] for _, config in machines]
    known = _read(results) if results is not None else {}
    missing = [i for i, key in enumerate(keys) if key not in known]
    for key in keys:
        if key in known and progress:
            progress.step("known")
    work = functools.partial(_numbered, artifact, feeds)
    todo = [(i, machines[i][1]) for i in missing]
    for i, found in spread(work, todo, jobs=jobs, dask=dask, ordered=False):
        known[keys[i]] = found
        if results is not None:
            _append(results, {"key": keys[i], **found})
        if progress:
            progress.step(" ".join(f"{k}={v}" for k, v in machines[i][0].items()))
    return [{**known[key], "parameters": given} for key, (given, _) in zip(keys, machines, strict=True)]


def _numbered(artifact: bytes, feeds: Feeds, item: tuple[int, Config]) -> tuple[int, dict[str, Any]]:
    return item[0], simulate_once(artifact, feeds, item[1])


def _read(path: Path) -> dict[str, Any]:
    """Finished points by key; a last line cut short, as a kill leaves it, is taken off the file."""
    if not path.exists():
        return {}
    found, number = {}, 0
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
        for line in whole.decode().splitlines():
            number += 1
            entry = json.loads(line)
            found[entry.pop("key")] = entry
    except OSError as error:
        raise UserError(f"can't be read: {error}", where=str(path)) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"line {number} is no result of a sweep", where=str(path), hint="Give another file with --results"
        ) from error
    return found


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise UserError(f"can't write: {error.strerror or error}", where=str(path)) from error
