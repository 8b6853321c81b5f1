"""Support for each option of transformers' ``GenerationConfig`` (5.24).

:data:`OPTIONS` is the whole list: an option is carried into the bundle and honoured, or the reader
is told by name what goes missing, or it changes nothing here. A test walks transformers' own
attributes, so that a new one cannot be overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

#: A value of config.json by its key; None where it has none.
Getter = Callable[[str], Any]


class Support(Enum):
    """How a bundle treats an option."""

    #: Carried in the manifest, and honoured as transformers does.
    IMPLEMENTED = "implemented"
    #: Read as a special token (:func:`.hf_config.special_tokens`), and honoured.
    SPECIAL_TOKEN = "special token"
    #: Named in a warning when a checkpoint asks for it, and refused in a call.
    UNSUPPORTED = "unsupported"
    #: Changes no token here.
    WITHOUT_EFFECT = "without effect"


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        support: what a bundle does about it.
        note: what it would change, or why it changes nothing.
        neutral: values besides None that ask for nothing.
    """

    support: Support
    note: str = ""
    neutral: tuple[Any, ...] = ()


def _unsupported(note: str, *neutral: Any) -> Option:
    return Option(Support.UNSUPPORTED, note, neutral)


def _without_effect(note: str) -> Option:
    return Option(Support.WITHOUT_EFFECT, note)


_GROUPS = "diverse beam search, which transformers moved to a repository of custom code"
_CONSTRAINED = "constrained beam search, which transformers moved to a repository of custom code"
_CACHE = "chooses how PyTorch holds the cache"
_COMPILE = "chooses how PyTorch runs the model"
_SPEED = "changes the speed and not the tokens"
_DRAFT = "is for a draft model, and a bundle has none"
_OUTPUT = "chooses what else transformers' generate returns"

OPTIONS: Mapping[str, Option] = {
    **dict.fromkeys(
        (
            "bad_words_ids",
            "begin_suppress_tokens",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "epsilon_cutoff",
            "eta_cutoff",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "length_penalty",
            "max_length",
            "max_new_tokens",
            "max_time",
            "min_length",
            "min_new_tokens",
            "min_p",
            "no_repeat_ngram_size",
            "num_beams",
            "num_return_sequences",
            "remove_invalid_values",
            "renormalize_logits",
            "repetition_penalty",
            "sequence_bias",
            "stop_strings",
            "suppress_tokens",
            "temperature",
            "top_h",
            "top_k",
            "top_p",
            "typical_p",
        ),
        Option(Support.IMPLEMENTED),
    ),
    **dict.fromkeys(
        ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"),
        Option(Support.SPECIAL_TOKEN),
    ),
    "constraints": _unsupported(_CONSTRAINED),
    "diversity_penalty": _unsupported(_GROUPS, 0),
    "dola_layers": _unsupported("contrasts the logits of several decoder layers"),
    "force_words_ids": _unsupported(_CONSTRAINED),
    "guidance_scale": _unsupported(
        "classifier-free guidance, which runs the model a second time per step", 1
    ),
    "is_assistant": _unsupported("ends a draft as soon as the model is unsure", False),
    "num_beam_groups": _unsupported(_GROUPS, 1),
    "penalty_alpha": _unsupported(
        "contrastive search, which transformers moved to a repository of custom code", 0
    ),
    "token_healing": _unsupported("chooses the last token of the decoder prompt anew", False),
    "watermarking_config": _unsupported("marks the text by favouring some tokens"),
    **dict.fromkeys(
        ("cache_config", "cache_implementation", "max_cache_len", "use_cache", "low_memory"),
        _without_effect(_CACHE),
    ),
    **dict.fromkeys(
        ("compile_config", "continuous_batching_config", "disable_compile", "prefill_chunk_size"),
        _without_effect(_COMPILE),
    ),
    **dict.fromkeys(
        ("assistant_early_exit", "speculation_type", "use_mtp"), _without_effect(_SPEED)
    ),
    **dict.fromkeys(
        ("max_matching_ngram_size", "prompt_lookup_num_tokens"),
        _without_effect(f"{_SPEED}; a call may ask for it"),
    ),
    **dict.fromkeys(
        (
            "assistant_confidence_threshold",
            "assistant_ensemble_weight",
            "assistant_lookbehind",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "target_lookbehind",
        ),
        _without_effect(_DRAFT),
    ),
    **dict.fromkeys(
        (
            "output_attentions",
            "output_hidden_states",
            "output_logits",
            "output_scores",
            "return_dict_in_generate",
        ),
        _without_effect(_OUTPUT),
    ),
    **dict.fromkeys(
        ("_commit_hash", "_from_model_config", "transformers_version"),
        _without_effect("says where the file comes from"),
    ),
}


