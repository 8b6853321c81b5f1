"""Times of kernels that TensorRT measured, kept so that the next build need not measure them.

TensorRT-RTX measures nothing when it builds, and has no such cache.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ....bundle.atomic_write import output_file
from ..engine_store import EngineKey
from ..library import Library


class TimingCache:
    """The times of one TensorRT on one kind of GPU, in a file among a bundle's engines."""

    def __init__(self, folder: Path, library: Library, key: EngineKey) -> None:
        gpu = "-".join(key.compute_capabilities)
        self._file = folder / f"{library.engine}-{library.version}-{gpu}.timing-cache"
        self._times = library.engine != "tensorrt-rtx"
        self._kept = b""
        self._cache: Any = None

    def use(self, config: Any) -> None:
        """Make a builder's settings use what is known; times that do not fit are not taken."""
        if not self._times:
            return
        if self._cache is None:
            with contextlib.suppress(OSError):
                self._kept = self._file.read_bytes()
            self._cache = config.create_timing_cache(self._kept)
        if self._cache is None or not config.set_timing_cache(self._cache, False):
            # Garbled, or measured on another GPU.
            self._kept, self._cache = b"", config.create_timing_cache(b"")
            config.set_timing_cache(self._cache, False)

    def save(self) -> None:
        """Keep it; a folder that cannot be written is left as it is."""
        if self._cache is None:
            return
        data = bytes(self._cache.serialize())
        if data != self._kept:
            with contextlib.suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with output_file(self._file) as file:
                    file.write(data)
