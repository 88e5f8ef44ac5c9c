"""Queues and elements over time, as Chrome's trace-event JSON: opens in Perfetto and chrome://tracing.

A microsecond of the picture is a cycle of the machine. Each element has a row of the columns it works on, and a counter of
the activations in its queue; the broadcast has a row of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from .config import Config
from .machine import Event

_MACHINE, _QUEUES = 1, 2  # processes of the picture


def trace_events(events: Sequence[Event], config: Config, layer: str) -> dict[str, Any]:
    """The picture of a layer's events, ready for ``json.dump``."""
    n = config.processing_elements
    found: list[dict[str, Any]] = [_name(_MACHINE, f"{layer} on {config.name}"), _name(_QUEUES, "queues")]
    found += [_row(e, f"element {e}") for e in range(n)]
    found.append(_row(n, "broadcast"))
    sent: dict[int, list[int]] = {}  # column -> when: each vector sends it again
    for event in sorted((e for e in events if e.kind == "broadcast"), key=lambda e: e.cycle):
        sent.setdefault(event.column, []).append(event.cycle)
    changes: dict[int, list[tuple[int, int]]] = {e: [] for e in range(n)}
    for event in events:
        name = f"column {event.column}" if event.kind != "empty" else f"column {event.column}, empty"
        found.append({"name": name, "cat": event.kind, "ph": "X", "ts": event.cycle, "dur": event.length, "pid": _MACHINE,
                      "tid": event.element})  # fmt: skip
        before = bisect_left(sent.get(event.column, []), event.cycle)
        if event.kind != "broadcast" and before:
            changes[event.element] += [(sent[event.column][before - 1], 1), (event.cycle, -1)]
    for element, moves in changes.items():
        held = 0
        for cycle, change in sorted(moves):
            held += change
            found.append(
                {"name": f"queue {element}", "ph": "C", "ts": cycle, "pid": _QUEUES, "args": {"activations": held}}
            )
    return {
        "traceEvents": found,
        "displayTimeUnit": "ns",
        "otherData": {"unit": "1 us is 1 cycle", "config": config.name},
    }


def _name(process: int, text: str) -> dict[str, Any]:
    return {"name": "process_name", "ph": "M", "pid": process, "args": {"name": text}}


def _row(element: int, text: str) -> dict[str, Any]:
    return {"name": "thread_name", "ph": "M", "pid": _MACHINE, "tid": element, "args": {"name": text}}
