"""Options that ``eval`` and ``compare`` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_json, add_special_tokens, add_threads, positive
from .texts import add_encoding


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
        "--batch-size", type=positive, default=32, metavar="N", help="texts per batch (default: 32)"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="limit of generated tokens"
    )
    parser.add_argument(
        "--num-beams", type=positive, metavar="N", help="beams of a beam search; 1: none"
    )
    add_special_tokens(parser)
    add_encoding(parser)
    add_threads(parser)
    add_json(parser)
