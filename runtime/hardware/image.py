"""A matrix as the accelerator's elements hold it: interleaved compressed sparse columns (EIE, ISCA 2016, section III)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .._core import ffi, lib
from ..errors import FormatError, UserError
from .config import Config

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Image:
    """Element e holds rows e, e + N, e + 2N, ... of the matrix; its entries stand behind those of element e - 1.

    Attributes:
        outputs: rows of the matrix.
        inputs: columns of the matrix, the bias column left out.
        pointers: uint32 [N, columns + 1], each element's from 0: where its slice of each column begins.
        codes: uint8 [entries]; 0 is a filler.
        runs: uint8 [entries]: zeros before the entry, in its slice of the column.
        codebook: float32 [<= 256], entry 0 is 0.
    """

    outputs: int
    inputs: int
    pointers: npt.NDArray[np.uint32] = field(repr=False)
    codes: npt.NDArray[np.uint8] = field(repr=False)
    runs: npt.NDArray[np.uint8] = field(repr=False)
    codebook: npt.NDArray[np.float32] = field(repr=False)

    @classmethod
    def encode(cls, codes: Array, codebook: Array, config: Config, bias: Array | None = None) -> Image:
        """Interleave and compress a matrix.

        Args:
            codes: uint8 [outputs, inputs], 0 for zero.
            codebook: float32, entry 0 is 0.
            config: the number of elements, the width of runs, and whether there is a bias column.
            bias: float [outputs]; its non-zeros are the bias column's entries.

        Raises:
            UserError: more shared values than the machine's codes name, or an empty matrix.
        """
        given, codebook = np.asarray(codes), np.asarray(codebook)
        if given.ndim != 2 or not given.size or given.dtype.kind not in "iu":
            raise UserError(f"a matrix [outputs, inputs] of whole numbers is needed, not {given.dtype} {list(given.shape)}",
                            where="codes")  # fmt: skip
        if given.min() < 0 or given.max() > 255:
            raise UserError(
                f"go from {given.min()} to {given.max()}, and a codebook has up to 256 entries", where="codes"
            )
        if (
            codebook.ndim != 1
            or not codebook.size
            or codebook.dtype.kind not in "fiu"
            or not np.isfinite(codebook).all()
            or codebook[0]
        ):
            raise UserError("is no vector of finite numbers that begins with 0", where="codebook")
        matrix = np.ascontiguousarray(given, np.uint8)
        if codebook.size > config.codebook_size or int(matrix.max()) >= codebook.size:
            raise UserError(f"the codebook has {codebook.size} entries and codes up to {int(matrix.max())}; this machine's "
                            f"codes of {config.code_bits} bits name {config.codebook_size}", where=config.name,
                            hint="Share fewer values, or widen code_bits")  # fmt: skip
        outputs, inputs = matrix.shape
        if config.bias_column:
            column = (
                np.zeros((outputs, 1), np.uint8) if bias is None else (np.asarray(bias) != 0).astype(np.uint8)[:, None]
            )
            matrix = np.concatenate([matrix, column], axis=1)
        n = config.processing_elements
        pointers, entries = np.zeros((n, matrix.shape[1] + 1), np.uint32), ffi.new("uint64_t *")
        held, places = ffi.from_buffer("uint8_t[]", matrix), ffi.from_buffer("uint32_t[]", pointers)
        _check(lib.eie_image_measure(held, *matrix.shape, n, config.run_bits, places, entries))
        found, runs = np.zeros(entries[0], np.uint8), np.zeros(entries[0], np.uint8)
        _check(lib.eie_image_fill(held, *matrix.shape, n, config.run_bits, places,
                                  ffi.from_buffer("uint8_t[]", found), ffi.from_buffer("uint8_t[]", runs)))  # fmt: skip
        return cls(outputs, inputs, pointers, found, runs, np.asarray(codebook, np.float32))

    @property
    def elements(self) -> int:
        return int(self.pointers.shape[0])

    @property
    def columns(self) -> int:
        """Of the matrix, and the bias column where there is one."""
        return int(self.pointers.shape[1]) - 1

    @property
    def rows(self) -> int:
        """Accumulators an element needs."""
        return -(-self.outputs // self.elements)

    @property
    def entries(self) -> int:
        """Of all elements, fillers included."""
        return int(self.codes.size)

    @property
    def fillers(self) -> int:
        return self.entries - int(np.count_nonzero(self.codes))

    def element(self, e: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """What element e holds: codes v, runs z, pointers p, as figure 3 of the paper writes them."""
        begin = int(self.pointers[:e, -1].sum(dtype=np.uint64))
        end = begin + int(self.pointers[e, -1])
        return self.codes[begin:end], self.runs[begin:end], self.pointers[e]

    def most_entries(self) -> int:
        """Entries of the fullest element."""
        return int(self.pointers[:, -1].max())

    def misfit(self, config: Config) -> str | None:
        """Why the machine can't hold it; None where it can."""
        needs = (
            (self.most_entries(), config.most_entries, "entries an element's sparse-matrix SRAM"),
            (self.columns + 1, config.most_pointers, "pointers an element's pointer SRAM"),
            (self.most_entries() + 1, 1 << config.pointer_bits, "entries a pointer"),
            (self.rows, config.most_rows, "rows an element's registers and activation SRAM"),
        )
        wrong = [f"it takes {need:,} {what}, of {held:,}" for need, held, what in needs if need > held]
        return "; ".join(wrong) or None


def _check(status: int) -> None:
    if status == lib.EIE_E_MEMORY:
        raise MemoryError("an image of the accelerator")
    if status != lib.EIE_OK:
        raise FormatError(ffi.string(lib.eie_status_message(status)).decode(), where="matrix",
                          hint="An element holds at most 65,535 rows")  # fmt: skip
