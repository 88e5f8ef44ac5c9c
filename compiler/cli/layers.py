"""``eie layers``: what a recipe's rules can name."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..analysis.layers import find_layers
from ..passes.canonicalize import Canonicalize
from ..report.table import Column, console, left_alone, print_fitted, printable, size
from .common import Json, ModelPath, print_json, read_plain

NAME = "layers"


def command(model: ModelPath, json: Json = False) -> None:
    """List the weights that can be compressed, by the names recipes use, and the constants that can't."""
    graph = read_plain(model, "`eie inspect` shows what it holds.")
    Canonicalize().run(graph)
    layers, alone = find_layers(graph)
    rows: list[dict[str, Any]] = []
    for layer in layers:
        weight = layer.array()
        rows.append(
            {
                "name": layer.name,
                "op": layer.op,
                "shape": list(layer.shape),
                "bytes": layer.constant.nbytes,
                "nonzero": float(np.count_nonzero(weight)) / max(1, weight.size),
                "deviation": float(weight.std()),
                "largest": float(np.abs(weight).max(initial=0)),
            }
        )
    if json:
        print_json(
            {
                "layers": rows,
                "left_alone": [{"name": i.name, "op": i.op, "why": i.why, "bytes": i.bytes} for i in alone],
            }
        )
        return
    screen = console()
    columns = [Column("layer"), Column("operator", 2, text=True), Column("shape"), Column("bytes"), Column("not zero"),
               Column("deviation", 1), Column("largest", 1)]  # fmt: skip
    print_fitted(screen, columns, [
        [printable(str(row["name"])), str(row["op"]), "x".join(map(str, row["shape"])), size(row["bytes"]), f"{row['nonzero']:.0%}",
         f"{row['deviation']:.4f}", f"{row['largest']:.4f}"] for row in rows
    ])  # fmt: skip
    rest = left_alone(alone, every=True)
    if rest is not None:
        screen.print(rest, highlight=False)
