"""Tokens as special_tokens_map.json, tokenizer_config.json and added_tokens.json name them.

They are read as ``PreTrainedTokenizerBase.from_pretrained`` of transformers reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from ..checkpoint import optional_json
from ..errors import CheckpointError

#: Special tokens that have a name, and are no language for that reason.
NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class Added:
    """Tokens that are added to a vocabulary.

    Attributes:
        by_id: those whose id a file says.
        others: those that are special, and have the vocabulary's id or the next free one.
    """

    by_id: Mapping[int, AddedToken]
    others: tuple[AddedToken, ...]


def read_settings(directory: Path) -> dict[str, Any]:
    """special_tokens_map.json, and tokenizer_config.json over it.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    return {
        **optional_json(directory / "special_tokens_map.json"),
        **optional_json(directory / "tokenizer_config.json"),
    }


def listed_tokens(settings: Mapping[str, Any]) -> list[str]:
    """``additional_special_tokens``, by transformers 5 ``extra_special_tokens``."""
    found: list[str] = []
    for name in ("extra_special_tokens", "additional_special_tokens"):
        listed = settings.get(name)
        if isinstance(listed, Mapping):  # by names of their own
            listed = list(listed.values())
        found += [text_of(token) for token in listed or []]
    return list(dict.fromkeys(found))


def named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token`` and its like, as far as the settings say them."""
    return {name: text_of(settings[name]) for name in NAMED if settings.get(name)}


def text_of(token: Any) -> str:
    """A token of a settings file, which may be an object."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def added_tokens(directory: Path, settings: Mapping[str, Any]) -> Added:
    """The tokens that the files add to a vocabulary.

    Raises:
        CheckpointError: added_tokens.json does not map tokens to ids.
    """
    ids = read_ids(directory / "added_tokens.json")
    listed = listed_tokens(settings)
    special = {*named_tokens(settings).values(), *listed}
    by_id = {number: _token(text, text in special) for text, number in ids.items()}
    decoder = settings.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, Mapping) else ():
        by_id[int(number)] = _token(token, bool(isinstance(token, dict) and token.get("special")))
    placed = {token.content for token in by_id.values()}
    objects = {text_of(token): token for token in _objects(settings)}
    others = dict.fromkeys([*named_tokens(settings).values(), *listed])
    return Added(by_id, tuple(_token(objects.get(t, t), True) for t in others if t not in placed))


def _objects(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens that the settings give as objects, with their flags."""
    values = [settings.get(name) for name in NAMED]
    values += list(settings.get("additional_special_tokens") or [])
    return [value for value in values if isinstance(value, dict)]


def _token(token: Any, special: bool) -> AddedToken:
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    if isinstance(token, dict):
        flags = {name: bool(token.get(name)) for name in flags}
    return AddedToken(text_of(token), special=special, normalized=False, **flags)


def read_ids(file: Path) -> dict[str, int]:
    """Token to id; {} if there is no such file.

    Raises:
        CheckpointError: something else is in it.
    """
    found = optional_json(file)
    if not all(isinstance(number, int) and number >= 0 for number in found.values()):
        raise CheckpointError(f"{file} does not map tokens to ids")
    return found
