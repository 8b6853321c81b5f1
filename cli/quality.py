"""Options that ``eval`` and ``compare`` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_json, add_special_tokens, add_threads, positive
from .progress import Progress
from .texts import add_encoding

if TYPE_CHECKING:
    from seq2edge.benchmarks.quality.data import Example
    from seq2edge.benchmarks.quality.metrics import Metric
    from seq2edge.benchmarks.quality.settings import Settings
    from seq2edge.runtime import Bundle


def add_quality(parser: argparse.ArgumentParser) -> None:
    """Options of generating texts and scoring them."""
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FILE",
        help='JSON lines: {"source": "...", "target": "..."}; several targets as a list. Of a'
        " bundle that hears speech a source is an audio file, from the folder of FILE",
    )
    parser.add_argument(
        "--metric",
        required=True,
        metavar="NAME",
        help="wer, per, cer (word, phoneme, character error rate), exact, chrf, bleu or rouge",
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="compare texts in lower case and without punctuation (default: those of speech)",
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="only the first N lines of the data"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="texts per batch (default: 32), or windows of a recording (default: one after the"
        " other)",
    )
    parser.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="limit of generated tokens"
    )
    parser.add_argument(
        "--num-beams", type=positive, metavar="N", help="beams of a beam search; 1: none"
    )
    parser.add_argument(
        "--language", metavar="CODE", help="that is spoken in recordings (default: detected)"
    )
    parser.add_argument("--task", metavar="NAME", help="of speech: transcribe or translate")
    add_special_tokens(parser)
    add_encoding(parser)
    add_threads(parser)
    add_json(parser)


def settings_of(options: argparse.Namespace) -> Settings:
    """How to measure, of the options above and those that a command has besides."""
    from seq2edge.benchmarks.quality.settings import Settings

    names = ("source_lang", "target_lang", "divergence_examples", "speed_texts")
    return Settings(
        data=options.data.name,
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        batch_size=options.batch_size,
        skip_special_tokens=not options.keep_special_tokens,
        threads=options.threads,
        language=options.language,
        task=options.task,
        **{name: getattr(options, name) for name in names if hasattr(options, name)},
    )


def metric_of(options: argparse.Namespace, bundle: Bundle) -> Metric:
    """The metric for a bundle: what is said in speech has no case and no punctuation."""
    from seq2edge.benchmarks.quality.metrics import load_metric

    hears = bundle.manifest.speech is not None
    chosen = getattr(options, "normalize", None)
    return load_metric(options.metric, normalize=hears if chosen is None else chosen)


def data_of(options: argparse.Namespace, bundle: Bundle) -> list[Example]:
    """The examples; recordings are read to their ends."""
    from seq2edge.benchmarks.quality.recordings import read_data

    with Progress() as progress:
        return read_data(
            bundle,
            options.data,
            options.limit,
            encoding_errors=options.encoding_errors,
            progress=lambda done, total: progress("recordings", done, total),
        )
