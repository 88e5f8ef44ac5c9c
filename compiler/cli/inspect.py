"""``eie inspect``: what an artifact holds, byte by byte."""

from __future__ import annotations

import math
from typing import Any

from eie.runtime.artifact import payloads
from eie.runtime.format import decode, inspect
from eie.runtime.modelfile import load_model

from ..errors import ModelError
from ..report.result import KINDS
from ..report.table import Column, console, elided, print_fitted, printable, size
from .common import Json, ModelPath, print_json

NAME = "inspect"


def command(model: ModelPath, json: Json = False) -> None:
    """Show the compressed weights of an artifact: shape, density, bits, codecs, and what each byte is for."""
    proto = load_model(model)
    rows: list[dict[str, Any]] = []
    for payload in payloads(proto):
        info = inspect(payload.content)
        weight = decode(payload.content, where=payload.name)
        rows.append(
            {
                "name": payload.name,
                "nodes": list(payload.readers),
                "shape": list(weight.shape),
                "kept": weight.density,
                "bits": weight.bits,
                "shared_values": int(weight.codebook.size) - 1,
                "pattern": weight.pattern,
                "entries": info.entries,
                "code_codec": info.code_codec,
                "index_codec": info.index_codec,
                "index_bits": info.index_bits,
                "bytes": len(payload.content),
                "bytes_by_kind": dict(info.bytes_by_kind()),
                "dense_bytes": 4 * math.prod(weight.shape),
            }
        )
    if not rows:
        raise ModelError(
            "holds no compressed weights", where=str(model), hint="`eie layers` shows what of it can be compressed."
        )
    total = model.stat().st_size
    held = sum(row["bytes"] for row in rows)
    if json:
        print_json({"file_bytes": total, "payload_bytes": held, "payloads": rows})
        return
    screen = console()
    columns = [
        Column("payload"), Column("read by", 1, text=True), Column("shape"), Column("kept"), Column("bits"), Column("coded as", 3),
        Column("gaps", 3), Column("bytes"), Column("ratio"), *(Column(kind, 2, dim=True) for kind in KINDS),
    ]  # fmt: skip
    cells = []
    for row in rows:
        gaps = f"{row['index_codec']}/{row['index_bits']}" if row["index_bits"] else "-"
        cells.append([
            printable(row["name"]), elided(", ".join(row["nodes"]), 40), "x".join(map(str, row["shape"])), f"{row['kept']:.0%}",
            str(row["bits"]), row["code_codec"], gaps, size(row["bytes"]), f"{row['dense_bytes'] / max(1, row['bytes']):.1f}x",
            *(size(row["bytes_by_kind"][k]) for k in KINDS),
        ])  # fmt: skip
    print_fitted(screen, columns, cells)
    screen.print(
        f"\n{size(total)} in the file: {size(held)} in {len(rows)} payloads, {size(total - held)} graph, biases and what is not compressed",
        highlight=False,
    )
