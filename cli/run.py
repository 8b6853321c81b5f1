"""Generate text with a bundle: one output line for each text (or each line of --input)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_json, add_threads, positive

if TYPE_CHECKING:
    from seq2edge.runtime import Generation, Seq2SeqModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("text", nargs="*", help="source texts")
    parser.add_argument(
        "--input", metavar="FILE", help="read source texts from a file, one a line; - is stdin"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="limit of generated tokens"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="texts at once (default: 8)"
    )
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime import InputError, Seq2SeqModel

    if bool(options.text) == (options.input is not None):
        raise InputError("give either texts or --input FILE")
    texts = _checked(options.text) if options.input is None else _read_lines(options.input)
    empty = [number for number, text in enumerate(texts, start=1) if not text.strip()]
    if empty:
        raise InputError(f"{'text' if options.input is None else 'line'} {empty[0]} is empty")
    with Seq2SeqModel.load(options.bundle, num_threads=options.threads) as model:
        # All of them before the first is run: a text that is too long is named by its place
        # in the whole input, and nothing is printed before it is found.
        model.tokenize(texts)
        for text, found in zip(texts, _generate(model, texts, options), strict=True):
            print(_format(text, found, options.json), flush=True)
    return 0


def _checked(texts: list[str]) -> list[str]:
    from seq2edge.runtime import InputError

    for number, text in enumerate(texts, start=1):
        try:
            text.encode()
        except UnicodeEncodeError:  # Python keeps bytes that are no UTF-8 as surrogates
            raise InputError(f"text {number} is not UTF-8") from None
    return texts


def _read_lines(name: str) -> list[str]:
    from seq2edge.runtime import InputError

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    # Not splitlines: a form feed or a Unicode line separator does not end a text.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _generate(
    model: Seq2SeqModel, texts: list[str], options: argparse.Namespace
) -> Iterator[Generation]:
    show = len(texts) > options.batch_size and sys.stderr.isatty() and not sys.stdout.isatty()
    for start in range(0, len(texts), options.batch_size):
        batch = texts[start : start + options.batch_size]
        yield from model.generate(batch, max_new_tokens=options.max_new_tokens)
        if show:
            done = start + len(batch)
            end = "\n" if done == len(texts) else ""
            print(f"\r{done} of {len(texts)} texts", end=end, file=sys.stderr, flush=True)


def _format(text: str, found: Generation, as_json: bool) -> str:
    if not as_json:
        return " ".join((found.text or "").splitlines())
    return json.dumps(
        {
            "source": text,
            "text": found.text,
            "token_ids": found.token_ids,
            "finish_reason": found.finish_reason,
        },
        ensure_ascii=False,
    )
