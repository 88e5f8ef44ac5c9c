"""ONNX operators in torch (``base`` has the registry). Importing this package registers all of them."""

from __future__ import annotations

from . import control, elementwise, layers, quantized, recurrent, reductions, shapes
from .base import OPERATORS, Call, Scope, Tensor, Value

__all__ = [
    "OPERATORS",
    "Call",
    "Scope",
    "Tensor",
    "Value",
    "control",
    "elementwise",
    "layers",
    "quantized",
    "recurrent",
    "reductions",
    "shapes",
]
