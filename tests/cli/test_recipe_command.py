"""`eie recipe`: presets to read and to start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import assert_refused, call
from eie.compiler import Recipe
from eie.compiler.recipe import presets


def test_presets_are_listed() -> None:
    lines = call("recipe").stdout.splitlines()
    assert [line.split()[0] for line in lines] == presets()


@pytest.mark.parametrize("name", presets())
def test_what_is_printed_is_the_preset(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(call("recipe", name).stdout)
    mine, preset = Recipe.load(str(path)), Recipe.load(name)
    assert (mine.passes, mine.train, mine.rules, mine.budget) == (preset.passes, preset.train, preset.rules, preset.budget)


def test_the_nearest_preset_is_named() -> None:
    assert_refused("recipe", "deep-compresion", says="deep-compression")
