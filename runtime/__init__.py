"""EIE's runtime: an artifact in, answers out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import EieError, FormatError, InputError, ModelError, PromiseError, UserError
from .session import Session
from .weight import Weight

if TYPE_CHECKING:
    from .backends.ort import custom_op_library

__all__ = [
    "EieError",
    "FormatError",
    "InputError",
    "ModelError",
    "PromiseError",
    "Session",
    "UserError",
    "Weight",
    "custom_op_library",
]


def __getattr__(name: str) -> object:
    """``custom_op_library`` only when asked for: it looks for the compiled library."""
    if name == "custom_op_library":
        from .backends.ort import custom_op_library

        return custom_op_library
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
