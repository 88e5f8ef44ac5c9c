"""How far long work is, for whoever looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears how far the work is; the command line draws bars from it."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of so many steps begins (0: not known)."""

    def step(self, what: str) -> None:
        """Work on ``what`` begins, or it is done where work comes to an end by itself."""

    def note(self, text: str) -> None:
        """Something worth a line of its own, such as what an epoch of training came to."""


class Silent:
    """The progress nobody looks at."""

    def stage(self, name: str, steps: int) -> None: ...
    def step(self, what: str) -> None: ...
    def note(self, text: str) -> None: ...
