"""Tables of docs/papers.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]


def percent(values: Sequence[float], sign: str = "") -> str:
    """Mean of shares in percent, and the deviation over seeds where there are several; ``sign`` "+": of differences."""
    spread = f" +- {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):{sign}.2f}{spread}"
