"""What the accelerator did with a model, as figures: of each layer, and of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eie.runtime.backends.hardware import HardwareBackend
from eie.runtime.hardware.config import Config
from eie.runtime.hardware.energy import area_mm2
from eie.runtime.hardware.execute import Cost
from eie.runtime.hardware.machine import Activity
from eie.runtime.hardware.simulate import efficiency, stalls


def figures(cost: Cost, config: Config) -> dict[str, Any]:
    """One layer's figures, as ``eie simulate --json`` prints them; energies in microjoule."""
    used = cost.energy(config)
    return {
        "cycles": cost.cycles,
        "compute_cycles": cost.compute,
        "io_cycles": cost.io,
        "load_cycles": cost.load,
        "switch_cycles": cost.switch,
        "microseconds": config.microseconds(cost.cycles),
        "vectors": cost.vectors,
        "entries_visited": cost.activity.visited,
        "fillers_visited": cost.activity.fillers,
        "memory": accesses(cost.activity),
        "stalls": stalls(cost.activity),
        "efficiency": efficiency(cost.activity, config),
        "energy_uj": used.total / 1e6,
        "energy_by_module_uj": {name: value / 1e6 for name, value in used.by_module.items()},
    }


def accesses(activity: Activity) -> dict[str, int]:
    """Reads and writes of each memory of the elements; a sum that bypasses to the adder is not read."""
    useful = activity.visited - activity.fillers
    return {
        "pointer_reads": activity.pointer_reads,
        "spmat_reads": activity.line_reads,
        "queue_writes": activity.pointer_reads,
        "accumulator_reads": useful - activity.bypasses,
        "accumulator_writes": useful,
    }


def of_backend(backend: HardwareBackend) -> dict[str, Any]:
    """Figures of every layer that ran, and their sums; layers run one after the other."""
    layers = [{"name": name, **figures(cost, backend.machines[name])} for name, cost in backend.costs.items()]
    total: dict[str, Any] = {
        key: sum(layer[key] for layer in layers)
        for key in ("cycles", "compute_cycles", "io_cycles", "load_cycles", "switch_cycles", "microseconds", "entries_visited",
                    "fillers_visited", "energy_uj")
    }  # fmt: skip
    busy = sum(c.activity.cycles for c in backend.costs.values()) * backend.config.processing_elements
    total["efficiency"] = total["entries_visited"] / max(1, busy)
    total["stalls"] = _summed(layer["stalls"] for layer in layers)
    total["memory"] = _summed(layer["memory"] for layer in layers)
    total["power_mw"] = total["energy_uj"] / total["microseconds"] * 1e3 if total["microseconds"] else 0.0
    total["area_mm2"] = area_mm2(backend.config)
    return {"config": backend.config.name, "layers": layers, "total": total}


def _summed(parts: Any) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            found[key] = found.get(key, 0) + value
    return found
