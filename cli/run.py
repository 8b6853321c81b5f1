"""Generate text with a bundle.

Line k of the output belongs to text k (line k of --input); a blank line is answered with a blank
line. With --num-return-sequences N each text has N lines, best first: those of text k are lines
(k - 1) * N + 1 to k * N, blank where a constraint allows fewer results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import (
    add_device,
    add_json,
    add_max_memory,
    add_special_tokens,
    add_threads,
    open_draft,
    open_model,
    positive,
)
from .generation import add_generation, generation_config, warn_of_languages
from .progress import Progress
from .texts import Texts, Window, add_texts, open_texts, write

if TYPE_CHECKING:
    from seq2edge.runtime import Generation, GenerationConfig, Seq2SeqModel
    from seq2edge.runtime.progress import CountProgress

#: What str.splitlines takes for the end of a line: one text is one line of output.
_LINE_BREAK = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle", type=Path, help="the bundle's folder, or one that optimum-cli export onnx wrote"
    )
    add_texts(parser)
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="texts per batch (default: 8)"
    )
    parser.add_argument(
        "--stream", action="store_true", help="print each text word by word, as it is generated"
    )
    add_special_tokens(parser)
    add_device(parser, ", and stop at a blank line of --input")
    add_threads(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="threads that share the texts of a batch, over one set of weights, with cores / N"
        " --threads each; for large batches (default: 1)",
    )
    add_max_memory(parser)
    add_json(parser)
    add_generation(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime import InputError

    if options.stream and options.json:
        raise InputError("--stream prints text as it comes; it has no JSON form")
    with (
        open_texts(options, blank=not options.strict) as texts,
        open_model(options) as model,
        open_draft(options) as draft,
    ):
        config = generation_config(model.generation_config, options, draft)
        warn_of_languages(config, model)
        if options.stream:
            _stream_all(model, config, texts, not options.keep_special_tokens)
            return 0
        # On a terminal the lines themselves show how far it is.
        with Progress(not (sys.stdout and sys.stdout.isatty())) as progress:
            for window in texts.windows(options.batch_size):
                with window.naming():  # within a window the batches are of similar lengths
                    generations = model.generate(
                        window.filled,
                        config,
                        batch_size=options.batch_size,
                        skip_special_tokens=not options.keep_special_tokens,
                        progress=_progress(progress, window, texts),
                    )
                _print_results(window, generations, config.num_return_sequences, options.json)
    return 0


def _progress(progress: Progress, window: Window, texts: Texts) -> CountProgress:
    before = window.end - len(window.positions)
    return lambda done, _: progress("texts", before + done, texts.total)


def _print_results(
    window: Window, generations: Sequence[Generation], per_text: int, as_json: bool
) -> None:
    """Print ``per_text`` lines for each text of the window."""
    positions = window.positions
    results: list[list[Generation]] = [[] for _ in window.texts]
    for generation in generations:
        results[positions[generation.source]].append(generation)
    for text, own in zip(window.texts, results, strict=True):
        for number in range(per_text):
            result = own[number] if number < len(own) else None
            write(_format(text, result, as_json) + "\n")


def _stream_all(
    model: Seq2SeqModel, config: GenerationConfig, texts: Texts, skip_special_tokens: bool
) -> None:
    for number, text in enumerate(texts.lines):
        if text.strip():
            with Window([text], number, texts.unit).naming():
                pieces = model.stream(text, config, skip_special_tokens=skip_special_tokens)
            for piece in pieces:
                write(_LINE_BREAK.sub(" ", piece))
        write("\n")


def _format(text: str, generation: Generation | None, as_json: bool) -> str:
    if not as_json:
        return "" if generation is None else " ".join((generation.text or "").splitlines())
    result: dict[str, object] = {
        "source": text,
        "text": generation.text if generation else "",
        "token_ids": generation.token_ids if generation else [],
        "finish_reason": generation.finish_reason if generation else None,
    }
    if generation is not None and generation.score is not None:
        result["score"] = generation.score
    return json.dumps(result, ensure_ascii=False)
