"""Changes of a graph: one pass, of onnx_ir's form, per file."""

from __future__ import annotations

from .dynamic_quant import DynamicQuantPass
from .fp16_weights import Fp16WeightsPass
from .half import HalfPrecisionPass
from .per_channel import PerChannelPass
from .qdq import QDQPass
from .rewrite import apply_passes
from .smoothquant import SmoothQuantPass
from .unused_initializers import RemoveUnusedInitializersPass
from .weight_only import WeightOnlyPass, aliases
from .weight_only_standard import WeightOnlyStandardPass

__all__ = [
    "DynamicQuantPass",
    "Fp16WeightsPass",
    "HalfPrecisionPass",
    "PerChannelPass",
    "QDQPass",
    "RemoveUnusedInitializersPass",
    "SmoothQuantPass",
    "WeightOnlyPass",
    "WeightOnlyStandardPass",
    "aliases",
    "apply_passes",
]
