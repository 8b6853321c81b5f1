"""Bundles of fewer bits, and what that costs.

>>> from seq2edge.quantize import quantize_bundle
>>> quantize_bundle("model.bundle", "model.int8.bundle", "int8")
"""

from __future__ import annotations

from .errors import QuantizationError
from .options import Options
from .pipeline import CalibrationFiles, QuantizeResult, quantize_bundle
from .policy import SCHEMES

__all__ = [
    "SCHEMES",
    "CalibrationFiles",
    "Options",
    "QuantizationError",
    "QuantizeResult",
    "quantize_bundle",
]
