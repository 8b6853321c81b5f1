"""Generate text with a bundle: one output line for each text (or each line of --input)."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_device, add_json, add_threads, open_model, positive
from .generation import add_generation, generation_config, warn_of_languages
from .texts import read_texts

if TYPE_CHECKING:
    from seq2edge.runtime import Generation, GenerationConfig, Seq2SeqModel, TextStream

#: What str.splitlines takes for the end of a line: one text is one line of output.
_LINE_BREAK = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")

#: Texts are sorted by length within so many batches: little padding, and results still come
#: while a long input runs.
_BATCHES_A_WINDOW = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle", type=Path, help="the bundle's folder, or one that optimum-cli export onnx wrote"
    )
    parser.add_argument("text", nargs="*", help="source texts")
    parser.add_argument(
        "--input", metavar="FILE", help="read source texts from a file, one a line; - is stdin"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="texts at once (default: 8)"
    )
    parser.add_argument(
        "--stream", action="store_true", help="print each text word by word, as it is generated"
    )
    add_device(parser)
    add_threads(parser)
    add_json(parser)
    add_generation(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime import InputError

    if options.stream and options.json:
        raise InputError("--stream prints text as it comes; it has no JSON form")
    if bool(options.text) == (options.input is not None):
        raise InputError("give either texts or --input FILE")
    texts = read_texts(options.text, options.input)
    empty = [number for number, text in enumerate(texts, start=1) if not text.strip()]
    if empty:
        raise InputError(f"{'text' if options.input is None else 'line'} {empty[0]} is empty")
    with open_model(options) as model:
        # All of them before the first is run: a text that is too long is named by its place
        # in the whole input, and nothing is printed before it is found.
        config = generation_config(model.generation_config, options)
        model.tokenize(texts, config)
        warn_of_languages(config, model)
        if options.stream:
            for text in texts:
                _stream(model.stream(text, config))
            return 0
        for text, found in _generate(model, texts, config, options.batch_size):
            print(_format(text, found, options.json), flush=True)
    return 0


def _generate(
    model: Seq2SeqModel, texts: list[str], config: GenerationConfig, batch_size: int
) -> Iterator[tuple[str, Generation]]:
    """Texts and results in order. Within a window the batches are of similar lengths."""
    window = batch_size * _BATCHES_A_WINDOW
    show = len(texts) > batch_size and sys.stderr.isatty() and not sys.stdout.isatty()
    for start in range(0, len(texts), window):
        part = texts[start : start + window]
        progress = _Progress(start, len(texts)) if show else None
        for found in model.generate(part, config, batch_size=batch_size, progress=progress):
            yield part[found.source], found


class _Progress:
    """A line on stderr that counts texts."""

    def __init__(self, before: int, total: int) -> None:
        self._before = before
        self._total = total

    def __call__(self, done: int, _of: int) -> None:
        done += self._before
        end = "\n" if done == self._total else ""
        print(f"\r{done} of {self._total} texts", end=end, file=sys.stderr, flush=True)


def _stream(pieces: TextStream) -> None:
    for piece in pieces:
        print(_LINE_BREAK.sub(" ", piece), end="", flush=True)
    print(flush=True)


def _format(text: str, found: Generation, as_json: bool) -> str:
    if not as_json:
        return " ".join((found.text or "").splitlines())
    result: dict[str, object] = {
        "source": text,
        "text": found.text,
        "token_ids": found.token_ids,
        "finish_reason": found.finish_reason,
    }
    if found.score is not None:
        result["score"] = found.score
    return json.dumps(result, ensure_ascii=False)
