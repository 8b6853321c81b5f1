"""Special tokens and generation defaults, from generation_config.json or config.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BundleError
from .manifest import SpecialTokens

#: A value of config.json by its key; None where it has none.
Getter = Callable[[str], Any]

#: Options of transformers' GenerationConfig that a bundle carries; older checkpoints keep
#: them in config.json.
_OPTIONS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{path} must hold a JSON object")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """:func:`read_json`; {} if there is no such file."""
    return read_json(path) if path.is_file() else {}


def generation_defaults(generation: Mapping[str, Any], config: Getter) -> dict[str, Any]:
    """The model's own generation options; ``generation`` (generation_config.json) wins as a whole.

    Names are those of transformers' GenerationConfig.
    """
    source = generation.get if generation else config
    defaults = {name: source(name) for name in _OPTIONS if source(name) is not None}
    forced = defaults.get("forced_eos_token_id")
    if isinstance(forced, list):
        # Of several tokens forced with equal scores, greedy decoding takes the first.
        defaults["forced_eos_token_id"] = min(forced, default=None)
    return defaults


def special_tokens(
    generation: Mapping[str, Any], config: Getter, vocab_size: int, directory: Path
) -> SpecialTokens:
    """Pad, end and decoder start tokens.

    Raises:
        BundleError: one that is not set, or lies outside the vocabulary.
    """

    def find(*names: str) -> Any:
        for name in names:
            for value in (generation.get(name), config(name)):
                if value is not None:
                    return value
        raise BundleError(
            f"{directory}: {names[0]} is set in neither generation_config.json nor config.json"
        )

    eos = find("eos_token_id")
    tokens = SpecialTokens(
        pad=_token(find("pad_token_id", "eos_token_id"), "pad_token_id"),
        decoder_start=_token(
            find("decoder_start_token_id", "bos_token_id"), "decoder_start_token_id"
        ),
        eos=tuple(_token(e, "eos_token_id") for e in (eos if isinstance(eos, list) else [eos])),
    )
    outside = [t for t in (tokens.pad, tokens.decoder_start, *tokens.eos) if t >= vocab_size]
    if outside:
        raise BundleError(f"special tokens {outside} lie outside the vocabulary of {vocab_size}")
    return tokens


def _token(value: Any, name: str) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise BundleError(f"{name} must be a token id, not {value!r}")


def model_max_length(settings: Mapping[str, Any]) -> int | None:
    """Tokens of the longest text, by tokenizer_config.json; None: any, which files also write as
    a number that no text reaches."""
    limit = settings.get("model_max_length", settings.get("max_len"))
    return int(limit) if isinstance(limit, (int, float)) and 0 < limit < _ANY_LENGTH else None


#: Beyond it lies what transformers writes for "any length" (1e30; some files 2**63).
_ANY_LENGTH = 2**62
