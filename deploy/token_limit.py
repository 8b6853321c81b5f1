"""How many tokens a request may ask for, where whoever runs the model has a say in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from seq2edge.runtime import GenerationConfig, InputError, Manifest
from seq2edge.runtime.generation.config import new_tokens

#: New tokens of a result, unless the service or the model's configuration says otherwise.
MAX_NEW_TOKENS = 1024

_NAMES = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")


class TooManyTokensError(InputError):
    """An option asks for more tokens than are generated here.

    Attributes:
        option: its name.
    """

    def __init__(self, option: str, value: int, most: int) -> None:
        super().__init__(f"{option}={value} is more than the {most} allowed here")
        self.option = option


def limit_new_tokens(
    config: GenerationConfig, given: Mapping[str, Any], manifest: Manifest, most: int
) -> GenerationConfig:
    """``config`` with at most ``most`` new tokens; a default that is more is cut to it.

    Args:
        config: the bundle's own options and those of the request.
        given: the request's options by name.
        manifest: of the bundle.

    Raises:
        TooManyTokensError: the request asks for more.
    """
    for name in _NAMES:
        value = given.get(name)
        if isinstance(value, int) and value > most:
            raise TooManyTokensError(name, value, most)
    if given.get("max_new_tokens") is not None or given.get("max_length") is not None:
        return config
    whole = replace(config, max_new_tokens=None)
    if manifest.single_stack == "decoder":
        whole = replace(whole, decoder_prefix=())
    return replace(config, max_new_tokens=min(new_tokens(whole, manifest), most))
