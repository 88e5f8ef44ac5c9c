"""What the tests of the IR share."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest


@pytest.fixture(scope="session")
def same() -> Callable[[onnx.ModelProto, onnx.ModelProto], bool]:
    """Whether two models are equal but for what a round trip may change (see ``normalized``)."""

    def compare(left: onnx.ModelProto, right: onnx.ModelProto) -> bool:
        one, other = (normalized(m).SerializeToString(deterministic=True) for m in (left, right))
        return one == other

    return compare


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
