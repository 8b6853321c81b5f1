"""Graph transformations: one kind of treatment a file."""

from __future__ import annotations

from .block import aliases, lower_blocks
from .dynamic import lower_dynamic
from .half import lower_compute
from .standard import lower_channels, lower_standard_blocks
from .static import lower_static
from .storage import lower_storage

__all__ = [
    "aliases",
    "lower_blocks",
    "lower_channels",
    "lower_compute",
    "lower_dynamic",
    "lower_standard_blocks",
    "lower_static",
    "lower_storage",
]
