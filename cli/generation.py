"""Options of generation on the command line; those not given are the bundle's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import positive

if TYPE_CHECKING:
    from seq2edge.runtime import GenerationConfig, Seq2SeqModel
    from seq2edge.runtime.generation.constraints import Constraint

#: Flag, type, metavar and what it says; the option of GenerationConfig has the flag's name.
_SEARCH: tuple[tuple[str, Any, str, str], ...] = (
    ("--num-beams", int, "N", "beams of a beam search; 1: none"),
    ("--num-return-sequences", int, "N", "results per text: as many lines each"),
    ("--length-penalty", float, "X", "scores are divided by length ** X"),
)
_SAMPLING: tuple[tuple[str, Any, str, str], ...] = (
    ("--temperature", float, "X", "below 1: nearer to the most probable token"),
    ("--top-k", int, "N", "draw from the N most probable tokens; 0: from all"),
    ("--top-p", float, "P", "draw from the most probable tokens that together have P"),
    ("--min-p", float, "P", "draw from tokens at least P times as probable as the best"),
    ("--top-h", float, "X", "draw from the tokens that together have X of the entropy"),
    ("--typical-p", float, "P", "draw from the tokens of typical information that have P"),
    ("--epsilon-cutoff", float, "P", "draw from tokens at least as probable as P"),
    ("--eta-cutoff", float, "P", "the same, with a bound that falls with the entropy"),
    ("--seed", int, "N", "draw the same again"),
)
_LIMITS: tuple[tuple[str, Any, str, str], ...] = (
    ("--min-new-tokens", int, "N", "no end before N tokens"),
    ("--max-time", float, "S", "seconds after which a batch stops with what it has"),
    ("--repetition-penalty", float, "X", "above 1: tokens already there count less"),
    ("--encoder-repetition-penalty", float, "X", "above 1: tokens of the source count more"),
    ("--no-repeat-ngram-size", int, "N", "no N tokens in a row occur twice"),
    ("--encoder-no-repeat-ngram-size", int, "N", "no N tokens in a row of the source occur"),
)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Add the options, in groups."""
    add_languages(parser)
    search = parser.add_argument_group("search")
    search.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="limit of generated tokens"
    )
    _add(search, _SEARCH)
    search.add_argument(
        "--early-stopping",
        choices=("true", "false", "never"),
        help="when a beam search ends: at the first full set, by a heuristic, or when no beam"
        " can win",
    )
    search.add_argument(
        "--prompt-lookup",
        type=int,
        metavar="N",
        dest="prompt_lookup_num_tokens",
        help="guess up to N tokens per step from the source and the output (same text, fewer"
        " steps where it copies)",
    )
    search.add_argument(
        "--draft",
        type=Path,
        metavar="BUNDLE",
        help="a smaller model of the same tokenizer, which guesses tokens (same text, fewer steps"
        " of the large model)",
    )
    search.add_argument(
        "--num-assistant-tokens",
        type=positive,
        metavar="N",
        help="tokens that --draft guesses per step (default: 5)",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--sample", action="store_true", default=None, dest="do_sample", help="draw tokens"
    )
    _add(sampling, _SAMPLING)
    limits = parser.add_argument_group("limits and penalties")
    _add(limits, _LIMITS)
    limits.add_argument(
        "--stop-string",
        action="append",
        metavar="TEXT",
        dest="stop_strings",
        help="end where TEXT was generated (may be repeated)",
    )
    form = parser.add_argument_group("form of the output").add_mutually_exclusive_group()
    form.add_argument(
        "--choice", action="append", metavar="TEXT", help="one of these texts (repeat it)"
    )
    form.add_argument("--regex", metavar="PATTERN", help="a text that matches from end to end")
    form.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="JSON that the schema in FILE allows"
    )


def add_languages(parser: argparse.ArgumentParser) -> None:
    """Add the options of models of several languages."""
    languages = parser.add_argument_group("languages")
    languages.add_argument(
        "--source-lang", metavar="CODE", help="language of the texts, as the model names it"
    )
    languages.add_argument("--target-lang", metavar="CODE", help="language to write")


def warn_of_languages(config: GenerationConfig, model: Seq2SeqModel) -> None:
    """Say on stderr that nothing names the language to write, where there are several."""
    from seq2edge.runtime.text.languages import chooses_its_target

    if chooses_its_target(config, model.manifest):
        print(
            "seq2edge: the model writes several languages and --target-lang names none",
            file=sys.stderr,
        )


def generation_config(
    own: GenerationConfig, options: argparse.Namespace, draft: Seq2SeqModel | None = None
) -> GenerationConfig:
    """The bundle's ``own`` options with those that were given, and the opened ``draft``.

    Raises:
        InputError: a schema file that cannot be read.
    """
    from dataclasses import fields

    from seq2edge.runtime.generation.options import with_options

    given: dict[str, Any] = {
        spec.name: getattr(options, spec.name)
        for spec in fields(own)
        if getattr(options, spec.name, None) is not None
    }
    if "early_stopping" in given:
        word = given["early_stopping"]
        given["early_stopping"] = word if word == "never" else word == "true"
    if "stop_strings" in given:
        given["stop_strings"] = tuple(given["stop_strings"])
    if draft is not None:
        given["draft_model"] = draft
    constraint = _constraint(options)
    if constraint is not None:
        given["constraint"] = constraint
    return with_options(own, given)


def _add(group: Any, flags: tuple[tuple[str, Any, str, str], ...]) -> None:
    for flag, kind, metavar, text in flags:
        group.add_argument(flag, type=kind, metavar=metavar, help=text)


def _constraint(options: argparse.Namespace) -> Constraint | None:
    from seq2edge.runtime import Choices, InputError, JsonSchema, Regex
    from seq2edge.runtime.bundle.checks.json_text import parse_json

    if options.choice is not None:
        return Choices(tuple(options.choice))
    if options.regex is not None:
        return Regex(options.regex)
    if options.json_schema is None:
        return None
    path: Path = options.json_schema
    try:
        schema = parse_json(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(str(error)) from None
    if not isinstance(schema, dict):
        raise InputError(f"{path} holds no JSON object")
    return JsonSchema(schema)
