"""Every error a user of the runtime can meet. Each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EieError(Exception):
    """Base of every error of this project.

    Args:
        what: what is wrong, a sentence without the final dot.
        where: the file, layer, tensor or option it is about.
        hint: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self._text())

    def _text(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text}. {self.hint}" if self.hint else text
        # names from files: a terminal would obey their control characters
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class UserError(EieError):
    """The user's mistake: a file, an option, an input. The command line exits with 2."""


class FormatError(UserError):
    """A payload or an artifact that is damaged, newer than this library, or not ours."""


class InputError(UserError):
    """Inputs that do not fit the model: a name, a shape, a type."""


class ModelError(UserError):
    """A model that can't be read or used: no ONNX, invalid, or outside what is supported."""


class PromiseError(EieError):
    """Everything ran, but something promised was not kept (``--strict``, a budget). The command line exits with 1."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The hint for a name that is none of ``known``: the most similar one, whatever its case, or all there are."""
    names = list(known)
    folded = {n.casefold(): n for n in reversed(names)}
    near = difflib.get_close_matches(str(name).casefold(), folded, 1, 0.4)
    return f"Did you mean {folded[near[0]]!r}?" if near else f"There are {', '.join(map(repr, names)) or 'none'}"


def any_of(name: object, known: Iterable[str]) -> str:
    """The hint where there are few enough to choose from: the most similar one, and all there are."""
    names = list(known)
    near, every = nearest(name, names), f"There are {', '.join(map(repr, names)) or 'none'}"
    return near if near == every else f"{near} {every}"
