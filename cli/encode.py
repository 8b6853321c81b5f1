"""Vectors of texts with an encoder's bundle: line k of the output, JSON, is text k's.

The vector of a blank line is null.
"""

from __future__ import annotations

import argparse
import json
import sys

from .arguments import add_bundle, add_encoder_backend, add_threads, positive
from .progress import Progress
from .texts import add_texts, open_texts, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    add_texts(parser)
    parser.add_argument(
        "--pooling",
        choices=("mean", "first"),
        default="mean",
        help="mean over a text's tokens (default), or its first one ([CLS])",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="texts per batch (default: 8)"
    )
    parser.add_argument("--strict", action="store_true", help="stop at a blank line")
    parser.add_argument(
        "--device", metavar="NAME", help="with --encoder-backend: cpu (default), gpu or npu"
    )
    add_encoder_backend(parser)
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime import EncoderModel

    with (
        open_texts(options, blank=not options.strict) as texts,
        EncoderModel.load(
            options.bundle,
            num_threads=options.threads,
            encoder_backend=options.encoder_backend,
            device=options.device,
            precision=options.precision,
        ) as model,
        Progress(not (sys.stdout and sys.stdout.isatty())) as progress,
    ):
        for window in texts.windows(options.batch_size):
            with window.naming():
                vectors = iter(
                    model.encode(
                        window.filled, pooling=options.pooling, batch_size=options.batch_size
                    )
                )
            for text in window.texts:
                # float32's shortest digits
                numbers = [float(str(value)) for value in next(vectors)] if text.strip() else None
                write(json.dumps({"source": text, "vector": numbers}, ensure_ascii=False) + "\n")
            progress("texts", window.end, texts.total)
    return 0
