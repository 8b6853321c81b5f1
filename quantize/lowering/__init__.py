"""Graph transformations: one kind of layer a file, each replaces the nodes of a layer."""

from __future__ import annotations

from .block import aliases, lower_blocks
from .dynamic import lower_dynamic
from .storage import lower_storage

__all__ = ["aliases", "lower_blocks", "lower_dynamic", "lower_storage"]
