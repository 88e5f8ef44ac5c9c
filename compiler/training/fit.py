"""Train a model as it is: ONNX in, ONNX out. What the scripts in ``models`` make their models with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from ..analysis.layers import find_layers
from ..ir.graph import copied
from ..ir.reader import read
from ..ir.writer import to_proto
from . import require_torch
from .data import load
from .settings import Settings

if TYPE_CHECKING:
    from ..progress import Progress
    from .trainer import Epoch


@dataclass(frozen=True)
class Fitted:
    """A trained model, and every epoch that led to it."""

    model: onnx.ModelProto
    epochs: tuple[Epoch, ...]


def fit(
    model: str | Path | onnx.ModelProto,
    data: str | Path | Mapping[str, Any] | Any,
    settings: Settings | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train all weights of a model; those that are zero stay zero.

    Args:
        model: an ONNX file, or a model in memory.
        data: training data, as ``compiler/training/data.py`` takes it.
        settings: how; the defaults when left out.
        checkpoint: a folder to go on from after an interruption.
        progress: hears of every epoch.

    Raises:
        UserError: the model or the data is wrong, or torch is not installed.
    """
    require_torch("fit")
    from .checkpoint import Checkpoints
    from .network import assemble
    from .parametrization import of_layer
    from .trainer import Training

    settings = settings or Settings()
    graph = read(model)
    samples = load(data, graph, validation=settings.validation, seed=settings.seed, extra=":" in settings.loss)
    folder = Checkpoints(checkpoint) if checkpoint is not None else None
    training = Training(copied(graph, None)[0], samples, settings, checkpoints=folder, progress=progress)
    layers, _ = find_layers(graph)
    network = assemble(graph, layers, {layer: of_layer(layer) for layer in layers})
    epochs = training.fit(network, "fit")
    network.store()
    return Fitted(to_proto(graph), tuple(epochs))


def right(model: str | Path | onnx.ModelProto, data: Mapping[str, Any], batch: int = 256) -> float:
    """Share of samples that a model's largest score is right for; NaN without classes.

    Args:
        data: arrays by input name, and ``label``.

    Raises:
        UserError: the model or the data is wrong, or torch is not installed.
    """
    require_torch("right")
    from .network import Network
    from .trainer import Training

    graph = read(model)
    samples = load(data, graph, validation=0.0, seed=0)
    training = Training(graph, samples, Settings(batch=batch))
    found = training.evaluate(Network(graph).eval(), samples.train)[1]
    return float("nan") if found is None else found
