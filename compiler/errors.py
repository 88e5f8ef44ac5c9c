"""Errors of the compiler: those of the runtime, and one of its own."""

from __future__ import annotations

from collections.abc import Sequence

from eie.runtime.errors import EieError, FormatError, InputError, ModelError, PromiseError, UserError, nearest

__all__ = ["EieError", "FormatError", "InputError", "ModelError", "PromiseError", "UserError", "VerifyError", "nearest"]


class VerifyError(ModelError):
    """A graph that is broken: what, and where, for every problem found."""

    def __init__(self, problems: Sequence[str], where: str | None = None) -> None:
        self.problems = list(problems)
        shown = "; ".join(self.problems[:5])
        more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        super().__init__(f"the graph is not valid: {shown}{more}", where=where)
