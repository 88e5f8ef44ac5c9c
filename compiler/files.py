"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

_HINT = "Nothing was written. Choose another place, or free some room."


@contextmanager
def write_beside(path: Path) -> Iterator[BinaryIO]:
    """A stream to a new file that takes ``path``'s place when the block ends well, and is removed when it does not.

    A link is followed: what it points to is replaced, the link stays.

    Raises:
        UserError: the path can't be written, is no regular file (a device, a pipe), or the disk is full.
    """
    temporary: str | None = None
    try:
        path = _regular(path)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        Path(temporary).chmod(mode)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(f"can't write: {error.strerror or error}", where=str(path), hint=_HINT) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Say now, before long work, what ``write_beside`` would say after it.

    Raises:
        UserError: as there, but for a disk that fills.
    """
    try:
        with tempfile.TemporaryFile(dir=_regular(path).parent):
            pass
    except OSError as error:
        raise UserError(f"can't write: {error.strerror or error}", where=str(path), hint=_HINT) from error


def _regular(path: Path) -> Path:
    """Where a path leads, if that is a file or nothing yet."""
    path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(0, "this is a folder")
    if path.exists() and not path.is_file():  # to rename over a device would remove it
        raise OSError(0, "this is no regular file")
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
