"""Errors of quantization, beside those of the runtime."""

from __future__ import annotations

from seq2edge.runtime.errors import Seq2EdgeError


class QuantizationError(Seq2EdgeError, ValueError):
    """A bundle, a scheme or a pattern that cannot be quantized as asked."""


class QuantizationWarning(UserWarning):
    """A quantized bundle that computes something else than its source."""


class NotLowerableError(QuantizationError):
    """Why a graph has no other form for a device."""
