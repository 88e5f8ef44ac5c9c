"""Functions of the user's, by name: ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UserError, nearest

_HINT = "It is written module:function or file.py:function, for example metrics:f1 for the function f1 in metrics.py."


def load_function(text: str, where: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; the module is a Python file, or one found from the working folder or wherever
    Python finds modules.

    Args:
        where: the option or key it was given with.

    Raises:
        UserError: there is no such module or function, or the module can't be imported.
    """
    module, _, name = text.rpartition(":")
    if not module or not name:
        raise UserError(f"{text!r} names no function", where=where, hint=_HINT)
    try:
        loaded = _file(Path(module), where) if module.endswith(".py") else _module(module)
    except UserError:
        raise
    except Exception as error:  # a module of the user's, and anything can be wrong with it
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise UserError(f"can't import {module!r}: {kind}{error}", where=where, hint=_HINT) from error
    function = getattr(loaded, name, None)
    if not callable(function):
        functions = [n for n, v in vars(loaded).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"{module!r} has no function {name!r}", where=where, hint=nearest(name, functions))
    found: Callable[..., Any] = function
    return found


def _module(name: str) -> ModuleType:
    with _found_from(Path.cwd()):
        return importlib.import_module(name)


def _file(path: Path, where: str) -> ModuleType:
    name = path.stem if path.stem not in sys.modules else str(path.resolve())
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError("no such file", where=f"{where} {path}", hint=_HINT)
    loaded = importlib.util.module_from_spec(spec)
    with _found_from(path.resolve().parent):
        sys.modules[name] = loaded  # dataclasses and pickle look a class's module up by its name
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[name]
            raise
    return loaded


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
