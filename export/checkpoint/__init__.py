"""Checkpoints as training leaves them: folders, files, wrapped names, adapters, hub ids."""

from __future__ import annotations

from .adapter import merge_adapter
from .formats import FloatArray, TensorSource, open_tensors, optional_json, read_json
from .hub import is_hub_id
from .reader import Checkpoint
from .resolve import ResolvedCheckpoint, resolve_checkpoint

__all__ = [
    "Checkpoint",
    "FloatArray",
    "ResolvedCheckpoint",
    "TensorSource",
    "is_hub_id",
    "merge_adapter",
    "open_tensors",
    "optional_json",
    "read_json",
    "resolve_checkpoint",
]
