"""``eie doctor``: what this machine can do, and whether everything is in place."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import typer

from eie.runtime import custom_op_library
from eie.runtime.backends import cpu

from ..errors import EieError
from ..report.table import console
from ..training import EXTRA
from .common import Json, print_json

NAME = "doctor"


def command(json: Json = False) -> None:
    """Check the installation: versions, instruction sets, the custom-op library in ONNX Runtime."""
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in ("eie", "onnx", "onnxruntime", "numpy")},
        "instruction_set": cpu.isa(),
        "instruction_sets_available": cpu.isas(),
        "training": _torch(),
    }
    problems = []
    try:
        library = custom_op_library()
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.register_custom_ops_library(library)
        found["custom_op_library"] = library
    except (EieError, OSError, RuntimeError) as error:
        problems.append(f"the custom-op library does not load: {error}")
    found["problems"] = problems
    if json:
        print_json(found)
    else:
        screen = console()
        for key, value in found.items():
            if key != "problems":
                text = ", ".join(value) if isinstance(value, list) else value
                screen.print(f"{key.replace('_', ' '):28}{text}", highlight=False, markup=False, soft_wrap=True)
        for problem in problems:
            screen.print(f"problem: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
        if not problems:
            screen.print("all is well", highlight=False)
    if problems:
        sys.stdout.flush()
        raise typer.Exit(1)


def _torch() -> str:
    """What trains, and on what."""
    version = _version("torch")
    if version == "not installed":
        return f"needs torch: {EXTRA}"
    import torch

    return f"torch {version}, " + (torch.cuda.get_device_name() if torch.cuda.is_available() else "on the processor")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
