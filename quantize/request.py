"""What is to be quantized, and how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seq2edge.runtime.progress import StageProgress

from .calibration import Calibration
from .recipe.options import Options


@dataclass(frozen=True)
class CalibrationFiles:
    """Where calibration comes from and goes to.

    Attributes:
        source: text (one per line, or .jsonl), or a calibration that was saved; for a bundle that
            hears speech, one or several recordings.
        save: file to save the calibration to.
        encoding_errors: what to do with text that is not UTF-8: ``strict`` or ``replace``.
    """

    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    save: str | os.PathLike[str] | None = None
    encoding_errors: str = "strict"

    @property
    def paths(self) -> list[Path]:
        """All files of ``source``."""
        if isinstance(self.source, (str, os.PathLike)):
            return [Path(self.source)]
        return [Path(path) for path in self.source]


@dataclass(frozen=True)
class Request:
    """What :func:`.quantize_request` is to do; see :func:`.quantize_bundle`.

    Attributes:
        fallback_layers: patterns of layers that get the scheme's more exact format.
    """

    bundle: Path
    out: Path
    scheme: str
    target: str = "cpu"
    options: Options = field(default_factory=Options)
    calibration: CalibrationFiles | Calibration | None = None
    exclude: tuple[str, ...] = ()
    fallback_layers: tuple[str, ...] = ()
    overwrite: bool = False
    progress: StageProgress | None = None
    check: bool = True
