"""Options of a transcription on the command line: faster-whisper's and openai-whisper's names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import positive

if TYPE_CHECKING:
    from seq2edge.runtime.speech.options import TranscriptionOptions

#: Flag, type, metavar and what it says; the option of TranscriptionOptions has the flag's name.
_Flags = tuple[tuple[str, Any, str, str], ...]
_SEARCH: _Flags = (
    ("--beam-size", positive, "N", "hypotheses of beam search (default: 5; 1: greedy)"),
    ("--best-of", positive, "N", "samples at a temperature above 0 (default: 5)"),
    ("--patience", float, "X", "beam search ends when beam size x patience are complete"),
    ("--length-penalty", float, "X", "scores are divided by length ** X"),
    ("--repetition-penalty", float, "X", "above 1: tokens already there count less"),
    ("--no-repeat-ngram-size", int, "N", "no N tokens in a row occur twice"),
    ("--max-new-tokens", positive, "N", "limit of tokens a window"),
    ("--seed", int, "N", "draw the same again"),
    ("--num-assistant-tokens", positive, "N", "tokens that --draft guesses per step (default: 5)"),
)
_TEXT: _Flags = (
    ("--initial-prompt", str, "TEXT", "text before the beginning, for names and spelling"),
    ("--prefix", str, "TEXT", "text that the first window begins with"),
    ("--hotwords", str, "TEXT", "words that are likely"),
    ("--suppress-tokens", None, "IDS", "token ids that must not occur, by commas; -1: the model's"),
)
_THRESHOLDS: _Flags = (
    ("--compression-ratio-threshold", float, "X", "above it a text repeats itself (default: 2.4)"),
    ("--log-prob-threshold", float, "X", "below it a text is tried again (default: -1)"),
    ("--no-speech-threshold", float, "P", "above it a window is silence (default: 0.6)"),
    ("--language-detection-threshold", float, "P", "read on until a language is so probable"),
    ("--language-detection-segments", positive, "N", "windows to detect the language in"),
    ("--max-initial-timestamp", float, "S", "a window's first timestamp is no later"),
)
_SWITCHES = (
    ("--word-timestamps", "times of words, in JSON"),
    ("--vad", "leave out silence before anything is decoded"),
    ("--multilingual", "detect the language of each window"),
    ("--without-timestamps", "no timestamps: windows of 30 s follow each other"),
    ("--fit-window", "read short audio without the rest of the 30 s: faster, rarely other text"),
)


def add_transcription(parser: argparse.ArgumentParser) -> None:
    """Add the options, in groups; those not given are left to their defaults."""
    parser.add_argument(
        "--language", metavar="CODE", help="what is spoken, such as en (default: it is detected)"
    )
    parser.add_argument(
        "--task", choices=("transcribe", "translate"), help="translate: write it in English"
    )
    for flag, text in _SWITCHES:
        parser.add_argument(flag, action="store_true", default=None, help=text)
    parser.add_argument(
        "--vad-detector",
        choices=("auto", "silero", "energy"),
        help="with --vad: silero's model, or loudness (default: silero where it is installed)",
    )
    parser.add_argument(
        "--vad-parameters",
        type=_named_numbers,
        metavar="NAME=X,..",
        help="with --vad: what counts as speech, such as threshold=0.4,min_silence_duration_ms=500",
    )
    parser.add_argument(
        "--clip-timestamps", metavar="S,S", help="parts to transcribe: start,end,start,end ..."
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="windows that are decoded at once"
    )
    search = parser.add_argument_group("search")
    _add(search, _SEARCH)
    search.add_argument(
        "--draft",
        type=Path,
        metavar="BUNDLE",
        help="a smaller model of the same tokenizer, which guesses tokens: the text of --beam-size"
        " 1, which it sets, in fewer steps of the large model",
    )
    search.add_argument(
        "--temperature",
        type=_numbers,
        metavar="T,T",
        help="tried in turn until a text passes the thresholds (default: 0,0.2,0.4,0.6,0.8,1)",
    )
    prompt = parser.add_argument_group("text")
    _add(prompt, _TEXT)
    prompt.add_argument(
        "--no-condition-on-previous-text",
        action="store_false",
        default=None,
        dest="condition_on_previous_text",
        help="windows do not read what was said before",
    )
    form = prompt.add_mutually_exclusive_group()
    form.add_argument("--choice", action="append", metavar="TEXT", help="one of these (repeat it)")
    form.add_argument("--regex", metavar="PATTERN", help="a text that matches from end to end")
    _add(parser.add_argument_group("thresholds"), _THRESHOLDS)


def transcription_options(options: argparse.Namespace) -> TranscriptionOptions:
    """The options that were given, over the defaults.

    Raises:
        InputError: impossible ones.
    """
    from dataclasses import fields

    from seq2edge.runtime import Choices, InputError, Regex
    from seq2edge.runtime.speech.options import TranscriptionOptions, options_of

    given = {
        spec.name: value
        for spec in fields(TranscriptionOptions)
        if (value := getattr(options, spec.name, None)) is not None
    }
    if "suppress_tokens" in given:
        try:
            given["suppress_tokens"] = [int(i) for i in given["suppress_tokens"].split(",") if i]
        except ValueError:
            raise InputError(
                f"--suppress-tokens takes token ids separated by commas, not"
                f" {given['suppress_tokens']!r}"
            ) from None
    if options.choice is not None or options.regex is not None:
        given["constraint"] = (
            Regex(options.regex) if options.choice is None else Choices(tuple(options.choice))
        )
    if options.draft is not None:
        if given.setdefault("beam_size", 1) > 1:
            raise InputError("--draft works with greedy decoding only: give --beam-size 1")
    elif "num_assistant_tokens" in given:
        raise InputError("--num-assistant-tokens is for --draft")
    return options_of(given)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number, nor several separated by commas"
        ) from None


def _named_numbers(text: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form name=number,name=number"
        ) from None


def _add(group: Any, flags: _Flags) -> None:
    for flag, kind, metavar, text in flags:
        group.add_argument(flag, type=kind, metavar=metavar, help=text)
