"""Read, verify, write: the same model comes back. Over every model ONNX's own backend tests ship."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.backend.test import loader

from eie.compiler.ir.printer import to_text
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import problems
from eie.compiler.ir.writer import to_proto


def normalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model but for what the round trip may change, none of which has a meaning: the order of opset imports and
    of attributes, the spelling of the default domain, and whether an empty name is written down."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    imports = sorted({("" if o.domain == "ai.onnx" else o.domain, o.version) for o in made.opset_import})
    del made.opset_import[:]
    for domain, version in imports:
        made.opset_import.add(domain=domain, version=version)
    _normalize(made.graph)
    return made


def _normalize(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.domain in {"", "ai.onnx"}:
            node.ClearField("domain")
        if not node.name:
            node.ClearField("name")
        ordered = sorted(node.attribute, key=lambda a: a.name)
        copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in ordered]
        del node.attribute[:]
        for attribute in copies:
            for body in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                _normalize(body)
            node.attribute.append(attribute)


def same(left: onnx.ModelProto, right: onnx.ModelProto) -> bool:
    return normalized(left).SerializeToString(deterministic=True) == normalized(right).SerializeToString(
        deterministic=True
    )


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


def test_every_backend_model_comes_back() -> None:
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
