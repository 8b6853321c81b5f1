"""Graph transformations: one kind of treatment a file."""

from __future__ import annotations

from .dynamic_quant import lower_dynamic
from .fp16_weights import lower_storage
from .half import lower_compute
from .qdq import lower_static
from .weight_only import aliases, lower_blocks
from .weight_only_standard import lower_channels, lower_standard_blocks

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
