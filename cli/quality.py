"""What ``eval`` and ``compare`` share: options, and progress of long stages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import TracebackType

from .arguments import add_json, add_threads, positive


def add_quality(parser: argparse.ArgumentParser) -> None:
    """Options of generating texts and scoring them."""
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FILE",
        help='JSON lines: {"source": "...", "target": "..."}; several targets as a list',
    )
    parser.add_argument(
        "--metric",
        required=True,
        metavar="NAME",
        help="wer, per, cer (word, phoneme, character error rate), exact, chrf, bleu or rouge",
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="only the first N lines of the data"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="texts at once (default: 32)"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="limit of generated tokens"
    )
    parser.add_argument(
        "--num-beams", type=positive, metavar="N", help="beams of a beam search; 1: none"
    )
    add_threads(parser)
    add_json(parser)


class CountProgress:
    """One line on stderr that counts within a stage, for people only."""

    def __init__(self) -> None:
        self._shown = 0

    def __enter__(self) -> CountProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show("")
        if self._shown:
            print("\r", end="", file=sys.stderr, flush=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` of a stage."""
        self._show(f"{stage}: {done} of {total}")

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            # Blanks cover what a longer line before has left.
            print(f"\r{text:{self._shown}}", end="", file=sys.stderr, flush=True)
            self._shown = max(self._shown, len(text))
