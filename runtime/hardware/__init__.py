"""The accelerator: EIE (ISCA 2016) and ESE (FPGA 2017) to the cycle, with energy and area. docs/hardware.md."""

from .config import Config, presets
from .image import Image
from .simulate import LayerResult, simulate_layer

__all__ = ["Config", "Image", "LayerResult", "presets", "simulate_layer"]
