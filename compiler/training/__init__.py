"""Everything that needs gradients. Modules of this package import torch, and nothing outside imports them before
``require_torch`` has said yes; ``settings`` and ``data`` need no torch."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import UserError

EXTRA = "pip install 'eie[train]'"


def require_torch(where: str = "training") -> None:
    """Raises UserError, naming the extra to install, where torch is not installed."""
    if find_spec("torch") is None:
        raise UserError("training needs torch, which is not installed", where=where, hint=f"Install it: {EXTRA}")
