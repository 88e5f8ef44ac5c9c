"""Training that was interrupted goes on where it was: one file a phase, written whole or not at all.

A phase's file holds what it depends on (a fingerprint) and where it is. A resumed run passes finished phases by, and gives
the same result as one that was never interrupted: the order of samples follows from the seed and the epoch alone.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import hash_arrays
from ..errors import UserError
from ..files import check_writable, write_beside
from ..ir.graph import Graph

_HINT = "Give another folder with --checkpoint, or remove this one to begin anew."
_SHARE = 0.05  # of the time that writing may take
# what zipfile and torch raise for files that are damaged or were written by somebody else; no code in them is executed
_UNREADABLE = (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError,
               MemoryError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error)  # fmt: skip


class Checkpoints:
    """A folder of phases.

    Raises:
        UserError: the folder can't be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't make the folder: {error.strerror}", where=str(folder)) from error
        check_writable(self.folder / "probe.pt")
        self._saved, self._cost = time.monotonic(), 0.0

    def path(self, phase: int) -> Path:
        return self.folder / f"phase-{phase:02d}.pt"

    def load(self, phase: int, marks: Mapping[str, str]) -> dict[str, Any] | None:
        """The state of a phase, None where it never began.

        Args:
            marks: fingerprints of what the phase depends on, by what people call it.

        Raises:
            UserError: the file is of another run, or damaged.
        """
        path = self.path(phase)
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                spoilt = archive.testzip()  # torch does not look at checksums
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            known = dict(state["fingerprint"])
        except _UNREADABLE as error:
            raise self.damaged(phase) from error
        if spoilt is not None:
            raise self.damaged(phase)
        other = [name for name, mark in marks.items() if known.get(name) != mark]
        if other:
            which = ", ".join([name for name in other if name != "beginning"] or other)  # where it began follows from the rest
            more = " (a Dataset has to give the same item each time)" if "data" in other else ""
            raise UserError(f"is the checkpoint of another run: not the same {which}{more}", where=str(path), hint=_HINT)
        return state

    def damaged(self, phase: int) -> UserError:
        """The error for a file that does not hold what it should."""
        return UserError("is no checkpoint, or a damaged one", where=str(self.path(phase)), hint=_HINT)

    def save(self, phase: int, state: Mapping[str, Any], *, must: bool) -> None:
        """Write a phase's state; one that is not the last may be left out where writing takes long."""
        now = time.monotonic()
        if not must and self._cost > _SHARE * (now - self._saved):
            return
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        with write_beside(self.path(phase)) as stream:
            stream.write(buffer.getbuffer())
        self._saved = time.monotonic()
        self._cost = self._saved - now


def graph_fingerprint(graph: Graph) -> str:
    """A hash of what a graph computes: its operators and all constants, bodies included."""
    digest = hashlib.sha256()
    for each in graph.graphs():
        digest.update(repr([[v.name for v in each.inputs], [v.name for v in each.outputs]]).encode())
        for node in each.nodes:
            attributes = {k: v.SerializeToString(deterministic=True) for k, v in sorted(node.attributes.items())}
            digest.update(repr([node.domain, node.op, node.inputs, node.outputs, attributes]).encode())
        hash_arrays(digest, {name: np.asarray(c.array()) for name, c in sorted(each.constants.items())})
    return digest.hexdigest()


def fingerprint(*parts: Any) -> str:
    """A hash of text, arrays and tensors."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()
