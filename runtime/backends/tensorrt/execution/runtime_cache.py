"""Kernels that TensorRT-RTX compiles when an engine is first run, kept for the next start.

TensorRT-RTX checks a kept cache against the GPU, driver and version, and takes it or not.
TensorRT has no such cache: its engines hold compiled kernels.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ....bundle.atomic_write import output_file
from ....errors import OutputError


class RuntimeCache:
    """The cache of one engine's contexts, in a file beside the plan."""

    def __init__(self, folder: Path, graph: str) -> None:
        self._file = folder / f"{graph}.runtime-cache"
        self._cache: Any = None
        self._kept = b""

    def new_context(self, trt: Any, plan: Any, strategy: Any) -> Any:
        """An execution context that uses the cache, if this TensorRT has one."""
        if not hasattr(trt, "IRuntimeCache"):
            return plan.create_execution_context(strategy)
        config = plan.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # Kernels for the shapes of a step are compiled before they are run: those of a captured
        # CUDA graph are never exchanged for better ones.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                self._kept = self._file.read_bytes()
                self._cache.deserialize(self._kept)
        config.set_runtime_cache(self._cache)
        return plan.create_execution_context(config)

    def save(self) -> None:
        """Keep what was compiled; a folder that cannot be written is left as it is."""
        if self._cache is None:
            return
        serialized = self._cache.serialize()
        data = b"" if serialized is None else bytes(serialized)
        if data and data != self._kept:
            with contextlib.suppress(OutputError), output_file(self._file) as file:
                file.write(data)
