"""Programs: instructions as bytes and text, the file, and what strangers may do to it."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import gemm, make
from eie.runtime.errors import FormatError, UserError
from eie.runtime.hardware import Config
from eie.runtime.hardware.execute import execute
from eie.runtime.hardware.isa import OPERANDS, Instruction, Op, assemble, decode, disassemble, encode
from eie.runtime.hardware.lower import lower_matrix
from eie.runtime.hardware.program import LayerProgram, load, to_bytes

SMALL = Config(name="small", processing_elements=4, spmat_bytes=400, pointer_bytes=128)


def program(config: Config = SMALL, outputs: int = 30, inputs: int = 50) -> LayerProgram:
    weights, _ = make(gemm(outputs, inputs))
    return lower_matrix(weights[0], config, "layer 1")


instructions = st.builds(
    lambda op, a, b: Instruction(op, *(a, b)[: len(OPERANDS[op])]),
    st.sampled_from(Op),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)


@given(st.lists(instructions))
def test_bytes_and_text_give_the_instructions_back(code: list[Instruction]) -> None:
    assert decode(encode(code)) == code
    assert assemble(disassemble(code)) == code


@pytest.mark.parametrize(
    ("text", "says"),
    [("multply columns=3", "multiply"), ("multiply rows=3", "columns"), ("input first=1", "first=..., count"), ("clear rows=-1", "rows"),
     ("clear rows=5000000000", "rows"), ("halt\ninput first=1, first=2", "line 2"), ("swap now=1", "no operands")],
)  # fmt: skip
def test_wrong_assembly(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        assemble(text)


def test_wrong_binary() -> None:
    for content in (b"\x07", bytes([99] + [0] * 11), bytes([0, 1] + [0] * 10), bytes([0] * 4 + [1] + [0] * 7)):
        with pytest.raises(FormatError):
            decode(content)


def test_the_file_gives_the_programs_back(tmp_path: Path) -> None:
    made = [program(), program(outputs=7, inputs=3)]
    path = tmp_path / "m.eie"
    path.write_bytes(to_bytes(made, SMALL))
    found, config = load(path)
    assert config == SMALL
    assert [p.text() for p in found] == [p.text() for p in made]
    x = np.random.default_rng(0).integers(-99, 99, (3, 50)).astype(np.int16)
    np.testing.assert_array_equal(execute(found[0], x, config)[0], execute(made[0], x, config)[0])


@pytest.mark.parametrize("bits", [(4, 4), (8, 4), (12, 4), (5, 3), (8, 8)])
def test_entries_of_any_width(bits: tuple[int, int]) -> None:
    config = Config(processing_elements=2, code_bits=bits[0], run_bits=bits[1], line_bits=4 * sum(bits))
    weights, _ = make(gemm(70, 9, values=min(256, 1 << bits[0]), density=0.1))
    made = lower_matrix(weights[0], config, "g")
    (found,), _ = load(to_bytes([made], config))
    for a, b in zip(found.images, made.images, strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)
        np.testing.assert_array_equal(a.runs, b.runs)
        np.testing.assert_array_equal(a.codebook, b.codebook)


def test_a_program_for_another_machine_is_refused() -> None:
    made = program(Config(), 300, 400)
    for config, says in ((Config(processing_elements=32), "64 elements"), (Config(spmat_bytes=100), "sparse-matrix SRAM"),
                         (Config(registers=1, activation_bytes=0), "rows"), (Config(pointer_bytes=100), "pointers")):  # fmt: skip
        with pytest.raises(FormatError, match=says):
            made.check(config)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A file whose header was changed, its checksum right."""
    content = to_bytes([program()], SMALL)
    magic, version, length = struct.unpack_from("<4sII", content)
    header = json.loads(content[12 : 12 + length])
    change(header)
    head = json.dumps(header).encode()
    new = struct.pack("<4sII", magic, version, len(head)) + head + content[12 + length : -4]
    return new + struct.pack("<I", zlib.crc32(new))


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    *way, last, value = path

    def change(header: Any) -> None:
        for key in way:
            header = header[key]
        header[last] = value

    return change


HOSTILE: dict[str, tuple[Any, ...]] = {
    "no layers": ("layers", 3),
    "an unknown parameter": ("config", "speed", 3),
    "an impossible machine": ("config", "processing_elements", -4),
    "more elements": ("config", "processing_elements", 8),
    "narrow codes": ("config", "code_bits", 2),
    "a section outside": ("layers", 0, "vector", [0, 1 << 40]),
    "a section before": ("layers", 0, "vector", [-8, 12]),
    "no numbers": ("layers", 0, "inputs", "fifty"),
    "a truth": ("layers", 0, "inputs", True),
    "too many inputs": ("layers", 0, "inputs", 1 << 60),
    "fewer outputs": ("layers", 0, "outputs", 3),
    "more columns": ("layers", 0, "images", 0, "columns", 5000),
    "more entries": ("layers", 0, "images", 0, "entries", 1 << 30),
    "no images": ("layers", 0, "images", []),
    "no codebook": ("layers", 0, "images", 0, "codebook", [0, 0]),
    "another codebook": ("layers", 0, "images", 0, "codebook", [400, 64]),
    "more rows": ("layers", 0, "images", 0, "outputs", 60_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name: str) -> None:
    with pytest.raises(FormatError):
        load(changed(put(*HOSTILE[name])))


def test_what_is_no_program(tmp_path: Path) -> None:
    content = to_bytes([program()], SMALL)
    for bad, says in ((b"", "no program"), (b"EIEP", "no program"), (content[:-1], "checksum"), (b"EIEQ" + content[4:], "no program"),
                      (content[:4] + b"\x09" + content[5:], "version 9")):  # fmt: skip
        with pytest.raises(FormatError, match=says):
            load(bad)
    with pytest.raises(FormatError, match="can't be read"):
        load(tmp_path / "none.eie")
    deep = b"[" * 100_000
    new = struct.pack("<4sII", b"EIEP", 1, len(deep)) + deep
    with pytest.raises(FormatError, match="damaged"):
        load(new + struct.pack("<I", zlib.crc32(new)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_behind_a_right_checksum_is_an_error_or_runs(data: st.DataObject) -> None:
    content = bytearray(to_bytes([program()], SMALL)[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(12, len(content) - 1))] = data.draw(st.integers(0, 255))
    whole = bytes(content) + struct.pack("<I", zlib.crc32(content))
    try:
        programs, config = load(whole)
    except FormatError:
        return
    for p in programs:
        try:
            sums, _ = execute(p, np.ones((2, p.inputs), np.int16), config)
        except FormatError:  # rows beyond an image's are found when it runs
            continue
        assert sums.shape == (2, p.outputs)


def test_the_frozen_program_runs_as_ever() -> None:
    """Version 1 of the file, its sums and its cycles."""
    folder = Path(__file__).parents[1] / "fixtures" / "v1" / "program"
    (found,), config = load(folder / "frozen.eie")
    with np.load(folder / "frozen.npz") as held:
        sums, cost = execute(found, held["x"], config)
        np.testing.assert_array_equal(sums, held["sums"])
        assert (cost.cycles, cost.activity.visited) == (int(held["cycles"]), int(held["visited"]))
    assert len(found.images) > 1
