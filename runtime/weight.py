"""The one idea: every compressed weight is codes and a codebook, where code 0 is the value zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Pattern = Literal["unstructured", "balanced", "block", "n:m"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)


@dataclass(frozen=True, eq=False)
class Weight:
    """A compressed weight.

    Attributes:
        codes: uint8, the shape of the weight: a matrix [out, in], or a kernel tensor as its operator has it.
        codebook: float32 [k], 1 <= k <= 256; ``codebook[0]`` is 0.0 and every code is below k.
        pattern: how the zeros lie; says what a kernel may rely on, and is no part of the value.
    """

    codes: npt.NDArray[np.uint8]
    codebook: npt.NDArray[np.float32]
    pattern: Pattern = "unstructured"

    def __post_init__(self) -> None:
        assert self.codes.dtype == np.uint8 and self.codebook.dtype == np.float32
        assert self.codebook.ndim == 1 and 1 <= self.codebook.size <= 256 and self.codebook[0] == 0
        assert self.pattern in PATTERNS

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def size(self) -> int:
        return self.codes.size

    @property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.codes))

    @property
    def density(self) -> float:
        return self.nonzeros / max(1, self.size)

    @property
    def bits(self) -> int:
        """Bits of a code, at least 1."""
        return max(1, (self.codebook.size - 1).bit_length())

    def dense(self) -> npt.NDArray[np.float32]:
        """The float32 weight, shape as ``codes``."""
        return self.codebook[self.codes]

    @classmethod
    def exact(cls, dense: npt.NDArray[np.float32], pattern: Pattern = "unstructured") -> Weight | None:
        """The weight whose ``dense()`` equals ``dense``, or None where that takes more than 256 values.

        -0.0 becomes 0.0: equal, though not the same bits.
        """
        values = np.unique(dense)
        values = values[values != 0]
        if values.size > 255 or not np.isfinite(values).all():
            return None
        codes = (np.searchsorted(values, dense) + 1).astype(np.uint8)
        codes[dense == 0] = 0
        return cls(codes, np.concatenate([np.zeros(1, np.float32), values.astype(np.float32)]), pattern)
