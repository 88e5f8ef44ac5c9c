"""``eie recipe``: the presets, to read and to start one's own from."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

import typer

from ..errors import UserError, nearest
from ..recipe import Recipe, presets

NAME = "recipe"


def command(
    preset: Annotated[str | None, typer.Argument(metavar="PRESET", help="Its text is printed; all are listed when left out.",
                                                 show_default=False)] = None,
) -> None:  # fmt: skip
    """Print a preset, to change and give to `optimize --recipe`: `eie recipe ese > mine.toml`."""
    if preset is None:
        for name in presets():
            print(f"{name:18}{Recipe.load(name).description}")
        return
    if preset not in presets():
        raise UserError("is no preset", where=preset, hint=nearest(preset, presets()))
    print((resources.files("eie.compiler") / "presets" / f"{preset}.toml").read_text(encoding="utf-8"), end="")