def names(support: Support) -> frozenset[str]:
    """The options that have this support."""
    return frozenset(name for name, option in OPTIONS.items() if option.support is support)


def generation_defaults(generation: Mapping[str, Any], config: Getter) -> dict[str, Any]:
    """The model's own generation options, by transformers' names.

    Args:
        generation: generation_config.json, which wins as a whole; empty: there is none.
        config: looks up config.json, where older checkpoints keep their options.
    """
    read = _reader(generation, config)
    defaults = {
        name: value
        for name in sorted(names(Support.IMPLEMENTED))
        if (value := read(name)) is not None
    }
    # Before transformers 4.3; it still reads that spelling in config.json.
    if not generation and config("force_bos_token_to_be_generated"):
        defaults["forced_bos_token_id"] = read("bos_token_id")
    if isinstance(defaults.get("stop_strings"), str):
        defaults["stop_strings"] = [defaults["stop_strings"]]
    if isinstance(defaults.get("sequence_bias"), Mapping):
        defaults["sequence_bias"] = [
            [_token_ids(key), bias] for key, bias in defaults["sequence_bias"].items()
        ]
    return defaults


def warnings_about(generation: Mapping[str, Any], config: Getter) -> list[str]:
    """Sentences on what the checkpoint's files ask for and the bundle will not do, one each.

    Arguments are those of :func:`generation_defaults`.
    """
    read = _reader(generation, config)
    file = "generation_config.json" if generation else "config.json"
    texts = []
    requested = {name: read(name) for name in sorted(names(Support.UNSUPPORTED))}
    requested = {
        name: value
        for name, value in requested.items()
        if value is not None and value not in OPTIONS[name].neutral
    }
    if requested:
        listed = "; ".join(f"{name}={v!r} ({OPTIONS[name].note})" for name, v in requested.items())
        texts.append(
            f"{file} asks for what seq2edge does not do, and the bundle generates without it:"
            f" {listed}"
        )
    unknown = [name for name, v in generation.items() if name not in OPTIONS and v is not None]
    if unknown:
        texts.append(
            f"{file} has options that seq2edge does not know, and the bundle generates without"
            f" them: {', '.join(f'{name}={generation[name]!r}' for name in sorted(unknown))}"
        )
    missing = [
        name
        for name in ("decoder_start_token_id", "eos_token_id")
        if generation and not _says(generation, name) and config(name) is not None
    ]
    if missing:
        texts.append(
            f"{file} lacks {' and '.join(missing)}, so config.json's value is used;"
            " transformers' generate does not look there"
        )
    tasks = config("task_specific_params")
    if isinstance(tasks, Mapping) and tasks:
        texts.append(
            f"config.json has options for single tasks ({', '.join(map(str, tasks))}), which"
            " transformers' pipelines apply and its generate does not; the bundle does as"
            " generate: put a task's prefix before the text and pass its options to the call"
        )
    return texts


def _says(generation: Mapping[str, Any], name: str) -> bool:
    fallback = "bos_token_id" if name == "decoder_start_token_id" else name
    return generation.get(name) is not None or generation.get(fallback) is not None


def _reader(generation: Mapping[str, Any], config: Getter) -> Getter:
    """Looks an option up where transformers does."""
    if generation:
        return generation.get

    def read(name: str) -> Any:
        value, decoder = config(name), config("decoder")
        # A model of two parts may keep its options with its decoder.
        return decoder.get(name) if value is None and isinstance(decoder, Mapping) else value

    return read


def _token_ids(key: Any) -> Any:
    """Token ids of a key of ``sequence_bias``: transformers saves (10, 45) as a text."""
    if not isinstance(key, str) or not re.fullmatch(r"\(?(\s*\d+\s*,?)+\)?", key):
        return key
    return [int(token) for token in re.findall(r"\d+", key)]
