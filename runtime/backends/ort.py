"""Whole artifacts in ONNX Runtime, the compressed layers as custom operators of a compiled library."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..dense import NO_OPERATOR
from ..errors import FormatError, ModelError, UserError
from ..modelfile import describe
from ..segments import inference_session, ort_errors, session_options, translated
from . import cpu
from .base import ACTIVATIONS, Activations, LayerSpec
from .cpu import Verdict

if TYPE_CHECKING:
    import onnxruntime

OPTION = "ai.eie.activations"
"""The entry of a session's configuration that stands in the place of the nodes' ``activations``."""

DENSE = "ai.eie.dense"
"""The entry that says whether layers may run dense: ``auto``, where that is expected to be faster, or ``never``."""

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
    _register(options)
    with _translated(where):
        return inference_session(model if isinstance(model, bytes) else os.fspath(model), options)


def _register(options: onnxruntime.SessionOptions) -> None:
    with translated(UserError, "onnxruntime", "it does not take the custom-op library", "ai.eie needs 1.17 or newer"):
        options.register_custom_ops_library(custom_op_library())


class OrtBackend:
    """Runs layers inside ONNX Runtime. Where dense is faster, the standard operator stands in the model itself, so that
    ONNX Runtime lays out its weight and fuses it with what is around it; the library alone can't offer that."""

    name = "ort"
    formats = ACTIVATIONS

    def __init__(self, threads: int = 1) -> None:
        del threads  # ONNX Runtime's own are used

    def verdict(self, spec: LayerSpec) -> Verdict | None:
        return cpu.layer_verdict(spec, step=False)

    def kernel(self, spec: LayerSpec) -> tuple[str, str]:
        found = [cpu.verdict_of(spec.op, spec.attributes, w, spec.activations, step=False) for w in spec.weights]
        packed = next((v for v in found if not v.dense), None)
        return (packed.kernel, packed.why) if packed else ("custom operator", NO_OPERATOR)

    def register(self, options: onnxruntime.SessionOptions) -> None:
        options.add_session_config_entry(DENSE, "never")  # what runs dense is no longer a custom operator
        _register(options)

    def errors(self, where: str) -> AbstractContextManager[None]:
        return _translated(where)


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
