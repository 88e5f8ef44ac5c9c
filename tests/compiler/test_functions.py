"""Functions of the user's: found as modules and as files, and what is wrong with them said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eie.compiler.errors import UserError
from eie.compiler.usercode import load_function


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder; what is imported from it is forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_helper.py").write_text("VALUE = 7\n")
    (tmp_path / "mine_late.py").write_text("VALUE = 8\n")
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport mine_helper\nnumber = 3\n"
        "@dataclass\nclass Held:\n    value: int\n"
        "def good():\n    return Held(mine_helper.VALUE).value\n"
        "def late():\n    import mine_late\n    return mine_late.VALUE\n"
    )
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("module", ["mine", "mine.py", "sub/../mine.py"])
def test_modules_and_files_find_what_stands_beside_them(folder: Path, module: str) -> None:
    (folder / "sub").mkdir()
    assert load_function(f"{module}:good", "--metric")() == 7
    assert load_function(f"{module}:late", "--metric")() == 8


def test_a_file_elsewhere_finds_its_neighbours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert load_function(f"{folder / 'mine.py'}:good", "--train")() == 7


def test_a_file_takes_no_place_of_another_module(folder: Path) -> None:
    import json

    (folder / "json.py").write_text("def dumps(value):\n    return 'mine'\n")
    assert load_function("json.py:dumps", "--loss")(1) == "mine"
    assert sys.modules["json"] is json
    assert sys.path[0] != str(folder)


@pytest.mark.parametrize(
    "text, says",
    [
        ("mine", "names no function"),
        (":f", "names no function"),
        ("mine:", "names no function"),
        ("not_there:f", "can't import 'not_there'"),
        ("not_there.py:f", "no such file"),
        ("mine:other", "has no function 'other'"),
        ("mine:number", "has no function 'number'"),
        ("mine_syntax:f", "raised SyntaxError"),
        ("mine_fails.py:f", "raised ZeroDivisionError"),
    ],
)
def test_what_names_no_function_is_said(folder: Path, text: str, says: str) -> None:
    (folder / "mine_syntax.py").write_text("def f(:\n")
    (folder / "mine_fails.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=says):
        load_function(text, "--metric")
    assert "mine_fails" not in sys.modules
