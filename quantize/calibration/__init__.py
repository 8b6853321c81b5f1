"""What a model's values are over the user's own text."""

from __future__ import annotations

from .statistics import METHODS, ActivationStatistics
from .store import (
    Calibration,
    calibrate,
    check_origin,
    linear_inputs,
    load,
    load_or_calibrate,
    save,
)

__all__ = [
    "METHODS",
    "ActivationStatistics",
    "Calibration",
    "calibrate",
    "check_origin",
    "linear_inputs",
    "load",
    "load_or_calibrate",
    "save",
]
