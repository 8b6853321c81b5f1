"""Bundles of fewer bits, and what that costs.

>>> from seq2edge.quantize import quantize_bundle
>>> quantize_bundle("model.bundle", "model.int8.bundle", "int8")
"""

from __future__ import annotations

from .check import DistributionCheck, NotChecked, StateCheck
from .errors import QuantizationError, QuantizationWarning
from .pipeline import QuantizeResult, quantize_bundle, quantize_request
from .recipe.mixed_precision import Budgeted, BudgetError, Loss, quantize_within
from .recipe.options import Options
from .recipe.schemes import SCHEMES
from .request import CalibrationFiles, Request

__all__ = [
    "SCHEMES",
    "BudgetError",
    "Budgeted",
    "CalibrationFiles",
    "DistributionCheck",
    "Loss",
    "NotChecked",
    "Options",
    "QuantizationError",
    "QuantizationWarning",
    "QuantizeResult",
    "Request",
    "StateCheck",
    "quantize_bundle",
    "quantize_request",
    "quantize_within",
]
