"""Export of plain PyTorch modules: ``nn.Transformer``, or stacks of its layers.

Nothing is traced. A :class:`.parts.ModuleParts` says where the parts sit, the layers or a TOML
file say how they are set, and the graphs are those of every other family.
"""

from __future__ import annotations

from .export import export_module, export_state_dict
from .parts import ModuleParts, PositionalEncoding

__all__ = ["ModuleParts", "PositionalEncoding", "export_module", "export_state_dict"]
