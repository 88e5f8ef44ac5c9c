"""Code of the user's: what it does wrong is the user's mistake, and said with the line it is in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from commands import assert_refused
from eie.compiler.errors import UserError
from eie.compiler.usercode import calling, load_function

MODULE = """
import sys
def raises(*given): raise RuntimeError("out of luck")
def leaves(*given): sys.exit(0)
def takes(one): return 0.0
number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_code.py").write_text(MODULE)
    (tmp_path / "no_python.py").write_text("def f(:\n")
    (tmp_path / "no_text.py").write_bytes(b"a\0b")
    (tmp_path / "fails.py").write_text("\n1 / 0\n")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("own_code", "names no function"),
        (".own_code:raises", "names no function"),
        ("nowhere_to_be_found:f", "can't import"),
        ("nowhere.py:f", "no such file"),
        ("own_code:number", "has no function"),
        ("own_code:raise", "Did you mean 'raises'"),
        ("no_python:f", r"raised SyntaxError: invalid syntax \(no_python.py, line 1\)"),
        ("no_python.py:f", "raised SyntaxError"),
        ("no_text:f", "raised SyntaxError"),
        ("fails:f", r"raised ZeroDivisionError: division by zero \(fails.py, line 2\)"),
        ("./fails.py:f", r"raised ZeroDivisionError: division by zero \(fails.py, line 2\)"),
        ("ends:f", r"raised SystemExit: 0 \(ends.py, line 2\)"),
    ],
)
def test_functions_that_can_not_be_had(here: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_function(text, "--metric")


@pytest.mark.parametrize("text", ["own_code:raises", "own_code.py:raises", "./own_code.py:raises"])
def test_what_a_function_raises(here: Path, text: str) -> None:
    function = load_function(text, "--metric")
    with pytest.raises(UserError, match=r"raised RuntimeError: out of luck \(own_code.py, line 3\)"), calling("--metric"):
        function()


@pytest.mark.parametrize(("name", "says"), [("raises", "out of luck"), ("leaves", "SystemExit"), ("takes", "takes 1")])
def test_commands_end_with_the_users_mistake(here: Path, name: str, says: str) -> None:
    """Not with 1, a promise that is not kept, and not with 0."""
    onnx.save(parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }'), "m.onnx")
    np.savez("x.npz", x=np.zeros((8, 4), np.float32), label=np.zeros(8, np.int64))
    assert_refused("evaluate", "m.onnx", "--data", "x.npz", "--metric", f"own_code:{name}", says=says)


def test_a_metric_of_outputs_that_differ_in_shape(here: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (int64[2,M] y) { y = NonZero(x) }'
    onnx.save(parser.parse_model(text), "m.onnx")
    np.savez("x.npz", x=np.eye(4, dtype=np.float32).cumsum(0))
    assert_refused("evaluate", "m.onnx", "--data", "x.npz", "--metric", "own_code:raises", says="differ in shape")
