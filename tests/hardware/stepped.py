"""The accelerator stepped a cycle at a time, register by register, in plain Python: the specification of the cycle model.

Each cycle has two phases, as in hardware: every unit looks at the registers as they are, then all registers change at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

DRAIN = 5  # cycles from an entry's pointer stage to its sum's write


@dataclass
class Element:
    """One processing element.

    ``slices`` holds, for each column, the accumulators of its entries, None for a filler.
    """

    slices: Sequence[Sequence[int | None]]
    queue: list[int] = field(default_factory=list)
    column: int | None = None
    place: int = 0
    last_write: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(
        ("work", "filler", "empty", "waiting"), 0))  # fmt: skip

    def busy(self) -> bool:
        return self.column is not None

    def leaving(self) -> bool:
        """Whether this is the last cycle of its column."""
        return self.column is None or self.place + 1 >= len(self.slices[self.column])


@dataclass
class Machine:
    """All elements and the broadcast.

    Args:
        elements: what they hold.
        depth: of a queue.
        active: columns to broadcast, in order; row j // N is where column j stands.
        rows: of activations, the bias column's included.
    """

    elements: list[Element]
    depth: int
    active: Sequence[int]
    rows: int
    cycle: int = 0
    sent: list[tuple[int, int]] = field(default_factory=list)
    blocked: int = 0

    def run(self) -> int:
        """Steps until everything is written; gives the cycles."""
        n, waiting = len(self.elements), list(self.active)
        rows_of = [j // n for j in waiting]
        row, loaded, position = 0, False, 0
        while True:
            # -- what units see
            full = any(len(e.queue) >= self.depth for e in self.elements)
            heads = [e.queue[0] if e.queue else None for e in self.elements]
            send = None
            next_row = False
            if not loaded:
                next_row = True
            elif position < len(waiting) and rows_of[position] == row:
                if full:
                    self.blocked += 1
                else:
                    send = waiting[position]
                    next_row = send % n == n - 1
            elif row < self.rows:
                next_row = True
            takes = [e.leaving() for e in self.elements]
            # -- registers change
            self.cycle += 1
            for e, head, take in zip(self.elements, heads, takes, strict=True):
                if not take:
                    e.place += 1
                elif head is not None:
                    e.queue.pop(0)
                    e.column, e.place = head, 0
                else:
                    e.column = None
            if send is not None:
                for e in self.elements:
                    e.queue.append(send)
                self.sent.append((self.cycle, send))
                position += 1
            if next_row:
                row, loaded = (row + 1, True) if loaded else (0, True)
            # -- what elements do in this cycle
            for e in self.elements:
                if e.column is None:
                    e.counts["waiting"] += 1
                elif not e.slices[e.column]:
                    e.counts["empty"] += 1
                else:
                    entry = e.slices[e.column][e.place]
                    e.counts["work"] += 1
                    e.counts["filler"] += entry is None
                    if entry is not None:
                        e.last_write = self.cycle + DRAIN
            finished = (
                row >= self.rows and position == len(waiting) and not any(e.queue or e.busy() for e in self.elements)
            )
            if finished and loaded and self.cycle > max(e.last_write for e in self.elements):
                return self.cycle
