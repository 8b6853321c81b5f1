"""Checkpoints as training leaves them: folders, files, wrapped names."""

from __future__ import annotations

from .formats import FloatArray, TensorSource, open_tensors, optional_json, read_json
from .reader import Checkpoint

__all__ = [
    "Checkpoint",
    "FloatArray",
    "TensorSource",
    "open_tensors",
    "optional_json",
    "read_json",
]
