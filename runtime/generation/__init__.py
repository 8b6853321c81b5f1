"""Decoding over the tree-step graph: options, strategies, processors, stopping."""

from __future__ import annotations

from .config import GenerationConfig
from .constraints import Choices, JsonSchema, Regex
from .generator import Decoding

__all__ = ["Choices", "Decoding", "GenerationConfig", "JsonSchema", "Regex"]
