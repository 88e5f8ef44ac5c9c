"""The real command line, called as users call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def call(
    *arguments: str | Path, code: int = 0, program: str = "eie", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    entry = {"eie": "main", "optimize": "optimize_main"}[program]
    script = f"import sys; sys.argv[0] = {program!r}; from eie.compiler.cli.main import {entry}; {entry}()"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160"},
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def assert_refused(*arguments: str | Path, says: str, cwd: Path | None = None) -> None:
    done = call(*arguments, code=2, cwd=cwd)
    assert done.stdout == ""
    assert says in done.stderr.replace("\n", " "), done.stderr
