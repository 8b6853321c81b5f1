"""Languages of multilingual bundles: from codes to the tokens that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ..bundle.manifest import Manifest
from ..bundle.tokenizer_info import (
    DECODER_START,
    FORCED_BOS,
    NO_SOURCE,
    SOURCE_START,
    START,
    Languages,
)
from ..errors import InputError

if TYPE_CHECKING:
    from ..generation.config import GenerationConfig

_SHOWN = 5


def with_languages(config: GenerationConfig, manifest: Manifest) -> GenerationConfig:
    """``config`` with the token that its ``target_lang`` stands for.

    Raises:
        InputError: the bundle has no languages, or not that one, or none of sources.
    """
    if config.source_lang is not None:
        languages = _languages(manifest, "source_lang")
        if languages.source == NO_SOURCE:
            raise InputError(
                f"source_lang={config.source_lang!r}: the model has one source language, which is"
                " not named"
            )
        _token(languages, "source_lang", config.source_lang)
    if config.target_lang is None:
        return config
    languages = _languages(manifest, "target_lang")
    token = _token(languages, "target_lang", config.target_lang)
    if languages.target == FORCED_BOS:
        return replace(config, forced_bos_token_id=token)
    if languages.target == DECODER_START:
        return replace(config, decoder_start_token_id=token)
    return config


def with_source_language(
    ids: Sequence[int], config: GenerationConfig, manifest: Manifest
) -> list[int]:
    """A source [S] as the tokenizer made it, with the tokens of the languages of ``config``."""
    languages, found = manifest.tokenizer.languages, list(ids)
    if languages is None:
        return found
    if config.source_lang is not None:
        token = languages.codes[config.source_lang]
        place = 0 if languages.source == START else len(found) - 1
        if languages.default_source is not None:
            found[place] = token
        else:
            found.insert(place if languages.source == START else place + 1, token)
    if config.target_lang is not None and languages.target == SOURCE_START:
        found.insert(0, languages.codes[config.target_lang])
    return found


def chooses_its_target(config: GenerationConfig, manifest: Manifest) -> bool:
    """Whether nothing says what language a model of several is to write."""
    languages = manifest.tokenizer.languages
    if languages is None or config.target_lang is not None:
        return False
    if languages.target == SOURCE_START:
        return True
    start = config.decoder_start_token_id
    said = {
        config.forced_bos_token_id,
        manifest.special_tokens.decoder_start if start is None else start,
    }
    return said.isdisjoint(languages.codes.values())


def _languages(manifest: Manifest, option: str) -> Languages:
    if manifest.tokenizer.languages is None:
        raise InputError(
            f"{option} is for models of several languages, and this bundle"
            f" ({manifest.family}) has none"
        )
    return manifest.tokenizer.languages


def _token(languages: Languages, option: str, code: object) -> int:
    token = languages.codes.get(code) if isinstance(code, str) else None
    if token is not None:
        return token
    known = {known.lower(): known for known in languages.codes}
    near = [known[n] for n in get_close_matches(str(code).lower(), known, _SHOWN, cutoff=0.0)]
    raise InputError(
        f"{option}={code!r} is none of the model's {len(known)} languages; the nearest:"
        f" {', '.join(near)}"
    )
