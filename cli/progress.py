"""Progress of long work that goes through stages."""

from __future__ import annotations

import sys
from typing import Any


class StageProgress:
    """A progress bar on stderr, for people only."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if stage != self._stage:
            self._close()
            self._stage = stage
            if total:
                from tqdm import tqdm

                self._bar = tqdm(total=total, desc=stage, leave=False)
            else:
                print(f"{stage} ...", file=sys.stderr)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class CountProgress:
    """One line on stderr that counts within a stage, for people only.

    Args:
        shown: False: never.
    """

    def __init__(self, shown: bool = True) -> None:
        self._to_people = shown and sys.stderr.isatty()
        self._width = 0

    def __enter__(self) -> CountProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._show("")
        if self._width:
            print("\r", end="", file=sys.stderr, flush=True)

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` of a stage; None: nobody knows."""
        self._show(f"{stage}: {done}" + ("" if total is None else f" of {total}"))

    def _show(self, text: str) -> None:
        if self._to_people:
            # Blanks cover what a longer line before has left.
            print(f"\r{text:{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = max(self._width, len(text))
