"""TensorRT: engines built from a bundle, on a workstation or on the device, and run on a GPU.

Needs ``tensorrt-rtx`` or ``tensorrt``, which is imported when it is used, and ``cuda-bindings``
to run them.
"""

from __future__ import annotations

from ..limits import Limits
from .builder.engines import Options, build_engines, ensure_engines
from .builder.report import Gemm, GraphReport, ProfileReport
from .engine_store import EngineFile, EngineKey, EngineSet
from .library import Library, load_library

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
