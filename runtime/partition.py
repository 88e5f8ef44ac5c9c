"""Orders a graph's nodes so that what ONNX Runtime runs falls into as few pieces as can be.

A *barrier* is a node that the backend, or Python, runs itself; every other node is plain. Plain nodes may share a piece
when no path from one to the other leaves the piece (the piece is convex). Count, for every node, the runs of plain
nodes on the path from it to an end of the graph that has the most, a barrier ending a run: plain nodes with the same
count never have a barrier between them, so each count is one piece. Some path has as many runs as there are counts, and
no two runs of a path can share a piece: fewer pieces are impossible.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ModelError


@dataclass(frozen=True)
class Piece:
    """Nodes that run together, in an order in which they can; a barrier always stands alone."""

    nodes: tuple[int, ...]
    barrier: bool


def schedule(reads: Sequence[set[str]], writes: Sequence[Sequence[str]], barriers: Sequence[bool]) -> list[Piece]:
    """Pieces in the order they can run.

    Args:
        reads: the tensors each node reads, itself or in a body. Those that no node writes count as there.
        writes: the tensors each node writes.
        barriers: which nodes are barriers.

    Raises:
        ModelError: a tensor is written twice, or nodes wait for each other.
    """
    before, after = _graph(reads, writes)
    order = _topological(before, after, writes)
    runs = [0] * len(order)
    for node in reversed(order):
        if barriers[node]:
            runs[node] = max((runs[n] for n in after[node]), default=0)
        else:
            runs[node] = max((runs[n] + barriers[n] for n in after[node]), default=1)
    pieces: list[Piece] = []
    for count in range(max(runs, default=0), -1, -1):
        here = [n for n in order if runs[n] == count]
        # a barrier with this count reads only pieces of higher counts, and the piece of this count may read it
        pieces.extend(Piece((n,), True) for n in here if barriers[n])
        plain = tuple(n for n in here if not barriers[n])
        if plain:
            pieces.append(Piece(plain, False))
    return pieces


def topological(reads: Sequence[set[str]], writes: Sequence[Sequence[str]]) -> list[int]:
    """All nodes, producers first, otherwise as in the file; arguments and errors as of ``schedule``."""
    return _topological(*_graph(reads, writes), writes)


def _graph(reads: Sequence[set[str]], writes: Sequence[Sequence[str]]) -> tuple[list[set[int]], list[list[int]]]:
    """For each node those it waits for, and those that wait for it."""
    producer: dict[str, int] = {}
    for node, names in enumerate(writes):
        for name in names:
            if name and producer.setdefault(name, node) != node:
                raise ModelError("is written by two nodes", where=f"tensor {name!r}")
    before = [{producer[t] for t in tensors if t in producer} for tensors in reads]
    after: list[list[int]] = [[] for _ in reads]
    for node, sources in enumerate(before):
        for source in sources:
            after[source].append(node)
    return before, after


def _topological(before: Sequence[set[int]], after: Sequence[Sequence[int]],
                 writes: Sequence[Sequence[str]]) -> list[int]:  # fmt: skip
    """All nodes, producers first, otherwise as in the file."""
    waiting = [len(sources) for sources in before]
    ready = [n for n, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        node = heapq.heappop(ready)
        order.append(node)
        for reader in after[node]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(before):
        stuck = next(n for n, count in enumerate(waiting) if count > 0)
        name = next((w for w in writes[stuck] if w), "")
        raise ModelError("waits for its own result: the graph has a cycle", where=f"tensor {name!r}")
    return order
