"""EIE's compiler: an ONNX model in, an artifact out."""

from .errors import EieError, PromiseError, UserError
from .pipeline import optimize
from .recipe import Recipe
from .report.result import Result

__all__ = ["EieError", "PromiseError", "Recipe", "Result", "UserError", "optimize"]
