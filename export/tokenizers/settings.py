"""Tokens as special_tokens_map.json and tokenizer_config.json name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def listed_tokens(settings: Mapping[str, Any]) -> list[str]:
    """``additional_special_tokens``, by transformers 5 ``extra_special_tokens``."""
    for name in ("additional_special_tokens", "extra_special_tokens"):
        listed = settings.get(name)
        if isinstance(listed, list) and listed:
            return [text_of(token) for token in listed]
    return []


def text_of(token: Any) -> str:
    """A token of a settings file, which may be an object."""
    return str(token["content"]) if isinstance(token, dict) else str(token)
