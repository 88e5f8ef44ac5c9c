"""How compressed weights are stored: Huffman coding as in Deep Compression (ICLR 2016), section 4, or what measures smaller.

The pass itself changes nothing: it makes sure that there is something to store, and its options say how the lowering stores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from eie.runtime.format import CODECS, CodecName

from ..errors import UserError
from ..ir.graph import Model
from .base import Layers, LedgerEntry, Pass, PassResult, Select, all_layers, every, option


@dataclass(frozen=True)
class Encode(Pass):
    """Store every shared weight as a payload."""

    name: ClassVar[str] = "encode"
    requires: ClassVar[frozenset[str]] = frozenset({"shared"})

    codec: str = option("auto", "auto tries all and keeps the smallest", choices=CODECS)
    index_bits: int = option(0, "bits of a gap in the relative index, 2 to 8; 0: what is smallest", low=0, high=8)
    names: str = option(
        "short", "of tensors between operators, and of operators that are no compressed layers: short, or keep them",
        choices=("short", "keep"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.index_bits == 1:
            raise UserError("index_bits is 0, or 2 to 8", where="encode")
        if self.index_bits and self.codec == "context":
            raise UserError("the context codec has no relative index: leave index_bits out", where="encode")

    @property
    def chosen(self) -> CodecName:
        return cast(CodecName, self.codec)

    def run(self, model: Model, select: Select = every, layers: Layers = None) -> PassResult:
        entries = []
        for layer in filter(select, all_layers(model, layers)):
            if layer.weight is None:
                entries.append(
                    LedgerEntry(layer.name, reason="its weights are not shared: no cluster or ternarize pass took it")
                )
            else:
                entries.append(LedgerEntry(layer.name, f"stored as {self.codec}", kept=layer.weight.density))
        return PassResult(False, tuple(entries))
