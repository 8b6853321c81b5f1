"""Bundles for runtimes that are older than the operators of opset 23 and 24.

The canonical graphs are written with ``Attention``, ``TensorScatter`` and ``RMSNormalization``.
The parser of TensorRT 10.3 (JetPack 6) knows none of them and ONNX Runtime before 1.25 not all;
:func:`downgrade_opset` writes what they compute with operators of opset 20 or 21 (docs/design.md,
"Older operators").

>>> from seq2edge.quantize import downgrade_opset
>>> downgrade_opset("model.bundle", "model.opset20.bundle")
"""

from __future__ import annotations

from .pipeline import REPLACEMENTS, DowngradeResult, downgrade_opset

__all__ = ["REPLACEMENTS", "DowngradeResult", "downgrade_opset"]
