"""Files that a loaded model goes on reading: an engine maps weights into memory.

A mapped file that is cut while it is used ends the process with SIGBUS. Whoever replaces a file by
renaming another one onto its name does no harm: a handle keeps the old one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from ..errors import BackendError
from .manifest import Manifest


class HeldFiles:
    """Handles of files and the sizes that they had."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: list[tuple[BinaryIO, int]] = []
        for path in paths:
            file = path.open("rb", buffering=0)
            self._files.append((file, os.fstat(file.fileno()).st_size))

    def check(self) -> None:
        """Before the engine reads them again.

        Raises:
            BackendError: one was cut.
        """
        for file, size in self._files:
            if os.fstat(file.fileno()).st_size < size:
                raise BackendError(
                    f"{file.name} was cut while the model that reads it is loaded; copy the bundle"
                    " again (to another name, then rename it) and load it again"
                )

    def close(self) -> None:
        for file, _ in self._files:
            file.close()
        self._files = []


def weight_files(manifest: Manifest) -> list[str]:
    """The bundle's files that graphs read their weights from."""
    others = {info.file for info in manifest.graphs.values()}
    for tokenizer in (manifest.tokenizer, manifest.target_tokenizer):
        if tokenizer is not None and tokenizer.file is not None:
            others.add(tokenizer.file)
    return [name for name in manifest.files if name not in others]
