"""Vectors of texts with an encoder's bundle: one line of JSON for each text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .arguments import add_threads, positive
from .texts import read_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("text", nargs="*", help="texts")
    parser.add_argument(
        "--input", metavar="FILE", help="read texts from a file, one a line; - is stdin"
    )
    parser.add_argument(
        "--pooling",
        choices=("mean", "first"),
        default="mean",
        help="mean over a text's tokens (default), or its first one ([CLS])",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="texts at once (default: 8)"
    )
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime import EncoderModel, InputError

    if bool(options.text) == (options.input is not None):
        raise InputError("give either texts or --input FILE")
    texts = read_texts(options.text, options.input)
    with EncoderModel.load(options.bundle, num_threads=options.threads) as model:
        vectors = model.encode(texts, pooling=options.pooling, batch_size=options.batch_size)
    for text, vector in zip(texts, vectors, strict=True):
        numbers = [float(str(value)) for value in vector]  # float32's shortest digits
        print(json.dumps({"source": text, "vector": numbers}, ensure_ascii=False), flush=True)
    return 0
