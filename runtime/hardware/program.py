"""What runs on the machine: instructions and the images they load, for one layer, and the file ``model.eie`` that holds them.

The file: the magic ``EIEP``, the version and the length of a JSON header (uint32, little-endian), the header, the sections it
lists, and the CRC-32 of all before it. Files come from strangers: nothing is believed before it is looked at.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EieError, FormatError
from ..modelfile import PROGRAM
from . import isa
from .config import Config
from .image import Image
from .isa import Instruction, Op

MAGIC, VERSION = PROGRAM, 1
_HEAD = struct.Struct("<4sII")
_MOST = 1 << 31  # inputs or outputs of a layer


@dataclass(frozen=True, eq=False)
class LayerProgram:
    """A matrix made ready: what is loaded once, and what is done with every vector.

    Attributes:
        name, op: of the layer.
        inputs, outputs: of the matrix; a convolution's is that of one position (lower.py).
        setup: run once.
        body: run for each vector.
        images: what they load.
    """

    name: str
    op: str
    inputs: int
    outputs: int
    setup: tuple[Instruction, ...]
    body: tuple[Instruction, ...]
    images: tuple[Image, ...] = field(repr=False)

    @property
    def resident(self) -> bool:
        """Whether the weights stay in SRAM from one vector to the next."""
        return not any(i.op is Op.WEIGHTS for i in self.body)

    @property
    def entries(self) -> int:
        return sum(image.entries for image in self.images)

    @property
    def fillers(self) -> int:
        return sum(image.fillers for image in self.images)

    def text(self) -> str:
        """The program as ``eie disasm`` prints it."""
        return (f"; {self.name} ({self.op}): [{self.outputs}, {self.inputs}], {len(self.images)} image(s), {self.entries:,} entries, "
                f"{self.fillers:,} of them fillers\n.setup\n{isa.disassemble(self.setup)}.vector\n"
                f"{isa.disassemble(self.body)}")  # fmt: skip

    def check(self, config: Config) -> None:
        """The program does what it may on this machine: it fits its memories, and loads before it multiplies.

        Raises:
            FormatError: names the layer and the instruction.
        """
        where = f"layer {self.name!r}"
        state = _State(self, config, where)
        for section, code in (("setup", self.setup), ("vector", self.body)):
            for number, i in enumerate(code):
                state.step(i, f"{section} instruction {number} ({i.op.name})", last=number == len(code) - 1)


class _State:
    """What is known of the machine while a program is checked."""

    def __init__(self, program: LayerProgram, config: Config, where: str) -> None:
        self.program, self.config, self.where = program, config, where
        self.pointers: int | None = None
        self.weights: int | None = None
        self.codebook = False
        self.source = self.rows = 0

    def fail(self, at: str, what: str) -> None:
        raise FormatError(f"{at}: {what}", where=self.where, hint="Lower the model again, for this machine")

    def step(self, i: Instruction, at: str, *, last: bool) -> None:
        if (i.op is Op.HALT) != last:
            self.fail(at, "a section ends with its only HALT")
        if i.op in (Op.CODEBOOK, Op.POINTERS, Op.WEIGHTS):
            self._load(i, at)
        elif i.op is Op.INPUT:
            if i.a + i.b > self.program.inputs or not i.b:
                self.fail(at, f"there are {self.program.inputs} inputs")
            self.source = i.b
        elif i.op is Op.CLEAR:
            if not 1 <= i.a <= self.config.most_rows:
                self.fail(at, f"an element holds {self.config.most_rows:,} rows")
            self.rows = i.a
        elif i.op is Op.MULTIPLY:
            self._multiply(i, at)
        elif i.op is Op.OUTPUT and (i.a + i.b > self.program.outputs or not i.b
                                    or i.b > self.rows * self.config.processing_elements):  # fmt: skip
            self.fail(at, f"there are {self.program.outputs} outputs, and {self.rows} rows were cleared")

    def _load(self, i: Instruction, at: str) -> None:
        if i.a >= len(self.program.images):
            self.fail(at, f"there are {len(self.program.images)} images")
        image = self.program.images[i.a]
        if image.elements != self.config.processing_elements:
            self.fail(
                at, f"the image is for {image.elements} elements, the machine has {self.config.processing_elements}"
            )
        if image.codebook.size > self.config.codebook_size:
            self.fail(at, f"its codebook has {image.codebook.size} entries, the machine's {self.config.codebook_size}")
        misfit = image.misfit(self.config)
        if misfit:
            self.fail(at, misfit)
        self.codebook |= i.op is Op.CODEBOOK
        self.pointers = i.a if i.op is Op.POINTERS else self.pointers
        self.weights = i.a if i.op is Op.WEIGHTS else self.weights

    def _multiply(self, i: Instruction, at: str) -> None:
        if self.weights is None or self.weights != self.pointers or not self.codebook:
            self.fail(at, "weights, pointers and codebook of one image come first")
        image = self.program.images[self.weights or 0]
        if i.a != image.columns or image.inputs != self.source:
            self.fail(at, f"the image has {image.columns} columns for {image.inputs} inputs; {self.source} were loaded")
        if image.rows > self.rows:
            self.fail(at, f"the image has {image.rows} rows, and {self.rows} were cleared")


# -- the file ---------------------------------------------------------------------------------------------------------


def to_bytes(layers: Sequence[LayerProgram], config: Config) -> bytes:
    """Programs as the bytes of ``model.eie``."""
    sections: list[bytes] = []
    size = 0

    def put(content: bytes) -> list[int]:
        nonlocal size
        sections.append(content)
        size += len(content)
        return [size - len(content), len(content)]

    header = {"config": asdict(config), "layers": [
        {"name": p.name, "op": p.op, "inputs": p.inputs, "outputs": p.outputs, "setup": put(isa.encode(p.setup)),
         "vector": put(isa.encode(p.body)), "images": [_image_header(i, config, put) for i in p.images]}
        for p in layers
    ]}  # fmt: skip
    head = json.dumps(header, allow_nan=False).encode()
    content = b"".join([_HEAD.pack(MAGIC, VERSION, len(head)), head, *sections])
    return content + struct.pack("<I", zlib.crc32(content))


def _image_header(image: Image, config: Config, put: Any) -> dict[str, Any]:
    bits = (config.code_bits, config.run_bits)
    return {
        "outputs": image.outputs, "inputs": image.inputs, "columns": image.columns, "entries": image.entries,
        "codebook": put(image.codebook.astype("<f4").tobytes()),
        "pointers": put(image.pointers.astype("<u4").tobytes()),
        "weights": put(_packed(np.stack([image.codes, image.runs]), bits)),
    }  # fmt: skip


def _packed(fields: npt.NDArray[np.uint8], bits: tuple[int, int]) -> bytes:
    """Entries one after the other, code first, each field's lowest bit first."""
    columns = [(fields[f, :, None] >> np.arange(min(8, n), dtype=np.uint8)) & 1 for f, n in enumerate(bits)]
    padded = [np.pad(c, ((0, 0), (0, n - c.shape[1]))) for c, n in zip(columns, bits, strict=True)]
    return np.packbits(np.concatenate(padded, axis=1).reshape(-1), bitorder="little").tobytes()


