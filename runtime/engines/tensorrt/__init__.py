"""TensorRT: engines built from a bundle, on a workstation or on the device, and run on a GPU.

Needs ``tensorrt-rtx`` or ``tensorrt``, which is imported when it is used, and ``cuda-bindings``
to run them.
"""

from __future__ import annotations

from ..limits import Limits
from .build.engines import Options, build_engines, ensure_engines
from .build.report import Gemm, GraphReport, ProfileReport
from .library import Library, load_library
from .store import EngineFile, EngineKey, EngineSet

__all__ = [
    "EngineFile",
    "EngineKey",
    "EngineSet",
    "Gemm",
    "GraphReport",
    "Library",
    "Limits",
    "Options",
    "ProfileReport",
    "build_engines",
    "ensure_engines",
    "load_library",
]
