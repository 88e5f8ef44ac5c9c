"""What tests of several folders share."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(os.environ.get("EIE_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data made by others, which are no part of the repository (models/README.md)."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real models and data are not at hand: EIE_SHARED names their folder")
    return SHARED / "data"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if find_spec("torch") is None:
        terminalreporter.write_line("tests/training left out: torch is not installed (pip install 'eie[train]')")
