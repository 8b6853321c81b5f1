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
