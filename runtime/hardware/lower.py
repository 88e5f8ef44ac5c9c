"""From a compressed matrix to a program: what does not fit the machine's memories is cut into tiles (docs/isa.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FormatError
from ..weight import Weight
from .config import Config
from .image import Image
from .isa import Instruction, Op
from .program import LayerProgram

Array = npt.NDArray[Any]


def widened(config: Config, codebook_size: int) -> Config:
    """The machine with codes wide enough for a codebook; its lines hold as many entries as before."""
    bits = max(config.code_bits, (codebook_size - 1).bit_length())
    return config.changed(code_bits=bits, line_bits=config.line_entries * (bits + config.run_bits))


def lower_matrix(
    weight: Weight, config: Config, name: str, op: str = "Gemm", bias: Array | None = None
) -> LayerProgram:
    """A matrix as a program.

    Tiles are as large as the memories allow: rows by accumulators, columns by pointers, and columns again, in halves, until
    the fullest element holds its entries. One tile stays in SRAM; of several, each is loaded anew for every vector.

    Args:
        weight: codes [outputs, inputs].
        config: the machine; its codes are wide enough.
        name, op: of the layer.
        bias: float [outputs]; its non-zeros take entries in the bias column.

    Raises:
        FormatError: a single column, or a single row of elements, does not fit.
    """
    outputs, inputs = weight.shape
    n = config.processing_elements
    rows, columns = config.most_rows * n, config.most_pointers - 2
    if columns < 1:
        raise FormatError(
            f"the pointer SRAM holds {config.most_pointers} pointers, fewer than one column needs", where=config.name
        )
    tiles = []
    for top in range(0, outputs, rows):
        below = min(outputs, top + rows)
        part = weight.codes[top:below]
        for left in range(0, inputs, columns):
            right = min(inputs, left + columns)
            own = bias[top:below] if bias is not None else None
            tiles += [(top, *tile) for tile in _halves(part, left, right, inputs, weight.codebook, config, own, name)]
    setup: list[Instruction] = []
    body: list[Instruction] = []
    loads = setup if len(tiles) == 1 else body
    setup.append(Instruction(Op.CODEBOOK, 0))
    for k, (top, left, image) in enumerate(tiles):
        first = left == 0
        if first:
            body.append(Instruction(Op.CLEAR, image.rows))
        loads += [Instruction(Op.POINTERS, k), Instruction(Op.WEIGHTS, k)]
        body += [Instruction(Op.INPUT, left, image.inputs), Instruction(Op.MULTIPLY, image.columns)]
        if left + image.inputs == inputs:
            body.append(Instruction(Op.OUTPUT, top, image.outputs))
    body += [Instruction(Op.SWAP), Instruction(Op.HALT)]
    setup.append(Instruction(Op.HALT))
    program = LayerProgram(name, op, inputs, outputs, tuple(setup), tuple(body), tuple(image for _, _, image in tiles))
    program.check(config)
    return program


def _halves(codes: Array, left: int, right: int, inputs: int, codebook: Array, config: Config, bias: Array | None,
            name: str) -> Iterator[tuple[int, Image]]:  # fmt: skip
    """Tiles (first column, image) of columns [left, right); the bias column stands behind the last."""
    last = config if right == inputs else config.changed(bias_column=False)
    image = Image.encode(codes[:, left:right], codebook, last, bias if right == inputs else None)
    misfit = image.misfit(config)
    if misfit is None:
        yield left, image
        return
    if right - left < 2:
        raise FormatError(f"a tile of one column does not fit the machine: {misfit}", where=f"layer {name!r}",
                          hint="Give the configuration more memory or more elements")  # fmt: skip
    middle = (left + right) // 2
    yield from _halves(codes, left, middle, inputs, codebook, config, bias, name)
    yield from _halves(codes, middle, right, inputs, codebook, config, bias, name)


def as_matrix(weight: Weight, groups: int, transposed: bool) -> Weight:
    """A convolution's kernel as the matrix [channels out, taps x channels in] that one position is multiplied by.

    Groups become blocks on the diagonal: each channel of the input has its columns, with entries in its group's rows.

    Args:
        weight: codes [out, in / groups, ...], or [in, out / groups, ...] if ``transposed``.
    """
    codes = weight.codes.reshape(*weight.shape[:2], -1)  # [out, in / groups, taps]
    if transposed:
        split = codes.reshape(groups, codes.shape[0] // groups, codes.shape[1], -1)
        blocks = split.transpose(0, 2, 1, 3)  # [groups, out / groups, in / groups, taps]
    else:
        blocks = codes.reshape(groups, codes.shape[0] // groups, codes.shape[1], -1)
    _, out, inner, taps = blocks.shape
    matrix = np.zeros((groups, out, taps, groups, inner), np.uint8)
    for g in range(groups):
        matrix[g, :, :, g] = blocks[g].transpose(0, 2, 1)
    return Weight(matrix.reshape(groups * out, taps * groups * inner), weight.codebook)
