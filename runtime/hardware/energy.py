"""Energy and area of the machine, from what the papers report (docs/hardware.md has every assumption).

EIE's table II gives the power of an element's modules at 45 nm and 800 MHz, in the steady state section VI describes: an
entry a cycle, and an access of the pointers and of the sparse matrix every 8 cycles. A module's power there is a part that
runs with the clock, and one that each access or entry costs: the share of the clock network, 20.46 %, is taken for the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .config import Config
from .machine import Activity

MODULES = ("queue", "pointers", "sparse matrix", "arithmetic", "accumulators")
_POWER_MW = {"queue": 0.112, "pointers": 1.807, "sparse matrix": 4.955, "arithmetic": 1.162, "accumulators": 1.122}
_AREA_UM2 = {"queue": 758.0, "pointers": 121_849.0, "sparse matrix": 469_412.0, "arithmetic": 3_110.0,
             "accumulators": 18_934.0}  # fmt: skip
_ELEMENT_UM2 = 638_024.0  # with filler cells
_PERIOD = {"queue": 8, "pointers": 8, "sparse matrix": 8, "arithmetic": 1, "accumulators": 1}  # cycles an event
_CLOCKED = 1.874 / 9.157  # share of power that goes with the clock
_NODE_MW, _NODE_UM2, _FANIN = 0.023, 189.0, 4  # of the tree that finds non-zeros
_MHZ = 800.0
_DRAM_PJ, _DRAM_BITS = 640.0, 32  # table I

# Projections. 28 nm: the paper gives an element the power it has at 45 nm, at 1200 MHz (table V: 2.36 W for 256), and areas
# shrink by (28/45)^2. FPGA (20 nm): 41 W for 1,024 elements and their memories at 200 MHz (ESE, FPGA 2017).
_ENERGY = {45: 1.0, 28: 800 / 1200, 20: 41_000 / 1024 / 200 / (9.157 / 800)}
_AREA = {45: 1.0, 28: (28 / 45) ** 2, 20: 0.0}


@dataclass(frozen=True)
class Energy:
    """Of some cycles, in pJ.

    Attributes:
        by_module: all elements' queues, pointers, sparse matrices, arithmetic, accumulators; the tree that finds non-zeros;
            DRAM where weights come from there.
    """

    by_module: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_module.values())


def energy(activity: Activity, config: Config, dram_bits: float = 0.0) -> Energy:
    """What a run took.

    Args:
        activity: what was counted.
        config: the machine; widths other than the paper's scale the energy of an access by their ratio.
        dram_bits: that crossed the memory interface.
    """
    n, scale = config.processing_elements * config.channels, _ENERGY[config.process_nm]
    writes = activity.visited - activity.fillers
    events = {"queue": activity.pointer_reads, "pointers": activity.pointer_reads, "sparse matrix": activity.line_reads,
              "arithmetic": activity.visited, "accumulators": writes}  # fmt: skip
    widths = {"queue": config.activation_bits / 16, "pointers": config.pointer_bits / 16 * _sram(config.pointer_bytes, 32_768),
              "sparse matrix": config.line_bits / 64 * _sram(config.spmat_bytes, 131_072), "arithmetic": 1.0,
              "accumulators": 1.0}  # fmt: skip
    found = {}
    for module in MODULES:
        per_cycle = _POWER_MW[module] / _MHZ * 1e3  # pJ
        clocked = per_cycle * _CLOCKED * n * activity.cycles
        dynamic = per_cycle * (1 - _CLOCKED) * _PERIOD[module] * events[module] * widths[module]
        found[module] = scale * (clocked + dynamic)
    found["non-zero tree"] = scale * _NODE_MW / _MHZ * 1e3 * tree_nodes(config) * activity.cycles
    if dram_bits:
        found["DRAM"] = _DRAM_PJ / _DRAM_BITS * dram_bits
    return Energy(found)


def _sram(size: int, published: int) -> float:
    """An access of a memory of another size: word and bit lines grow with the square root of its area."""
    return float((size / published) ** 0.5)


def tree_nodes(config: Config) -> int:
    """Nodes of the tree that finds the next non-zero, one for each 4 below it: 21 for 64 elements (section IV)."""
    total, level = 0, config.processing_elements
    while level > 1:
        level = -(-level // _FANIN)
        total += level
    return total * config.channels


def power_mw(activity: Activity, config: Config) -> float:
    """Mean power over a run."""
    return energy(activity, config).total / config.microseconds(activity.cycles) / 1e3 if activity.cycles else 0.0


def area_mm2(config: Config) -> float:
    """Of the elements and the tree; memories scale with their size. 0 for an FPGA, whose area is no figure."""
    memory = {"pointers": config.pointer_bytes / 32_768, "sparse matrix": config.spmat_bytes / 131_072}
    element = sum(area * memory.get(module, 1.0) for module, area in _AREA_UM2.items())
    element += _ELEMENT_UM2 - sum(_AREA_UM2.values())
    total = element * config.processing_elements * config.channels + _NODE_UM2 * tree_nodes(config)
    return _AREA[config.process_nm] * total / 1e6


def steady_state(config: Config, cycles: int = 8000) -> Activity:
    """The activity table II was measured at: every element works on an entry in every cycle, and reads a line and a pair
    of pointers every 8."""
    n = config.processing_elements
    return Activity(cycles=cycles, visited=n * cycles, pointer_reads=n * cycles // 8, line_reads=n * cycles // 8,
                    broadcasts=cycles // 8)  # fmt: skip
