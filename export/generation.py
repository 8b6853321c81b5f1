"""Special tokens and generation defaults, from generation_config.json or config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seq2edge.runtime.manifest import SpecialTokens

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .families.base import Config

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


def generation_defaults(checkpoint: Checkpoint, config: Config) -> dict[str, Any]:
    """The checkpoint's own generation options; generation_config.json wins as a whole."""
    own: Mapping[str, Any] = checkpoint.generation_config
    source = own.get if own else config.get
    defaults = {name: source(name) for name in _OPTIONS if source(name) is not None}
    forced = defaults.get("forced_eos_token_id")
    if isinstance(forced, list):
        # Of several tokens forced with equal scores, greedy decoding takes the first.
        defaults["forced_eos_token_id"] = min(forced, default=None)
    return defaults


def special_tokens(checkpoint: Checkpoint, config: Config) -> SpecialTokens:
    """Pad, end and decoder start tokens.

    Raises:
        CheckpointError: one that is not set, or lies outside the vocabulary.
    """

    def find(*names: str) -> Any:
        for name in names:
            for value in (checkpoint.generation_config.get(name), config.get(name)):
                if value is not None:
                    return value
        raise CheckpointError(
            f"{checkpoint.directory}: {names[0]} is set in neither generation_config.json nor"
            " config.json"
        )

    eos = find("eos_token_id")
    tokens = SpecialTokens(
        pad=_token(find("pad_token_id", "eos_token_id"), "pad_token_id"),
        decoder_start=_token(
            find("decoder_start_token_id", "bos_token_id"), "decoder_start_token_id"
        ),
        eos=tuple(_token(e, "eos_token_id") for e in (eos if isinstance(eos, list) else [eos])),
    )
    size = config.integer("vocab_size")
    outside = [t for t in (tokens.pad, tokens.decoder_start, *tokens.eos) if t >= size]
    if outside:
        raise CheckpointError(f"special tokens {outside} lie outside the vocabulary of {size}")
    return tokens


def _token(value: Any, name: str) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise CheckpointError(f"{name} must be a token id, not {value!r}")
