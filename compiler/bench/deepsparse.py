"""DeepSparse beside ours. Its pins (onnx below 1.15, numpy below 2) clash with everybody's, so it runs in a Python of its own, a process
that times itself; its answers are checked before that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ..errors import UserError
from .timing import Elapsed

PYTHON = "EIE_DEEPSPARSE_PYTHON"
"""The environment variable that names a Python that has DeepSparse; this one when it is not set."""

_LOOSE = 1e-3  # of the largest output, which floats in another order stay within
_OPSET, _IR = 13, 8  # what it reads
_WORKER = """
import sys, time, json
import numpy
try:
    from deepsparse import Engine
except ImportError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit()
folder, threads = sys.argv[1], int(sys.argv[2])
x = numpy.load(folder + "/x.npy")
engine = Engine(model=folder + "/m.onnx", batch_size=x.shape[0], num_cores=threads)
numpy.save(folder + "/y.npy", engine.run([x])[0])
print(json.dumps({}), flush=True)
for line in sys.stdin:
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    engine.run([x], val_inp=False)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
"""


class DeepSparse:
    """A model compiled by it; a call runs it once and gives what that took.

    Raises:
        UserError: it is not there, does not take the model, or gives another answer than ``expected``.
    """

    def __init__(self, model: onnx.ModelProto, x: npt.NDArray[np.float32], expected: npt.NDArray[Any], threads: int) -> None:  # fmt: skip
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, True)
        onnx.save(fixed(model, x.shape), folder / "m.onnx")
        np.save(folder / "x.npy", x)
        command = [os.environ.get(PYTHON, sys.executable), "-c", _WORKER, str(folder), str(threads)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise UserError(f"can't be started: {error}", where=PYTHON) from error
        weakref.finalize(self, _end, self._process)
        if "error" in self._answer():
            raise UserError("DeepSparse is not installed", where="--with",
                            hint=f"pip install deepsparse==1.8.0 into a Python 3.11, and name that in {PYTHON}")  # fmt: skip
        apart = float(np.abs(np.load(folder / "y.npy") - expected).max() / np.abs(expected).max())
        if not apart <= _LOOSE:
            raise UserError(f"DeepSparse is {apart:.1e} of the largest output away from ONNX Runtime", where="--with")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # it greets, too
                return dict(json.loads(line))
        said = self._process.stderr.read().strip().splitlines()
        raise UserError(f"DeepSparse ended: {said[-1] if said else 'no reason given'}", where="--with")

    def __call__(self) -> Elapsed:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Elapsed(**self._answer())


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()  # closes its pipes


def fixed(model: onnx.ModelProto, shape: Sequence[int], *, opset: int = _OPSET, ir: int = _IR) -> onnx.ModelProto:
    """The model for inputs of this shape, in versions that older tools read: the operators here mean the same in them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = ir
    del made.opset_import[:]
    made.opset_import.extend([helper.make_opsetid("", opset)])
    for dim, size in zip(made.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    return made
