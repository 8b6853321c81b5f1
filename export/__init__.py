"""Export a trained encoder-decoder to an ONNX bundle: a checkpoint, or a module of your own.

>>> from seq2edge.export import export_checkpoint
>>> result = export_checkpoint("my-t5", "my-t5.bundle")
"""

from __future__ import annotations

from seq2edge.runtime.bundle.manifest import SpecialTokens

from .callables import CallableSizes, export_callables
from .checkpoint import ResolvedCheckpoint, resolve_checkpoint
from .errors import CheckpointError, ParityError
from .modules import (
    LayerOptions,
    ModuleParts,
    PositionalEncoding,
    export_module,
    export_state_dict,
    layer_options,
    layout_parts,
)
from .optimum import import_optimum
from .parity import Parity
from .pipeline import ExportResult, export_checkpoint

__all__ = [
    "CallableSizes",
    "CheckpointError",
    "ExportResult",
    "LayerOptions",
    "ModuleParts",
    "Parity",
    "ParityError",
    "PositionalEncoding",
    "ResolvedCheckpoint",
    "SpecialTokens",
    "export_callables",
    "export_checkpoint",
    "export_module",
    "export_state_dict",
    "import_optimum",
    "layer_options",
    "layout_parts",
    "resolve_checkpoint",
]
