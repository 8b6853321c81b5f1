"""Export a trained encoder-decoder checkpoint to an ONNX bundle.

>>> from seq2edge.export import export_checkpoint
>>> result = export_checkpoint("my-t5", "my-t5.bundle")
"""

from __future__ import annotations

from .errors import CheckpointError, ParityError
from .pipeline import ExportResult, export_checkpoint
from .validate import Parity

__all__ = ["CheckpointError", "ExportResult", "Parity", "ParityError", "export_checkpoint"]
