"""Export of plain PyTorch modules: of ``nn.Transformer``, its layers, or hand-written layers.

Nothing is traced. A :class:`.parts.ModuleParts` says where the parts sit, the layers or a TOML
file say how they are set, and the graphs are those of every other family.
"""

from __future__ import annotations

from .export import export_module, export_state_dict
from .parts import LayerOptions, ModuleParts, PositionalEncoding, layer_options
from .presets import layout_parts

__all__ = [
    "LayerOptions",
    "ModuleParts",
    "PositionalEncoding",
    "export_module",
    "export_state_dict",
    "layer_options",
    "layout_parts",
]