def _unpacked(content: npt.NDArray[np.uint8], entries: int, bits: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    flat = np.unpackbits(content, count=entries * sum(bits), bitorder="little").reshape(entries, sum(bits))
    parts = (flat[:, : bits[0]], flat[:, bits[0] :])
    return [np.packbits(part[:, :8], axis=1, bitorder="little").reshape(-1) if entries else np.zeros(0, np.uint8)
            for part in parts]  # fmt: skip


def load(source: str | Path | bytes) -> tuple[list[LayerProgram], Config]:
    """Read ``model.eie``; every program in it is checked to fit its machine.

    Raises:
        FormatError: no such file, not one of these, damaged, newer, or a program that contradicts itself.
    """
    where = "program" if isinstance(source, bytes) else str(source)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as error:
        raise FormatError(f"can't be read: {error}", where=where) from error
    damaged = "Lower the model again"
    if len(content) < _HEAD.size + 4 or content[:4] != MAGIC:
        raise FormatError("is no program of the accelerator", where=where, hint="`eie lower` makes them")
    _, version, length = _HEAD.unpack_from(content)
    if version != VERSION:
        raise FormatError(
            f"has version {version}, and this library knows {VERSION}", where=where, hint="Install a newer eie"
        )
    if zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
        raise FormatError("is damaged: its checksum is wrong", where=where, hint=damaged)
    body = memoryview(content)[_HEAD.size : -4]
    try:
        if length > len(body):
            raise FormatError("its header is longer than the file")
        header = json.loads(bytes(body[:length]))
        config = Config().changed(**header["config"])
        layers = [_layer(entry, body[length:], config) for entry in header["layers"]]
        for layer in layers:
            layer.check(config)
    except EieError as error:
        raise FormatError(error.what, where=f"{where}, {error.where}" if error.where else where,
                          hint=error.hint or damaged) from error  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, MemoryError) as error:
        raise FormatError(f"is damaged: {type(error).__name__} {error}", where=where, hint=damaged) from error
    return layers, config


