"""Payloads: a compressed weight as bytes, and back. docs/format.md has the layout.

The C core does the work where it is built; ``codec.py`` is the same in Python, slower by three orders of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from . import codec as reference
from .codec import Codec, PayloadError, Status
from .errors import FormatError, UserError
from .weight import PATTERNS, Pattern, Weight

try:
    from ._core import ffi as _ffi
    from ._core import lib as _lib
except ImportError:  # not built: the reference does it
    _ffi = _lib = None

CodecName = Literal["auto", "raw", "huffman", "context"]
CODECS: tuple[CodecName, ...] = get_args(CodecName)
Bytes = bytes | bytearray | memoryview | npt.NDArray[np.uint8]

_REASONS = {
    Status.TRUNCATED: ("the payload ends before what it announces", "The file was cut off; copy or make it again"),
    Status.MAGIC: ("this is no EIE payload", "It does not begin with `EIE`; is it the right file, the right tensor?"),
    Status.VERSION: ("the payload is of a version this library does not know", "A newer release of eie reads it"),
    Status.CHECKSUM: ("the payload is damaged: its checksum does not match", "Copy or make the artifact again"),
    Status.CORRUPT: ("the payload's contents are impossible", "No encoder of ours made it; don't trust its origin"),
    Status.MEMORY: ("the weight is too large for this machine's memory", "Free memory, or use a larger machine"),
}


@dataclass(frozen=True)
class PayloadInfo:
    """What a payload's header says.

    Attributes:
        version: of the layout.
        shape: of the weight.
        entries: stored codes: non-zeros and fillers, or every element where zeros are stored as codes.
        codebook_size: 1 to 256, the zero counted.
        bits: of a code before entropy coding.
        pattern: how the zeros lie (``Weight.pattern``).
        code_codec: ``raw``, ``huffman`` or ``context``.
        index_codec: ``raw`` or ``huffman`` for gaps, ``context`` for places, ``none`` where zeros are codes.
        index_bits: of a gap; 0 where none are stored.
        code_bytes, index_bytes, codebook_bytes, table_bytes, container_bytes: their sum is the payload's size. Tables
            are Huffman's; the container is header and checksum.
    """

    version: int
    shape: tuple[int, ...]
    entries: int
    codebook_size: int
    bits: int
    pattern: Pattern
    code_codec: str
    index_codec: str
    index_bits: int
    code_bytes: int
    index_bytes: int
    codebook_bytes: int
    table_bytes: int
    container_bytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def size(self) -> int:
        """The payload's bytes."""
        return sum(self.bytes_by_kind().values())

    def bytes_by_kind(self) -> dict[str, int]:
        """``codes``, ``indices``, ``codebook``, ``tables``, ``container``: the bytes of each."""
        return {"codes": self.code_bytes, "indices": self.index_bytes, "codebook": self.codebook_bytes,
                "tables": self.table_bytes, "container": self.container_bytes}  # fmt: skip


def _error(status: int, where: str) -> FormatError:
    what, hint = _REASONS[Status(status)]
    return FormatError(what, where=where, hint=hint)


def encode(weight: Weight, *, codec: CodecName = "auto", index_bits: int | None = None) -> bytes:
    """The smallest payload of a weight.

    Codes are relabelled by value and unused ones dropped; ``dense()`` of what comes back is equal, bit for bit but for
    -0.0, which becomes 0.0.

    Args:
        weight: of up to 8 dimensions.
        codec: ``auto``: whatever is smallest. ``huffman``: Huffman codes for codes and gaps, as in Deep Compression.
            ``raw``: bit-packed. ``context``: context modelling.
        index_bits: 2 to 8: relative index with gaps of so many bits. None: what is smallest, or no gaps at all.

    Raises:
        UserError: an option that does not exist, or options that exclude each other.
        FormatError: a weight no payload can hold.
    """
    if codec not in CODECS:
        raise UserError(f"there is no codec {codec!r}", where="codec", hint=f"Use one of {', '.join(CODECS)}")
    if index_bits is not None and not 2 <= index_bits <= 8:
        raise UserError(f"gaps have 2 to 8 bits, not {index_bits}", where="index_bits", hint="Papers use 4 and 5")
    if index_bits is not None and codec == "context":
        raise UserError("the context codec stores no gaps", where="index_bits", hint="Leave it out, or use huffman")
    if weight.codes.ndim > reference.MAX_RANK:
        raise FormatError(f"a payload holds up to {reference.MAX_RANK} dimensions, the weight has {weight.codes.ndim}")
    if not np.isfinite(weight.codebook).all():
        raise FormatError("the codebook has a NaN or an infinity", where="codebook", hint="Clean the weights first")
    if weight.size and int(weight.codes.max()) >= weight.codebook.size:
        raise FormatError("a code lies past the codebook", where="codes", hint="Codes must be below codebook.size")
    number, pattern = Codec[codec.upper()], PATTERNS.index(weight.pattern)
    if _lib is None:
        return reference.encode_payload(weight.codes, weight.codebook, pattern, number, index_bits or 0)
    return _encode_c(weight, pattern, number, index_bits or 0)


