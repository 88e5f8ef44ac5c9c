"""One layer on the machine: the answer, the cycles, and what they went to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import numerics
from ..errors import InputError
from . import machine
from .config import Config
from .energy import Energy, energy
from .image import Image
from .machine import Activity, Event

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerResult:
    """A layer that ran.

    Attributes:
        cycles: of the machine.
        entries: stored, fillers included, of all elements.
        fillers: of them.
        entries_visited: worked on, fillers included: those of columns that were broadcast.
        pointer_reads: of pairs of pointers.
        spmat_reads: of lines of the sparse-matrix SRAM.
        stalls: cause -> cycles. ``blocked`` (a broadcast waited for a full queue) and ``scan`` (a row of activations held
            none) are cycles of the broadcast; ``starved`` (no activation in the queue), ``empty`` (a column without
            entries), ``hazard`` (waiting for a sum) and ``idle`` (done before the others) are element-cycles.
        efficiency: share of element-cycles that worked on an entry, 0 to 1: load balance.
        energy: by module.
        microseconds: at the machine's clock.
        output: float32 [outputs], as backend ``cpu`` gives it in ``i16``.
        loads: uint64 [N]: entries each element visited.
        fits: whether the machine's memories hold the layer.
        events: those in the window asked for.
        activity: everything that was counted.
    """

    cycles: int
    entries: int
    fillers: int
    entries_visited: int
    pointer_reads: int
    spmat_reads: int
    stalls: Mapping[str, int]
    efficiency: float
    energy: Energy
    microseconds: float
    output: npt.NDArray[np.float32]
    loads: npt.NDArray[np.uint64] = field(repr=False)
    fits: bool
    events: tuple[Event, ...] = field(repr=False)
    activity: Activity

    @property
    def energy_pj(self) -> float:
        return self.energy.total


def stalls(activity: Activity) -> dict[str, int]:
    """Cause -> cycles, as ``LayerResult.stalls`` has them."""
    return {"blocked": activity.blocked_cycles, "scan": activity.scan_cycles, "starved": activity.starved_cycles,
            "empty": activity.empty_cycles, "hazard": activity.hazard_cycles, "idle": activity.idle_cycles}  # fmt: skip


def efficiency(activity: Activity, config: Config) -> float:
    """Share of element-cycles that worked on an entry, of the channels that had a vector."""
    return activity.visited / max(1, activity.cycles * config.processing_elements)


def _floats(values: Any, name: str) -> npt.NDArray[np.float32]:
    try:
        return np.asarray(values, np.float32)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} are no numbers: {error}", where="simulate_layer") from error


def simulate_layer(codes: Array, codebook: Array, activations: Array, config: Config | None = None,
                   bias: Array | None = None, window: tuple[int, int] | None = None) -> LayerResult:  # fmt: skip
    """A fully connected layer on the accelerator, its weights already in SRAM; memories are taken to be large enough.

    Args:
        codes: uint8 [outputs, inputs], 0 for zero.
        codebook: float32 [at most 2^code_bits], entry 0 is 0.
        activations: float32 [inputs].
        config: the machine; ``eie-64-45nm`` when left out.
        bias: float32 [outputs], added to the sums; its non-zeros are entries of the bias column.
        window: cycles [from, to) whose events are wanted.

    Raises:
        InputError: shapes that do not fit each other, activations that are not finite, a window that is none.
        UserError: codes or a codebook that can't be, more shared values than the machine's codes name.
    """
    config = Config() if config is None else config
    codes, x, values = np.asarray(codes), _floats(activations, "activations"), _floats(codebook, "codebook")
    if codes.ndim != 2 or x.shape != codes.shape[1:]:
        raise InputError(f"activations have the shape {list(x.shape)} instead of the inputs of codes {list(codes.shape)}",
                         where="simulate_layer")  # fmt: skip
    if bias is not None:
        bias = _floats(bias, "bias")
    if bias is not None and bias.shape != codes.shape[:1]:
        raise InputError(
            f"bias has the shape {list(np.shape(bias))} instead of {list(codes.shape[:1])}", where="simulate_layer"
        )
    if window is not None and not 0 <= window[0] < window[1] < 1 << 62:
        raise InputError(f"{window} is no window of cycles [from, to)", where="simulate_layer")
    image = Image.encode(codes, values, config, bias)
    q, exponent, finite = numerics.quantize_i16(x[None])
    if not finite.all():
        raise InputError("activations hold NaN or infinity", where="simulate_layer")
    ran = machine.run(image, q, config, window)
    _, unit = numerics.codebook_i16(image.codebook)
    y = numerics.scale_i16(ran.sums, (exponent + unit)[:, None])[0]
    a = ran.activity
    return LayerResult(
        cycles=a.cycles,
        entries=image.entries,
        fillers=image.fillers,
        entries_visited=a.visited,
        pointer_reads=a.pointer_reads,
        spmat_reads=a.line_reads,
        stalls=stalls(a),
        efficiency=efficiency(a, config),
        energy=energy(a, config),
        microseconds=config.microseconds(a.cycles),
        output=y if bias is None else y + bias,
        loads=ran.loads[:, 0],
        fits=image.misfit(config) is None,
        events=ran.events,
        activity=a,
    )
