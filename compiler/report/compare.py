"""A model beside its artifact on several backends: how far apart, how fast, how large; the original in ONNX Runtime is the base."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eie.runtime import Session
from eie.runtime.artifact import payloads, specs
from eie.runtime.backends.hardware import HardwareBackend
from eie.runtime.hardware.config import Config
from eie.runtime.modelfile import load_model

from ..analysis.fidelity import compare as fidelity
from ..errors import ModelError
from .hardware import of_backend

Array = npt.NDArray[Any]
ORIGINAL = "original"
_WARM = 2  # runs before those that are timed


def compare(original: Path, artifact: Path, backends: Sequence[str], feeds: Mapping[str, Array], *, runs: int = 30,
            config: Config | None = None, progress: Any = None) -> dict[str, Any]:  # fmt: skip
    """Run both models on the same input.

    Args:
        backends: of ``Session``; ``hardware`` computes in i16, and its latency is that of the machine, not of the model of it.
        feeds: an array for each input of the original.
        runs: timed ones, interleaved over the backends.

    Returns:
        ``base`` (bytes and latency of the original), ``backends`` (a dictionary each), ``layers`` (of the artifact), and
        ``hardware`` (report/hardware.py), where it is among the backends.

    Raises:
        UserError: a model can't be read or run, or the input does not fit; the artifact is none, or has other outputs.
    """
    base = Session(original, "ort")
    if base.engine is not None:
        raise ModelError("is an artifact; the base is the model it was made from", where=str(original))
    names = [o.name for o in base.get_outputs()]
    machine = HardwareBackend(config)
    sessions = {name: Session(artifact, machine if name == "hardware" else name) for name in backends}
    first = next(iter(sessions.values()))
    if first.engine is None:
        raise ModelError(
            "holds no compressed layers", where=str(artifact), hint="Give an artifact that `optimize` made"
        )
    missing = set(names) - {o.name for o in first.get_outputs()}
    if missing:
        raise ModelError(
            f"has no output {sorted(missing)[0]!r}", where=str(artifact), hint="It was made from another model"
        )
    expected = base.run(names, feeds)
    found, hardware = {}, None
    for name, session in sessions.items():
        if progress:
            progress.step(name)
        got = session.run(names, feeds)
        if name == "hardware":
            hardware = {**of_backend(machine), "loads": {n: c.loads.tolist() for n, c in machine.costs.items()}}
        found[name] = {"activations": session.activations, "outputs": _differences(names, expected, got),
                       **_overall(names, expected, got)}  # fmt: skip
    timed = {ORIGINAL: base, **{n: s for n, s in sessions.items() if n not in ("hardware", "reference")}}
    latency = _latencies(timed, names, feeds, runs)
    for name, result in found.items():
        if name == "hardware" and hardware is not None:
            total = hardware["total"]
            result["latency_us"] = {
                "median": total["microseconds"],
                "low": total["microseconds"],
                "high": total["microseconds"],
            }
            result["cycles"], result["energy_uj"] = total["cycles"], total["energy_uj"]
        elif name in latency:
            result["latency_us"] = latency[name]
        else:
            result["latency_us"] = _latencies({name: sessions[name]}, names, feeds, 3)[name]
    return {
        "original": str(original.name), "artifact": str(artifact.name),
        "base": {"bytes": original.stat().st_size, "latency_us": latency[ORIGINAL], "backend": "ONNX Runtime"},
        "artifact_bytes": artifact.stat().st_size,
        "backends": found, "layers": _layers(artifact), "hardware": hardware,
    }  # fmt: skip


def _latencies(
    sessions: Mapping[str, Session], names: Sequence[str], feeds: Mapping[str, Array], runs: int
) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for i in range(runs + _WARM):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(names, feeds)
            if i >= _WARM:
                times[name].append((time.perf_counter() - began) * 1e6)
    return {name: dict(zip(("median", "low", "high"), map(float, np.percentile(t, [50, 25, 75])), strict=True))
            for name, t in times.items()}  # fmt: skip


def _differences(names: Sequence[str], expected: Sequence[Any], got: Sequence[Any]) -> list[dict[str, Any]]:
    found = []
    for name, y, z in zip(names, expected, got, strict=True):
        a, b = np.asarray(y), np.asarray(z)
        if a.dtype.kind not in "fiu" or a.shape != b.shape:
            found.append({"name": name, "equal": bool(a.shape == b.shape and (a == b).all())})
            continue
        d = b.astype(np.float64) - a.astype(np.float64)
        found.append({"name": name, "largest": float(np.abs(d).max(initial=0)),
                      "rms": float(np.sqrt(np.square(d).mean())) if d.size else 0.0,
                      "sqnr_db": fidelity([name], [[a]], [[b]]).sqnr_db})  # fmt: skip
    return found


def _overall(names: Sequence[str], expected: Sequence[Any], got: Sequence[Any]) -> dict[str, Any]:
    whole = fidelity(names, [expected], [got])
    return {"sqnr_db": whole.sqnr_db, "top1_agreement": whole.top1_agreement}


def _layers(artifact: Path) -> list[dict[str, Any]]:
    sizes = {p.name: (len(p.content), p.readers) for p in payloads(load_model(artifact), artifact.parent)}
    stored: dict[str, int] = {}
    for size, readers in sizes.values():
        stored[readers[0]] = stored.get(readers[0], 0) + size
    return [{"name": s.name, "op": s.op, "bytes_before": sum(4 * w.size for w in s.weights), "bytes_after": stored.get(s.name, 0),
             "kept": sum(w.nonzeros for w in s.weights) / max(1, sum(w.size for w in s.weights))}
            for s in specs(artifact)]  # fmt: skip