def _encode_c(weight: Weight, pattern: int, codec: Codec, index_bits: int) -> bytes:
    codes, codebook = np.asarray(weight.codes, order="C"), np.ascontiguousarray(weight.codebook)
    dims = _ffi.new("uint64_t[]", list(weight.shape))
    source = _ffi.new("eie_weight *", {
        "codes": _ffi.from_buffer("uint8_t[]", codes), "codebook": _ffi.from_buffer("float[]", codebook),
        "codebook_size": codebook.size, "rank": codes.ndim, "dims": dims,
    })  # fmt: skip
    options = _ffi.new("eie_payload_options *", {"codec": codec, "index_bits": index_bits, "pattern": pattern})
    out, size = _ffi.new("uint8_t **"), _ffi.new("size_t *")
    status = _lib.eie_payload_encode(source, options, out, size)
    if status == Status.MEMORY:
        raise _error(status, "encode")
    assert status == Status.OK, f"status {status}: encode() lets nothing through that C refuses"
    try:
        return bytes(_ffi.buffer(out[0], size[0]))
    finally:
        _lib.eie_payload_free(out[0])


def _as_bytes(payload: Bytes) -> bytes | npt.NDArray[np.uint8]:
    if isinstance(payload, np.ndarray):
        return np.ascontiguousarray(payload).view(np.uint8).reshape(-1)
    return bytes(payload)


def _read_info(payload: bytes | npt.NDArray[np.uint8], where: str) -> Any:
    info = _ffi.new("eie_payload_info *")
    status = _lib.eie_payload_inspect(_ffi.from_buffer("uint8_t[]", payload), len(payload), info)
    if status != Status.OK:
        raise _error(status, where)
    return info


def decode(payload: Bytes, where: str = "payload") -> Weight:
    """The weight a payload holds.

    Args:
        payload: its bytes.
        where: what errors call it: a tensor, a layer.

    Raises:
        FormatError: it is damaged, hostile, of a newer version, not a payload, or too large for memory.
    """
    data = _as_bytes(payload)
    try:
        if _lib is None:
            codes, codebook, header = reference.decode_payload(bytes(data))
            return Weight(codes, codebook, PATTERNS[header.pattern])
        info = _read_info(data, where)
        codes = np.empty(tuple(info.dims[i] for i in range(info.rank)), np.uint8)
        codebook = np.empty(256, np.float32)
        status = _lib.eie_payload_decode(
            _ffi.from_buffer("uint8_t[]", data), len(data), _ffi.from_buffer("uint8_t[]", codes, require_writable=True),
            codes.size, _ffi.from_buffer("float[]", codebook, require_writable=True),
        )  # fmt: skip
    except PayloadError as error:
        raise _error(error.status, where) from None
    except (MemoryError, ValueError):
        # ValueError is what numpy says of a shape whose other dimensions overflow, as a hostile empty one can
        raise _error(Status.MEMORY, where) from None
    if status != Status.OK:
        raise _error(status, where)
    return Weight(codes, codebook[: info.codebook_size].copy(), PATTERNS[info.pattern])


def inspect(payload: Bytes, where: str = "payload") -> PayloadInfo:
    """What the header says; the checksum is not looked at, nothing is decoded.

    Raises:
        FormatError: as ``decode``.
    """
    data = _as_bytes(payload)
    try:
        h = reference.read_header(bytes(data))
    except PayloadError as error:
        raise _error(error.status, where) from None
    tables = h.code_table_bytes + h.index_table_bytes
    streams = h.code_bytes + h.index_bytes + h.codebook_bytes + tables
    return PayloadInfo(
        version=reference.VERSION, shape=h.dims, entries=h.entries, codebook_size=h.codebook_size, bits=h.bits,
        pattern=PATTERNS[h.pattern], code_codec=h.code_codec.name.lower(),
        index_codec=h.index_codec.name.lower() if h.index_codec else "none", index_bits=h.index_bits,
        code_bytes=h.code_bytes, index_bytes=h.index_bytes, codebook_bytes=h.codebook_bytes, table_bytes=tables,
        container_bytes=len(data) - streams,
    )  # fmt: skip
