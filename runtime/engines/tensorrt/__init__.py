"""TensorRT engines from a bundle, built on a workstation without a GPU or on the device.

Needs ``tensorrt-rtx`` or ``tensorrt``, which is imported when it is used.
"""

from __future__ import annotations

from .build import build_engines
from .library import Library, load_library
from .profile import Limits
from .report import Gemm, GraphReport
from .store import EngineFile, EngineSet

__all__ = [
    "EngineFile",
    "EngineSet",
    "Gemm",
    "GraphReport",
    "Library",
    "Limits",
    "build_engines",
    "load_library",
]
