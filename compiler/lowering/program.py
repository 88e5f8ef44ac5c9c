"""The layers of an artifact as programs of one machine: what ``eie lower`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from eie.runtime.artifact import specs
from eie.runtime.backends.hardware import HardwareBackend
from eie.runtime.hardware.config import Config
from eie.runtime.hardware.lower import widened
from eie.runtime.hardware.program import LayerProgram
from eie.runtime.modelfile import Source, describe

from ..errors import FormatError


@dataclass(frozen=True)
class LoweredModel:
    """What of an artifact runs on the machine.

    Attributes:
        programs: a layer has one, or several (directions of a recurrent layer, and its two weights).
        config: the machine; its codes are as wide as the widest layer needs.
        host: layer -> why it runs on the host.
    """

    programs: tuple[LayerProgram, ...]
    config: Config
    host: dict[str, str]


def lower_model(source: Source, config: Config) -> LoweredModel:
    """Lower every compressed layer of an artifact that is a sum of products.

    Raises:
        FormatError: the artifact is damaged, or a layer does not fit the machine, not even in tiles.
    """
    found = list(specs(source, "i16"))
    if not found:
        raise FormatError("holds no compressed layers", where=describe(source), hint="`optimize` makes artifacts")
    config = widened(config, max(w.codebook.size for spec in found for w in spec.weights))
    backend, host = HardwareBackend(config), {}
    for spec in found:
        if spec.op == "Decode":
            host[spec.name] = "a weight of an operator without a compressed form: decoded, and run by ONNX Runtime"
        elif spec.op == "Gather":
            host[spec.name] = "a table that rows are read from: no sums of products"
        else:
            backend.compile(spec)
    return LoweredModel(tuple(backend.programs), config, host)
