"""What ONNX Runtime's own operator is told so that it computes what a compressed layer does."""

from __future__ import annotations

from typing import Any

from .backends.base import LayerSpec

NO_OPERATOR = "ONNX Runtime has no operator that always computes just this"


def standard_attributes(spec: LayerSpec) -> dict[str, Any] | None:
    """Attributes of the standard operator in the place of a layer; None where its meaning differs between versions of
    ONNX Runtime, or it refuses to run: SAME padding that depends on the input's size, of a dilated kernel or one
    shorter than its stride; an output's shape beyond what the kernel reaches.

    Args:
        spec: a layer that fits its weight (``EieNode.spec`` checked it).
    """
    given = dict(spec.attributes)
    if spec.op in ("LSTM", "GRU"):
        given["hidden_size"] = spec.weights[1].shape[2]
        if not given.get("clip"):
            given.pop("clip", None)  # 0 is none here, and refused there
    if given.get("output_shape"):
        return None
    padding = given.get("auto_pad", "NOTSET")
    if padding == "NOTSET" or spec.op not in ("Conv", "ConvTranspose"):
        return given
    given.pop("pads", None)  # they do not count here, and beside auto_pad ONNX Runtime does not take them
    if spec.op == "ConvTranspose":
        return given
    del given["auto_pad"]
    if padding == "VALID":
        return given
    kernel = spec.weights[0].shape[2:]
    strides, dilations = (given.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    if max(strides) > 1:
        fits = max(dilations) == 1 and all(k >= s for k, s in zip(kernel, strides, strict=True))
        return {**given, "auto_pad": padding} if fits else None
    added = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    less, more = [n // 2 for n in added], [n - n // 2 for n in added]
    return {**given, "pads": less + more if padding == "SAME_UPPER" else more + less}
