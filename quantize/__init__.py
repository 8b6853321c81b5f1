"""Bundles of fewer bits, and what that costs.

>>> from seq2edge.quantize import quantize_bundle
>>> quantize_bundle("model.bundle", "model.int8.bundle", "int8")
"""

from __future__ import annotations

from .candidates import QuantizeResult
from .check import DistributionCheck, NotChecked, StateCheck
from .errors import QuantizationError, QuantizationWarning
from .mixed_precision import (
    Loss,
    MixedPrecision,
    MixedPrecisionError,
    quantize_mixed_precision,
)
from .passes.opset_downgrade import DowngradeResult, downgrade_opset
from .pipeline import quantize_bundle, quantize_request
from .recipe.options import Options
from .recipe.schemes import SCHEMES
from .request import CalibrationFiles, Request

__all__ = [
    "SCHEMES",
    "CalibrationFiles",
    "DistributionCheck",
    "DowngradeResult",
    "Loss",
    "MixedPrecision",
    "MixedPrecisionError",
    "NotChecked",
    "Options",
    "QuantizationError",
    "QuantizationWarning",
    "QuantizeResult",
    "Request",
    "StateCheck",
    "downgrade_opset",
    "quantize_bundle",
    "quantize_mixed_precision",
    "quantize_request",
]
