"""Decoding over the tree-step graph: options, cache growth, strategies."""

from __future__ import annotations

from .config import GenerationConfig
from .greedy import Sequence, greedy

__all__ = ["GenerationConfig", "Sequence", "greedy"]
