"""Progress of long work: one line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

#: Seconds between two lines: a terminal is slower than much of the work.
_INTERVAL = 0.1
_ERASE = "\r\x1b[K"


class Progress:
    """A line on stderr, ``stage: 12 of 40, 3 s left``, written over and erased at the end.

    Args:
        shown: False: never.
        stream: the terminal; None: stderr.
    """

    def __init__(self, shown: bool = True, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._shown = shown and self._stream is not None and self._stream.isatty()
        self._stage: str | None = None
        self._started = self._written = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stage is not None:
            print(_ERASE, end="", file=self._stream, flush=True)

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` of a stage; 0 or None: how many there are is not known."""
        if not self._shown:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started = stage, now
        elif now - self._written < _INTERVAL and done != total:
            return
        self._written = now
        counts = f"{done} of {total}" if total else str(done) if done else "..."
        if total and 0 < done < total:
            counts += f", {(now - self._started) * (total - done) / done:.0f} s left"
        width = shutil.get_terminal_size().columns - 1
        line = f"{stage[: max(0, width - len(counts) - 2)]}: {counts}"[:width]
        print(f"{_ERASE}{line}", end="", file=self._stream, flush=True)
