"""Code of the user's, named ``module:function``: found, called, and where it fails, that said.

What the code raises is the user's mistake and no failure of ours, so it ends as one: by Python's own rules an exception would end
the program with 1, which stands for a promise that was not kept, and ``sys.exit()`` with 0, as if all were done.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import EieError, UserError, nearest


def load_function(text: str, where: str) -> Callable[..., Any]:
    """The function ``module:function`` names; the module is a Python file, or one that can be imported from here.

    Raises:
        UserError: there is no such module or function, or the module fails.
    """
    module, _, name = text.rpartition(":")
    hint = "It is written module:function or file.py:function."
    if not module or not name or (module.startswith(".") and not module.endswith(".py")):
        raise UserError(f"{text!r} names no function", where=where, hint=hint)
    with calling(module):
        loaded = _from_file(Path(module), hint) if module.endswith(".py") else _from_here(module, where, hint)
    function = getattr(loaded, name, None)
    if not callable(function):
        functions = [n for n, v in vars(loaded).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"{module} has no function {name!r}", where=where, hint=nearest(name, functions))
    found: Callable[..., Any] = function
    return found


def _from_file(path: Path, hint: str) -> ModuleType:
    name = path.stem if path.stem not in sys.modules else str(path.resolve())
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError("no such file", where=str(path), hint=hint)
    loaded = importlib.util.module_from_spec(spec)
    with _found_from(path.resolve().parent):
        sys.modules[name] = loaded  # dataclasses and pickle look a class's module up by its name
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[name]
            raise
    return loaded


def _from_here(module: str, where: str, hint: str) -> ModuleType:
    try:
        with _found_from(Path.cwd()):
            return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"can't import {module!r}: {error}", where=where, hint=hint) from error


@contextmanager
def _found_from(folder: Path) -> Iterator[None]:
    """Modules in a folder go before all others while it lasts, and behind all others afterwards: functions may import when they are
    called, and a file of the user's must not take the place of a module of ours."""
    text = str(folder)
    sys.path.insert(0, text)
    try:
        yield
    finally:
        if text in sys.path:
            sys.path.remove(text)
        if text not in sys.path:
            sys.path.append(text)


def source_of(function: Any) -> str:
    """What a function is made from, as text, to tell whether it has changed."""
    try:
        return Path(inspect.getsourcefile(function) or "").read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):  # typed in, or no Python
        return repr(function)


@contextmanager
def calling(where: str) -> Iterator[None]:
    """While the user's code runs.

    Raises:
        UserError: it raised something, or wanted to end the program; says what, and in which line.
    """
    try:
        yield
    except (EieError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises
        text = f": {error}" if str(error) else ""
        raise UserError(f"raised {type(error).__name__}{text}{_place(error)}", where=where) from error


def _place(error: BaseException) -> str:
    """The line of the user's that was called, where that is known."""
    between = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<")
    for frame in traceback.extract_tb(error.__traceback__)[2:]:  # after `calling`, and the function that uses it
        if not frame.filename.startswith(between):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
