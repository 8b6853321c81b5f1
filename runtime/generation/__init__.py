"""Decoding over the tree-step graph: options, strategies, processors, stopping."""

from __future__ import annotations

from .config import GenerationConfig
from .constraints import Choices, JsonSchema, Regex
from .generator import Generator

__all__ = ["Choices", "GenerationConfig", "Generator", "JsonSchema", "Regex"]
