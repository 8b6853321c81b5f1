"""Bundles of fewer bits, and what that costs.

>>> from seq2edge.quantize import quantize_bundle
>>> quantize_bundle("model.bundle", "model.int8.bundle", "int8")
"""

from __future__ import annotations

from .errors import QuantizationError
from .pipeline import (
    CalibrationFiles,
    QuantizeResult,
    Request,
    quantize_bundle,
    quantize_request,
)
from .recipe.mixed_precision import Budgeted, BudgetError, Loss, quantize_within
from .recipe.options import Options
from .recipe.schemes import SCHEMES

__all__ = [
    "SCHEMES",
    "BudgetError",
    "Budgeted",
    "CalibrationFiles",
    "Loss",
    "Options",
    "QuantizationError",
    "QuantizeResult",
    "Request",
    "quantize_bundle",
    "quantize_request",
    "quantize_within",
]
