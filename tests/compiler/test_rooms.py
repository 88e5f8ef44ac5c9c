"""Which part of the compiler may know which: docs/architecture.md has the picture."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABOVE = {"pipeline", "run", "cli", "report", "bench"}  # what puts the rooms together
CLOSED = {  # room -> what nothing in it imports
    "ir": {"analysis", "coding", "passes", "search", "training", "lowering", "recipe", *ABOVE},
    "analysis": {"coding", "passes", "search", "training", "lowering", "recipe", *ABOVE},
    "coding": {"passes", "search", "training", "lowering", "recipe", *ABOVE},
    "passes": {"search", "lowering", "recipe", *ABOVE},
    "training": {"coding", "passes", "search", "lowering", "recipe", *ABOVE},
    "search": {"training", *ABOVE},
    "lowering": {"coding", "passes", "search", "training", "recipe", *ABOVE},
}


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Modules of eie that a file imports, by their parts after ``eie``; imports inside of functions too."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            inside = (*base, *(node.module.split(".") if node.module else ()))
            inside = inside if node.level else inside[1:] if inside[:1] == ("eie",) else ()
            if inside:
                yield from ((*inside, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("eie."))


@pytest.mark.parametrize("room", CLOSED)
def test_a_room_imports_only_what_it_may_know(room: str) -> None:
    files = list((ROOT / "compiler" / room).rglob("*.py"))
    found = [(path, parts) for path in files for parts in imported(path) if parts[0] == "compiler"]
    assert found
    wrong = [f"{path.relative_to(ROOT)} imports {'.'.join(parts)}" for path, parts in found if parts[1] in CLOSED[room]]
    assert not wrong


def test_the_runtime_does_not_know_the_compiler() -> None:
    found = [(path, parts) for path in (ROOT / "runtime").rglob("*.py") for parts in imported(path)]
    assert found
    assert not [f"{path} imports {'.'.join(parts)}" for path, parts in found if parts[0] == "compiler"]
