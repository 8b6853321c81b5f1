"""The CPU's own form of a decoder: ONNX Runtime's attention, and the host's lengths and masks."""

from __future__ import annotations

from .pipeline import MINIMUM_ONNXRUNTIME, Lowered, Lowering, lower_for_cpu

__all__ = ["MINIMUM_ONNXRUNTIME", "Lowered", "Lowering", "lower_for_cpu"]
