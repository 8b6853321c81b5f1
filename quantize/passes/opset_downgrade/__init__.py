"""Bundles for runtimes that are older than the operators of opset 23 and 24.

The canonical graphs are written with ``Attention``, ``TensorScatter`` and ``RMSNormalization``.
The parser of TensorRT 10.3 (JetPack 6) knows none of them and ONNX Runtime before 1.25 not all;
:func:`lower_bundle` writes what they compute with operators of opset 20 or 21 (docs/design.md,
"Legacy operators").

>>> from seq2edge.quantize.passes.opset_downgrade import lower_bundle
>>> lower_bundle("model.bundle", "model.legacy.bundle")
"""

from __future__ import annotations

from .pipeline import REPLACEMENTS, LowerResult, lower_bundle

__all__ = ["REPLACEMENTS", "LowerResult", "lower_bundle"]
