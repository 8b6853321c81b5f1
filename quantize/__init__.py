"""Bundles of fewer bits, and what that costs.

>>> from seq2edge.quantize import quantize_bundle
>>> quantize_bundle("model.bundle", "model.int8.bundle", "int8")
"""

from __future__ import annotations

from .budget import Budgeted, quantize_within
from .errors import QuantizationError
from .options import Options
from .pipeline import (
    CalibrationFiles,
    QuantizeResult,
    Request,
    quantize_bundle,
    quantize_request,
)
from .policy import SCHEMES

__all__ = [
    "SCHEMES",
    "Budgeted",
    "CalibrationFiles",
    "Options",
    "QuantizationError",
    "QuantizeResult",
    "Request",
    "quantize_bundle",
    "quantize_request",
    "quantize_within",
]
