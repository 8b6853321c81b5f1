"""JSON files of a checkpoint, and its special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BundleError
from .checks.json_text import read_json_object
from .generation_options import Getter
from .manifest import SpecialTokens


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: unreadable, not JSON, or not an object.
    """
    return read_json_object(path)


def optional_json(path: Path) -> dict[str, Any]:
    """:func:`read_json`; {} if there is no such file."""
    return read_json(path) if path.is_file() else {}


def special_tokens(
    generation: Mapping[str, Any], config: Getter, vocab_size: int, directory: Path
) -> SpecialTokens:
    """Pad, end and decoder start tokens, as transformers' ``generate`` finds them.

    Without a decoder start token the bos token is it, before config.json is asked for either. A
    checkpoint without a pad token fills up with its first end token.

    Raises:
        BundleError: one that is not set, or lies outside the vocabulary.
    """

    def find(*names: str, default: Any = None) -> Any:
        for get in (generation.get, config):
            for name in names:
                value = get(name)
                if value is not None:
                    return value
        if default is not None:
            return default
        raise BundleError(
            f"{directory}: {names[0]} is set in neither generation_config.json nor config.json"
        )

    eos = find("eos_token_id")
    ends = tuple(_token(e, "eos_token_id") for e in (eos if isinstance(eos, list) else [eos]))
    bos = generation.get("bos_token_id", config("bos_token_id"))
    pad = find("pad_token_id", default=ends[0] if ends else None)
    tokens = SpecialTokens(
        pad=_token(pad, "pad_token_id"),
        decoder_start=_token(
            find("decoder_start_token_id", "bos_token_id"), "decoder_start_token_id"
        ),
        eos=ends,
        bos=bos if isinstance(bos, int) and bos >= 0 else None,
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
