"""Options are checked before anything runs: all that is wrong is reported at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..bundle.manifest import Manifest
from ..errors import InputError
from .config import GenerationConfig

#: Problems of one error, and letters of each.
_MOST_TOLD, _LONGEST_TOLD = 12, 500
#: Options that are integers, and the smallest value of each.
_INTEGERS = {
    "max_new_tokens": 1,
    "max_length": 1,
    "min_new_tokens": 0,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "seed": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "prompt_lookup_num_tokens": 1,
    "max_matching_ngram_size": 1,
    "num_assistant_tokens": 1,
}
#: Of these and the numbers below, those that may be None.
_OPTIONAL = {
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "max_time",
    "patience",
    "min_p",
    "top_h",
    "seed",
    "prompt_lookup_num_tokens",
}
#: Options that hold token ids.
_TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens", "decoder_prefix")
_BELOW_ONE = math.nextafter(1.0, 0.0)
#: Options that are numbers: what is allowed, in words; the ends; whether the lower one is in.
_NUMBERS: dict[str, tuple[str, float, float, bool]] = {
    "max_time": ("a number of seconds above 0", 0.0, math.inf, False),
    "patience": ("a number above 0 and at most 1e6", 0.0, 1e6, False),
    "temperature": ("a number above 0", 0.0, math.inf, False),
    "top_p": ("a number above 0 and at most 1", 0.0, 1.0, False),
    "min_p": ("a number from 0 to 1", 0.0, 1.0, True),
    "typical_p": ("a number above 0 and at most 1", 0.0, 1.0, False),
    "epsilon_cutoff": ("a number from 0 to below 1", 0.0, _BELOW_ONE, True),
    "eta_cutoff": ("a number from 0 to below 1", 0.0, _BELOW_ONE, True),
    "top_h": ("a number above 0 and at most 1", 0.0, 1.0, False),
    "repetition_penalty": ("a number above 0", 0.0, math.inf, False),
    "encoder_repetition_penalty": ("a number above 0", 0.0, math.inf, False),
    # Beyond that, length ** length_penalty overflows.
    "length_penalty": ("a number from -50 to 50", -50.0, 50.0, True),
}
#: Options that look for tokens of the source in the output, or the other way round.
_COMPARING = (
    "prompt_lookup_num_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
)
_DEFAULTS = GenerationConfig()
#: Options that nothing reads without another one. Many checkpoints carry values of them that could
#: not work (a temperature of 0).
_SAMPLING = (
    *("temperature", "top_h", "top_k", "top_p", "min_p"),
    *("typical_p", "epsilon_cutoff", "eta_cutoff"),
)
_BEAMS = ("length_penalty", "early_stopping", "patience")


def check(config: GenerationConfig, manifest: Manifest) -> GenerationConfig:
    """Refuse options that cannot work, alone or together. Those that nothing reads may be anything.

    Returns:
        The same options, their token ids as tuples of integers, whatever sequences they were, and
        ``sequence_bias`` as a dict of tuples.

    Raises:
        InputError: each option's name, its value and what is allowed.
    """
    idle = frozenset(read_with(config))
    problems = [
        *_integers(config, idle),
        *_numbers(config, idle),
        *_kinds(config, idle),
        *_tokens(config, manifest.dimensions.vocab_size),
    ]
    if not problems:
        problems += _contradictions(config, manifest)
    if problems:
        raise InputError(_told(problems))
    return replace(
        config,
        suppress_tokens=_integers_of(config.suppress_tokens),
        begin_suppress_tokens=_integers_of(config.begin_suppress_tokens),
        decoder_prefix=_integers_of(config.decoder_prefix),
        bad_words_ids=tuple(_integers_of(word) for word in config.bad_words_ids),
        sequence_bias={
            _integers_of(tokens): float(bias) for tokens, bias in _biases(config.sequence_bias)
        },
        forced_bos_token_id=_forced(config.forced_bos_token_id),
        forced_eos_token_id=_forced(config.forced_eos_token_id),
        stop_strings=tuple(config.stop_strings),
        logits_processors=tuple(config.logits_processors),
    )


def _integers_of(tokens: Iterable[Any]) -> tuple[int, ...]:
    return tuple(operator.index(token) for token in tokens)


def _forced(tokens: Any) -> int | tuple[int, ...] | None:
    """One token as an integer, several as a tuple."""
    if tokens is None or not _is_list(tokens):
        return None if tokens is None else operator.index(tokens)
    several = _integers_of(tokens)
    return several[0] if len(several) == 1 else several or None


def _biases(value: Any) -> list[tuple[Any, Any]]:
    """Sequences and biases of ``sequence_bias``, in any of its spellings.

    Raises:
        TypeError, ValueError: it is none.
    """
    pairs = value.items() if isinstance(value, Mapping) else value
    return [
        ((tokens,), bias) if is_integer(tokens) and isinstance(value, Mapping) else (tokens, bias)
        for tokens, bias in pairs
    ]


def read_with(config: GenerationConfig) -> dict[str, str]:
    """The options that nothing reads, and what would have to be set for that."""
    idle: dict[str, str] = {}
    if config.do_sample is False:
        idle |= dict.fromkeys(_SAMPLING, "do_sample=True")
    if config.num_beams == 1:
        idle |= dict.fromkeys(_BEAMS, "num_beams above 1")
    if config.prompt_lookup_num_tokens is None:
        idle["max_matching_ngram_size"] = "prompt_lookup_num_tokens"
    if config.draft_model is None:
        idle["num_assistant_tokens"] = "draft_model"
    return idle


def _integers(config: GenerationConfig, idle: frozenset[str]) -> Iterable[str]:
    for name, low in _INTEGERS.items():
        value = getattr(config, name)
        if name in idle or (value is None and name in _OPTIONAL):
            continue
        if not is_integer(value):
            yield f"{name} must be an integer, not {value!r}"
        elif value < low:
            yield f"{name} must be at least {low}, not {value}"


def _numbers(config: GenerationConfig, idle: frozenset[str]) -> Iterable[str]:
    for name, (allowed, low, high, inclusive) in _NUMBERS.items():
        value = getattr(config, name)
        if name in idle or (value is None and name in _OPTIONAL):
            continue
        if not (_is_number(value) and _is_finite(value)) or not (
            low < value <= high or (inclusive and value == low)
        ):
            yield f"{name} must be {allowed}, not {value!r}"


def _kinds(config: GenerationConfig, idle: frozenset[str]) -> Iterable[str]:
    if "early_stopping" not in idle and (
        config.early_stopping not in (True, False, "never")
        # 1 == True, but transformers takes no number here.
        or not isinstance(config.early_stopping, (bool, str))
    ):
        yield f'early_stopping must be True, False or "never", not {config.early_stopping!r}'
    for name in ("do_sample", "return_scores", "remove_invalid_values", "renormalize_logits"):
        value = getattr(config, name)
        if not isinstance(value, bool) and (name != "renormalize_logits" or value is not None):
            yield f"{name} must be True or False, not {value!r}"
    decay = config.exponential_decay_length_penalty
    if decay is not None and not (
        _is_list(decay)
        and len(decay) == 2
        and is_integer(decay[0])
        and _is_number(decay[1])
        and _is_finite(decay[1])
    ):
        yield (
            "exponential_decay_length_penalty must be a number of tokens and a factor, not"
            f" {decay!r}"
        )
    strings = config.stop_strings
    if not _is_list(strings) or not all(isinstance(s, str) and s for s in strings):
        yield f"stop_strings must be a list of strings that are not empty, not {strings!r}"
    allowed, processors = config.prefix_allowed_tokens, config.logits_processors
    if allowed is not None and not callable(allowed):
        yield f"prefix_allowed_tokens must be callable, not {allowed!r}"
    if not _is_list(processors) or not all(callable(p) for p in processors):
        yield f"logits_processors must be a list of callables, not {processors!r}"


def _tokens(config: GenerationConfig, vocab_size: int) -> Iterable[str]:
    for name in _TOKEN_LISTS:
        yield from _token_list(name, getattr(config, name), vocab_size)
    for name in ("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id"):
        value = getattr(config, name)
        several = name != "decoder_start_token_id" and _is_list(value)
        if value is not None:
            yield from _token_list(name, value if several else [value], vocab_size)
    words = config.bad_words_ids
    if not _is_list(words) or not all(_is_list(word) and len(word) for word in words):
        yield f"bad_words_ids must be a list of lists of token ids, not {words!r}"
    else:
        for word in words:
            yield from _token_list("bad_words_ids", word, vocab_size)
    try:
        biases = _biases(config.sequence_bias)
    except (TypeError, ValueError):
        yield (
            "sequence_bias must map tuples of token ids to numbers, or list pairs of both, not"
            f" {config.sequence_bias!r}"
        )
        return
    for tokens, bias in biases:
        yield from _token_list("sequence_bias", tokens, vocab_size)
        if _is_list(tokens) and not len(tokens):
            yield f"sequence_bias needs at least one token to add {bias!r} to"
        if not _is_number(bias) or not (bias == -math.inf or _is_finite(bias)):
            yield f"sequence_bias must be numbers (-inf forbids a token), not {bias!r}"


def _told(problems: list[str]) -> str:
    """Problems in one sentence; what they quote may come from a file, and be of any length."""
    told = [
        text if len(text) <= _LONGEST_TOLD else f"{text[:_LONGEST_TOLD]} ..."
        for text in problems[:_MOST_TOLD]
    ]
    more = len(problems) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def _token_list(name: str, tokens: Any, vocab_size: int) -> Iterable[str]:
    if not _is_list(tokens) or not all(is_integer(token) for token in tokens):
        yield f"{name} must hold integers (token ids), not {tokens!r}"
        return
    wrong = [int(token) for token in tokens if not 0 <= token < vocab_size]
    if wrong:
        yield f"{name} holds {wrong}, outside the {vocab_size} token ids"


def _contradictions(config: GenerationConfig, manifest: Manifest) -> Iterable[str]:
    beams, results = config.num_beams, config.num_return_sequences
    if results > beams and (beams > 1 or not config.do_sample):
        yield (
            f"num_return_sequences={results} is more than num_beams={beams}: greedy decoding and"
            " beam search give at most num_beams results (sampling without beams gives more)"
        )
    guessing = [
        name
        for name in ("prompt_lookup_num_tokens", "draft_model")
        if getattr(config, name) is not None
    ]
    if len(guessing) > 1:
        yield "prompt_lookup_num_tokens and draft_model both guess tokens: give one of them"
    for name in guessing:
        if config.do_sample or beams > 1:
            other = "do_sample" if config.do_sample else f"num_beams={beams}"
            yield f"{name} works with greedy decoding only, not with {other}"
    if manifest.single_stack == "decoder" and config.forced_bos_token_id is not None:
        yield "forced_bos_token_id is for models with an encoder; decoder_prefix puts tokens first"
    if manifest.has_two_vocabularies:
        for name in _COMPARING:
            if getattr(config, name) != getattr(_DEFAULTS, name):
                yield f"{name} compares sources with outputs, which have other tokens here"
    vocab_size = manifest.dimensions.vocab_size
    most = vocab_size // max(2, 1 + len(manifest.special_tokens.eos))
    if beams > most:
        yield f"num_beams={beams} is more than a vocabulary of {vocab_size} allows ({most})"
    limit, least = config.max_new_tokens, config.min_new_tokens
    # The checkpoint's own minimum only keeps a shorter text from ending, as in transformers.
    asked = least != manifest.generation.get("min_new_tokens")
    if limit is not None and least is not None and least > limit and asked:
        yield f"min_new_tokens={least} is more than max_new_tokens={limit}"


def _is_list(value: object) -> bool:
    """A list, a tuple or an array; no text."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def is_integer(value: object) -> bool:
    """An integer of Python's or numpy's; True and False are none."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True
