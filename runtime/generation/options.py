"""Generation options as keywords of a call: ``model.generate(texts, num_beams=4)``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from ..bundle.generation_options import OPTIONS, Support
from ..errors import InputError
from .config import GenerationConfig
from .validation import read_with

if TYPE_CHECKING:
    from .constraints import Constraint
    from .drafter import DraftModel
    from .processor import LogitsProcessor, PrefixAllowedTokens, SequenceBias


class GenerationOptions(TypedDict, total=False):
    """The fields of :class:`.GenerationConfig`, which says what they mean, for type checkers."""

    max_new_tokens: int | None
    max_length: int | None
    min_new_tokens: int | None
    min_length: int
    max_time: float | None
    stop_strings: tuple[str, ...]
    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool | str
    patience: float | None
    do_sample: bool
    temperature: float
    top_h: float | None
    top_k: int
    top_p: float
    min_p: float | None
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    seed: int | None
    repetition_penalty: float
    encoder_repetition_penalty: float
    no_repeat_ngram_size: int
    encoder_no_repeat_ngram_size: int
    bad_words_ids: tuple[tuple[int, ...], ...]
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    forced_bos_token_id: int | tuple[int, ...] | None
    decoder_start_token_id: int | None
    source_lang: str | None
    target_lang: str | None
    forced_eos_token_id: int | tuple[int, ...] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    sequence_bias: SequenceBias
    remove_invalid_values: bool
    renormalize_logits: bool | None
    prefix_allowed_tokens: PrefixAllowedTokens | None
    logits_processors: tuple[LogitsProcessor, ...]
    constraint: Constraint | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int
    draft_model: DraftModel | None
    num_assistant_tokens: int
    decoder_prefix: tuple[int, ...]
    return_scores: bool


#: What transformers calls arguments of ``generate`` that have another name here.
_OTHER_NAMES = {
    "assistant_model": "draft_model",
    "decoder_input_ids": "decoder_prefix",
    "logits_processor": "logits_processors",
    "prefix_allowed_tokens_fn": "prefix_allowed_tokens",
}


def with_options(config: GenerationConfig, options: Mapping[str, Any]) -> GenerationConfig:
    """``config`` with ``options`` in place of its own; their values are not checked yet.

    Warns of an option that nothing reads (``top_p`` without ``do_sample``), as ``transformers``.

    Raises:
        InputError: there is no such option; with the nearest one.
    """
    if not options:
        return config
    names = {spec.name for spec in fields(GenerationConfig)}
    for name in options:
        if name not in names:
            raise InputError(_unknown(name, names))
    config = replace(config, **options)
    defaults = GenerationConfig()
    for name, condition in read_with(config).items():
        if options.get(name) not in (None, getattr(defaults, name)):
            warnings.warn(f"{name}={options[name]!r} is not read without {condition}", stacklevel=4)
    return config


def _unknown(name: str, names: set[str]) -> str:
    text = f"there is no generation option {name!r}"
    option = OPTIONS.get(name)
    if option is None:
        from difflib import get_close_matches  # here: loading a model does not need it

        near = _OTHER_NAMES.get(name) or get_close_matches(name, names, 1, 0)[0]
        return f"{text}; the nearest is {near!r}"
    if option.support is Support.SPECIAL_TOKEN:
        return f"{text}: a bundle's special tokens are those of its checkpoint"
    if option.support is Support.WITHOUT_EFFECT:
        return f"{text}: in transformers it {option.note}; leave it out"
    return f"{text}: seq2edge does not do what it asks for ({option.note})"