def _layer(entry: dict[str, Any], data: memoryview, config: Config) -> LayerProgram:
    name = str(entry["name"])
    where = f"layer {name!r}"
    images = tuple(_image(i, data, config, where) for i in entry["images"])
    code = [tuple(isa.decode(bytes(_section(entry[s], data, where)), where)) for s in ("setup", "vector")]
    inputs, outputs = (_number(entry[n], 1, _MOST, where) for n in ("inputs", "outputs"))
    return LayerProgram(name, str(entry["op"]), inputs, outputs, code[0], code[1], images)


def _image(entry: dict[str, Any], data: memoryview, config: Config, where: str) -> Image:
    n = config.processing_elements
    outputs, inputs = (_number(entry[k], 1, _MOST, where) for k in ("outputs", "inputs"))
    columns, entries = _number(entry["columns"], inputs, inputs + 1, where), _number(entry["entries"], 0, _MOST, where)
    book = np.frombuffer(_section(entry["codebook"], data, where), "<f4").astype(np.float32)
    pointers = np.frombuffer(_section(entry["pointers"], data, where), "<u4").astype(np.uint32)
    packed = np.frombuffer(_section(entry["weights"], data, where), np.uint8)
    bits = (config.code_bits, config.run_bits)
    if pointers.size != n * (columns + 1) or packed.size != -(-entries * sum(bits) // 8) or not 1 <= book.size <= 256:
        raise FormatError("an image's sections have other sizes than it announces", where=where)
    if not np.isfinite(book).all() or book[0] != 0:
        raise FormatError("an image's codebook does not begin with 0, or is not finite", where=where)
    pointers = pointers.reshape(n, columns + 1)
    if (
        pointers[:, 0].any()
        or (np.diff(pointers.astype(np.int64), axis=1) < 0).any()
        or pointers[:, -1].sum(dtype=np.uint64) != entries
    ):
        raise FormatError("an image's pointers do not count its entries", where=where)
    codes, runs = _unpacked(packed, entries, bits)
    return Image(outputs, inputs, pointers, codes, runs, book)


def _section(place: Any, data: memoryview, where: str) -> memoryview:
    begin, size = place
    if not (isinstance(begin, int) and isinstance(size, int) and 0 <= begin <= begin + size <= len(data)):
        raise FormatError("a section lies outside the file", where=where)
    return data[begin : begin + size]


def _number(value: Any, low: int, high: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{value!r} is no number from {low:,} to {high:,}", where=where)
    return value
