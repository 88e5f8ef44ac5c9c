"""Whole artifacts in ONNX Runtime, the compressed layers as custom operators of a compiled library."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, ModelError, UserError
from ..modelfile import describe
from ..segments import inference_session, ort_errors, session_options, translated
from .base import ACTIVATIONS, Activations

if TYPE_CHECKING:
    import onnxruntime

OPTION = "ai.eie.activations"
"""The entry of a session's configuration that stands in the place of the nodes' ``activations``."""

_LIBRARY = "_ortops"
_SUFFIXES = (".so", ".pyd", ".dll", ".dylib")
_OURS = re.compile(r"ai\.eie (\w+) '([^']*)': (.*)", re.DOTALL)


def custom_op_library() -> str:
    """Path of the library to hand to ``SessionOptions.register_custom_ops_library``.

    Raises:
        UserError: this installation has none.
    """
    folder = Path(__file__).resolve().parent.parent
    found = sorted(p for p in folder.glob(f"{_LIBRARY}*") if p.suffix in _SUFFIXES)
    if not found:
        raise UserError("the custom-op library is missing", where=str(folder),
                        hint="Reinstall eie with a C compiler at hand, or use the backend `reference`")  # fmt: skip
    return str(found[0])


def create_session(model: str | os.PathLike[str] | bytes, threads: int = 1,
                   activations: Activations | None = None) -> onnxruntime.InferenceSession:  # fmt: skip
    """An ``InferenceSession`` that runs an artifact.

    Args:
        model: its path, or its bytes.
        threads: of ONNX Runtime, which the compressed layers use too.
        activations: the format all compressed layers compute in; None: what each of them asks for.

    Raises:
        FormatError: a compressed layer is damaged, or does not fit its model; names the layer.
        ModelError: ONNX Runtime does not accept the model.
        UserError: no such format; this ONNX Runtime is too old; the library is missing.
    """
    where = describe(model if isinstance(model, bytes) else os.fspath(model))
    if activations not in (None, *ACTIVATIONS):
        raise UserError(f"must be one of {', '.join(ACTIVATIONS)}, not {activations!r}", where="activations")
    options = session_options(threads)
    if activations is not None:
        options.add_session_config_entry(OPTION, activations)  # read when the library is registered
    with translated(UserError, "onnxruntime", "it does not take the custom-op library", "ai.eie needs 1.17 or newer"):
        options.register_custom_ops_library(custom_op_library())
    with _translated(where):
        return inference_session(model if isinstance(model, bytes) else os.fspath(model), options)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """ONNX Runtime's errors as ours: a layer's own words where a layer of ours said no."""
    with translated(ModelError, where, "ONNX Runtime does not accept it"):
        try:
            yield
        except ort_errors() as error:
            ours = _OURS.search(str(error))
            if ours is None:
                raise
            op, name, what = ours.groups()
            raise FormatError(what.strip().rstrip("."), where=f"layer {name!r} ({op})",
                              hint="The artifact is damaged; compress the model again") from error  # fmt: skip
