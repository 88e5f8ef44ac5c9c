"""Read, verify, write: the same model comes back. Over every model ONNX's own backend tests ship."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
from onnx.backend.test import loader

from eie.compiler.ir.printer import to_text
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import problems
from eie.compiler.ir.writer import to_proto

Same = Callable[[onnx.ModelProto, onnx.ModelProto], bool]


def backend_models() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Every model of ``onnx.backend.test`` that needs no download."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the cases compute their expected outputs, with the warnings numpy has for them
        for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
            for case in loader.load_model_tests(kind=kind):
                yield case.name, case.model or onnx.load(Path(case.model_dir) / "model.onnx")
    for path in sorted((Path(loader.DATA_DIR) / "light").glob("*.onnx")):
        yield path.stem, onnx.load(path)


def test_every_backend_model_comes_back(same: Same) -> None:
    count, changed, broken = 0, [], {}
    for name, model in backend_models():
        count += 1
        found = read(model)
        if not same(to_proto(found), model):
            changed.append(name)
        complaints = list(problems(found))
        if complaints:
            broken[name] = complaints
        assert to_text(found).startswith("model ir ")
    assert count > 1500
    assert changed == []
    assert broken == {}
