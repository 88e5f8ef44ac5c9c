"""What ``optimize`` gives back: the artifact, and everything that was done to make it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from eie.runtime.backends.base import Activations
from eie.runtime.backends.cpu import Verdict, verdict_of
from eie.runtime.format import inspect

from ..analysis.fidelity import Fidelity
from ..analysis.judge import Accuracy
from ..analysis.layers import LeftAlone
from ..errors import UserError
from ..ir.graph import Model
from ..ir.writer import save as save_model
from ..ir.writer import size_of, to_proto
from ..lowering.artifact import Stored
from ..recipe import Recipe
from ..search.choose import Promised

if TYPE_CHECKING:
    from ..training.trainer import Epoch

KINDS = ("codes", "indices", "codebook", "tables", "container")


@dataclass(frozen=True)
class Step:
    """A pass that ran: its name, its time, and how far the outputs were from the original's after it (None: no change)."""

    name: str
    seconds: float
    fidelity: Fidelity | None


@dataclass(frozen=True)
class LayerRow:
    """One compressed weight.

    Attributes:
        name, op, shape: the layer; shape in the orientation it is stored.
        kept: share of weights that are not zero.
        bits: of a code.
        bytes_before: as the model stored it.
        bytes_after: of its payload.
        bytes_by_kind: what the payload's bytes are, by KINDS.
        error: relative error (root mean square) of the layer's output on the samples, its own input unchanged.
        verdict: the kernel it will run on this machine, and why.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    kept: float
    bits: int
    bytes_before: int
    bytes_after: int
    bytes_by_kind: Mapping[str, int]
    error: float
    verdict: Verdict

    @classmethod
    def of(cls, stored: Stored, error: float, activations: Activations) -> LayerRow:
        info = inspect(stored.payload)
        return cls(
            stored.layer,
            stored.source_op,
            stored.weight.shape,
            stored.weight.density,
            stored.weight.bits,
            stored.bytes_before,
            len(stored.payload),
            info.bytes_by_kind(),
            error,
            verdict_of(stored.op, stored.attributes, stored.weight, activations),
        )

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "op": self.op,
            "shape": list(self.shape),
            "kept": self.kept,
            "bits": self.bits,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bytes": dict(self.bytes_by_kind),
            "kernel": self.verdict.kernel,
            "why": self.verdict.why,
            "error": self.error,
        }


@dataclass(frozen=True)
class Learnt:
    """What training came to.

    Attributes:
        samples, held: how many samples trained, and how many were held back for validation.
        loss_before, right_before: of the model as it came, on the validation data; NaN and None where there is none.
        epochs: every epoch of every training pass, in order.
        frozen: constants that no gradient reaches, and why: they stayed as they were.
        loss: what was made small, as ``[train]`` calls it.
    """

    samples: int
    held: int
    loss_before: float
    right_before: float | None
    epochs: tuple[Epoch, ...]
    frozen: Mapping[str, str] = field(default_factory=dict)
    loss: str = ""

    def json(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "validation_samples": self.held,
            "loss_before": self.loss_before,
            "right_before": self.right_before,
            "epochs": [asdict(e) for e in self.epochs],
            "loss": self.loss,
            "not_trained": dict(self.frozen),
        }


@dataclass
class Result:
    """What ``optimize`` did. ``save`` writes the artifact.

    Attributes:
        model: the artifact as Model.
        recipe: the recipe with what was searched filled in as rules.
        layers: the compressed weights.
        left_alone: constants that stay as they were, and why.
        steps: the passes in order.
        input_bytes: size of the input model, external data included.
        weight_bytes_before: of all its constants.
        made_up: whether the samples were made up.
        missed: what of a budget could not be kept, or None.
        closed_inputs: inputs with a default value in the model, which are constants now.
        verify: the artifact's outputs against the original's, run on the ``cpu`` backend.
        accuracy: top-1 before and after on samples held back, where the data has labels.
        learnt: what training came to, where there was data for it.
        untrained: passes that learn from data and had none.
        trained_model: the model after the last pass that trained, its weights as they were then.
        promised: what the search promises, where the recipe has a budget.
        notes: what the reconstruction said of each layer.
        folded: layer -> what of it was folded away, exactly.
        budgeted: of each total budget, how many times fewer bytes were asked for, and how many times fewer its layers take.
        output_bytes: size of the artifact; 0 until saved or measured.
    """

    model: Model
    recipe: Recipe
    layers: Sequence[LayerRow]
    left_alone: Sequence[LeftAlone]
    steps: Sequence[Step]
    input_bytes: int
    weight_bytes_before: int
    made_up: bool
    missed: str | None
    closed_inputs: Sequence[str]
    verify: Fidelity
    accuracy: Accuracy | None
    learnt: Learnt | None = None
    untrained: Sequence[str] = ()
    trained_model: Model | None = None
    promised: Promised | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict)
    budgeted: Sequence[tuple[float, float]] = ()
    output_bytes: int = field(default=0)

    @property
    def weight_bytes_after(self) -> int:
        """Bytes of all constants of the artifact, payloads included."""
        return sum(c.nbytes for graph in self.model.graph.graphs() for c in graph.constants.values())

    @property
    def ratio(self) -> float:
        """How many times smaller the file on disk became."""
        return self.input_bytes / self.output_bytes if self.output_bytes else float("nan")

    @property
    def trained(self) -> onnx.ModelProto | None:
        """The model after the last pass that trained, as plain ONNX.

        Raises:
            ModelError: it does not fit a protocol buffer; ``save_trained`` writes it.
        """
        return to_proto(self.trained_model) if self.trained_model is not None else None

    def save_trained(self, path: str | Path) -> None:
        """Write the model after the last pass that trained as plain ONNX, whole or not at all; more than one file can hold with
        external data beside it.

        Raises:
            UserError: nothing was trained, or the path can't be written.
        """
        if self.trained_model is None:
            raise UserError("nothing was trained", where=str(path), hint="Give train=, and a recipe with a pass that learns.")
        save_model(self.trained_model, path)

    def save(self, path: str | Path) -> None:
        """Write the artifact, whole or not at all.

        Raises:
            UserError: the path can't be written.
        """
        self.output_bytes = save_model(self.model, path)

    def measure(self) -> None:
        """Find the artifact's size without writing it."""
        self.output_bytes = size_of(self.model)

    def json(self) -> dict[str, Any]:
        """What ``eie optimize --json`` prints; numbers that are not finite are None."""
        found: dict[str, Any] = {
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "weight_bytes_before": self.weight_bytes_before,
            "weight_bytes_after": self.weight_bytes_after,
            "ratio": self.ratio,
            "layers": [layer.json() for layer in self.layers],
            "left_alone": [
                {"name": item.name, "op": item.op, "why": item.why, "bytes": item.bytes} for item in self.left_alone
            ],
            "verify": {
                "sqnr_db": self.verify.sqnr_db,
                "top1_agreement": self.verify.top1_agreement,
                "output": self.verify.worst,
                "samples": self.verify.samples,
                "made_up": self.made_up,
            },
            "steps": [
                {"name": s.name, "seconds": round(s.seconds, 3), "sqnr_db": s.fidelity.sqnr_db if s.fidelity else None}
                for s in self.steps
            ],
            "activations": self.recipe.activations,
            "missed": self.missed,
            "budgets": [{"asked": asked, "reached": reached} for asked, reached in self.budgeted],
            "folded": dict(self.folded),
            "closed_inputs": list(self.closed_inputs),
        }
        if self.accuracy is not None:
            found["accuracy"] = {
                "before": self.accuracy.before,
                "after": self.accuracy.after,
                "samples": self.accuracy.samples,
                "given": self.accuracy.given,
                "held_back": self.accuracy.held_back,
                "interval_before": list(self.accuracy.interval_before),
                "interval_after": list(self.accuracy.interval_after),
                "interval_change": list(self.accuracy.interval_change),
            }
        if self.learnt is not None:
            found["training"] = self.learnt.json()
        if self.untrained:
            found["untrained"] = list(self.untrained)
        if self.promised is not None:
            found["promise"] = self.promised.json()
        whole: dict[str, Any] = finite(found)
        return whole


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
