"""The instruction set: what a program tells the machine, in binary and as text. docs/isa.md has the meaning of each.

An instruction is 12 bytes: the operation, three bytes of zero, and two unsigned operands of 32 bits, little-endian.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..errors import FormatError, UserError, nearest

SIZE = 12
_LAYOUT = struct.Struct("<B3xII")
_ZEROS = struct.Struct("<x3sII")


class Op(IntEnum):
    """Operations, by their code."""

    HALT = 0
    CODEBOOK = 1
    POINTERS = 2
    WEIGHTS = 3
    INPUT = 4
    CLEAR = 5
    MULTIPLY = 6
    OUTPUT = 7
    SWAP = 8


OPERANDS: dict[Op, tuple[str, ...]] = {
    Op.HALT: (),
    Op.CODEBOOK: ("image",),
    Op.POINTERS: ("image",),
    Op.WEIGHTS: ("image",),
    Op.INPUT: ("first", "count"),
    Op.CLEAR: ("rows",),
    Op.MULTIPLY: ("columns",),
    Op.OUTPUT: ("first", "count"),
    Op.SWAP: (),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction; operands it does not have are 0.

    Attributes:
        op: what to do.
        a, b: its operands, in the order of ``OPERANDS``.
    """

    op: Op
    a: int = 0
    b: int = 0

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in zip(OPERANDS[self.op], (self.a, self.b), strict=False))
        return f"{self.op.name.lower():9}{values}".rstrip()


def encode(code: Iterable[Instruction]) -> bytes:
    """Instructions as bytes."""
    return b"".join(_LAYOUT.pack(i.op, i.a, i.b) for i in code)


def decode(content: bytes, where: str = "program") -> list[Instruction]:
    """Bytes as instructions.

    Raises:
        FormatError: cut short, an operation nobody knows, or something where zeros belong.
    """
    if len(content) % SIZE:
        raise FormatError(f"its instructions take {len(content)} bytes, no multiple of {SIZE}", where=where)
    found = []
    for at in range(0, len(content), SIZE):
        op, a, b = _LAYOUT.unpack_from(content, at)
        if op not in Op.__members__.values():
            raise FormatError(f"instruction {at // SIZE} has the operation {op}, which nobody knows", where=where,
                              hint="The file is damaged, or newer than this library")  # fmt: skip
        kind = Op(op)
        zeros, *operands = _ZEROS.unpack_from(content, at)
        if any(zeros) or any(operands[len(OPERANDS[kind]) :]):
            raise FormatError(f"instruction {at // SIZE} ({kind.name}) is not zero where it should be", where=where)
        found.append(Instruction(kind, a, b))
    return found


def disassemble(code: Sequence[Instruction]) -> str:
    """A line an instruction, as ``assemble`` reads them."""
    return "".join(f"  {i}\n" for i in code)


def assemble(text: str, where: str = "assembly") -> list[Instruction]:
    """Instructions from text: a line each, ``operation name=value, ...``; ``;`` begins a comment.

    Raises:
        UserError: names the line, and what is wrong with it.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(";")[0].strip()
        if not words:
            continue
        here = f"{where}, line {number}"
        name, _, rest = words.partition(" ")
        op = Op.__members__.get(name.upper())
        if op is None:
            raise UserError(f"no operation {name!r}", where=here, hint=nearest(name, [o.name.lower() for o in Op]))
        values = {}
        for part in filter(None, (p.strip() for p in rest.split(","))):
            match = re.fullmatch(r"(\w+)\s*=\s*(\d{1,10})", part)
            if match is None or match[1] not in OPERANDS[op] or match[1] in values or int(match[2]) >= 1 << 32:
                raise UserError(f"{part!r} is no operand of {name}", where=here, hint=f"It takes {_usage(op)}")
            values[match[1]] = int(match[2])
        if len(values) != len(OPERANDS[op]):
            raise UserError(f"{name} takes {_usage(op)}", where=here)
        found.append(Instruction(op, *(values[n] for n in OPERANDS[op])))
    return found


def _usage(op: Op) -> str:
    return ", ".join(f"{n}=..." for n in OPERANDS[op]) or "no operands"
