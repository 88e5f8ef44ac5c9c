"""What machine is modelled: every width, size and rate of EIE (ISCA 2016) and ESE (FPGA 2017) that can be another.

A configuration is a TOML file; the presets lie beside this module, to be copied and edited.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np

from ..errors import UserError, any_of, nearest

Skip = Literal["zero", "nonpositive"]
Weights = Literal["sram", "dram"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One machine.

    Attributes:
        name: what reports call it.
        processing_elements: N; output row i and activation i belong to element i mod N (EIE, section III).
        channels: copies of all elements that run the same weights on different vectors (ESE); 1 in EIE.
        fifo_slots: places of an element's activation queue, which is a ring: it holds one less. The paper's depth of 8
            is 8 slots.
        skip: which activations are never broadcast: those that are zero, or those that are not above zero, as in the
            published simulator (its inputs come from ReLUs, where there are none below).
        bias_column: a column behind the inputs, driven by an activation of 1, holds the biases (published simulator).
        bypass: a sum reaches the adder in the cycle after it was made; without, an element waits a cycle.
        code_bits: of a weight's code; the codebook has 2^code_bits entries, 256 at most.
        run_bits: of the zeros before an entry; a longer gap takes fillers.
        line_bits: of the sparse-matrix SRAM: entries that one access reads.
        pointer_bits: of a pointer; an access reads two of them, from two banks.
        activation_bits: of an activation.
        registers: accumulators of an element's register file; there are two files, which swap roles at each layer. More rows
            are held in the activation SRAM, at the same rate.
        spmat_bytes, pointer_bytes, activation_bytes: SRAM of an element.
        weights: where they are while a layer runs: in SRAM (EIE), or fetched from DRAM while the layer before runs (ESE).
        bus_bits: bits a cycle that weights and vectors cross the memory interface with.
        switch_cycles: from one layer to the next: swapping register files, draining the pipeline.
        clock_mhz: of the elements.
        process_nm: of the technology; energy and area are known for 45 and projected to 28 (energy.py).
    """

    name: str = "eie-64-45nm"
    processing_elements: int = 64
    channels: int = 1
    fifo_slots: int = 8
    skip: Skip = "zero"
    bias_column: bool = True
    bypass: bool = True
    code_bits: int = 4
    run_bits: int = 4
    line_bits: int = 64
    pointer_bits: int = 16
    activation_bits: int = 16
    registers: int = 64
    spmat_bytes: int = 131_072
    pointer_bytes: int = 32_768
    activation_bytes: int = 2_048
    weights: Weights = "sram"
    bus_bits: int = 64
    switch_cycles: int = 1
    clock_mhz: float = 800.0
    process_nm: int = 45

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if isinstance(getattr(self, name), np.generic):
                object.__setattr__(self, name, getattr(self, name).item())
            _check_type(name, kind, getattr(self, name))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} = {value} is outside {low:,} to {high:,}", where=self._where)
        entry = self.code_bits + self.run_bits
        if self.line_bits % entry:
            raise UserError(f"a line of {self.line_bits} bits can't be cut into entries of {entry}", where=self._where,
                            hint="line_bits is a multiple of code_bits + run_bits")  # fmt: skip
        if self.process_nm not in (45, 28, 20):
            raise UserError(f"process_nm = {self.process_nm}: energy is modelled for 45, 28 and 20 (FPGA)",
                            where=self._where)  # fmt: skip

    @property
    def _where(self) -> str:
        return f"configuration {self.name!r}"

    @property
    def depth(self) -> int:
        """Activations a queue holds."""
        return max(1, self.fifo_slots - 1)  # one slot is a register, no ring

    @property
    def line_entries(self) -> int:
        """Entries that one access of the sparse-matrix SRAM reads."""
        return self.line_bits // (self.code_bits + self.run_bits)

    @property
    def most_entries(self) -> int:
        """Entries the sparse-matrix SRAM of an element holds."""
        return self.spmat_bytes * 8 // self.line_bits * self.line_entries

    @property
    def most_pointers(self) -> int:
        """Pointers an element holds."""
        return self.pointer_bytes * 8 // self.pointer_bits

    @property
    def most_rows(self) -> int:
        """Accumulators of an element: its registers, and its activation SRAM."""
        return self.registers + self.activation_bytes * 8 // self.activation_bits

    @property
    def codebook_size(self) -> int:
        """Values a layer may share: what codes can name, and codes are bytes."""
        return min(256, 1 << self.code_bits)

    def microseconds(self, cycles: float) -> float:
        return cycles / self.clock_mhz

    def changed(self, **options: Any) -> Config:
        """This machine with other values.

        Raises:
            UserError: there is no such parameter, or a value can't be.
        """
        known = [f.name for f in fields(self)]
        for name in options:
            if name not in known:
                raise UserError(f"there is no parameter {name!r}", where=self._where, hint=any_of(name, known))
        return replace(self, **options)

    @classmethod
    def preset(cls, name: str) -> Config:
        """A machine that ships with the package.

        Raises:
            UserError: there is none of that name.
        """
        if name not in presets():
            raise UserError("there is no such configuration", where=name, hint=nearest(name, presets()))
        return cls.parse((resources.files(__package__) / "presets" / f"{name}.toml").read_text(), name)

    @classmethod
    def load(cls, source: str | Path) -> Config:
        """A preset by name (or by what its name begins with, where that is one), or a TOML file.

        Raises:
            UserError: neither, not TOML, an unknown parameter, a value that can't be.
        """
        begun = [name for name in presets() if name.startswith(f"{source}-")]
        if str(source) in presets() or len(begun) == 1:
            return cls.preset(str(source) if str(source) in presets() else begun[0])
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            hint = nearest(source, presets())
            raise UserError(f"is no preset, and can't be read: {error}", where=str(source), hint=hint) from error
        return cls.parse(text, path.stem)

    @classmethod
    def parse(cls, text: str, name: str) -> Config:
        """A machine from TOML text; parameters it leaves out are those of EIE with 64 elements."""
        try:
            data = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UserError(f"not valid TOML: {error}", where=name) from error
        return cls(name=name).changed(**{"name": name, **data})

    def to_toml(self) -> str:
        """The text that ``parse`` reads back."""
        lines = []
        for key, value in asdict(self).items():
            text = json.dumps(value)  # strings, numbers and truths are written the same way in TOML
            lines.append(f"{key} = {text}")
        return "\n".join(lines) + "\n"


_RANGES = {
    "processing_elements": (1, 4096), "channels": (1, 4096), "fifo_slots": (1, 65_536), "code_bits": (1, 16),
    "run_bits": (1, 8), "line_bits": (2, 65_536), "pointer_bits": (8, 32), "activation_bits": (8, 16),
    "registers": (1, 65_535), "spmat_bytes": (1, 1 << 40), "pointer_bytes": (1, 1 << 40), "activation_bytes": (0, 131_072),
    "bus_bits": (1, 65_536), "switch_cycles": (0, 1 << 20), "clock_mhz": (0.001, 100_000.0),
}  # fmt: skip


def _check_type(name: str, kind: Any, value: Any) -> None:
    choices = get_args(kind)
    if choices:
        if value not in choices:
            raise UserError(f"{value!r} is none of {', '.join(choices)}", where=name)
        return
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{value!r} is no {kind.__name__}", where=name)


def presets() -> list[str]:
    """Names of the machines that ship with the package."""
    folder = resources.files(__package__) / "presets"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))
