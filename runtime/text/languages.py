"""Languages of multilingual bundles: from codes to the tokens that name them."""

from __future__ import annotations

import warnings
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
    from .tokenizer import Tokenizer

_SHOWN = 5


def with_languages(
    config: GenerationConfig, manifest: Manifest, tokenizer: Tokenizer | None
) -> GenerationConfig:
    """``config`` with the token that its ``target_lang`` stands for.

    A language is one that the tokenizer lists, or any other of its tokens.

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
        language_token(languages, "source_lang", config.source_lang, tokenizer)
    if config.target_lang is None:
        return config
    languages = _languages(manifest, "target_lang")
    token = language_token(languages, "target_lang", config.target_lang, tokenizer)
    if languages.target == FORCED_BOS:
        return replace(config, forced_bos_token_id=token)
    if languages.target == DECODER_START:
        return replace(config, decoder_start_token_id=token)
    return config


def with_source_language(
    ids: Sequence[int], config: GenerationConfig, manifest: Manifest, tokenizer: Tokenizer
) -> list[int]:
    """A source [S] as the tokenizer made it, with the tokens of the languages of ``config``."""
    languages, found = manifest.tokenizer.languages, list(ids)
    if languages is None:
        return found
    if config.source_lang is not None:
        token = language_token(languages, "source_lang", config.source_lang, tokenizer)
        place = 0 if languages.source == START else len(found) - 1
        if languages.default_source is not None:
            found[place] = token
        else:
            found.insert(place if languages.source == START else place + 1, token)
    if config.target_lang is not None and languages.target == SOURCE_START:
        found.insert(0, language_token(languages, "target_lang", config.target_lang, tokenizer))
    return found


def chooses_its_target(config: GenerationConfig, manifest: Manifest) -> bool:
    """Whether nothing says what language a model of several is to write."""
    languages = manifest.tokenizer.languages
    if languages is None or config.target_lang is not None:
        return False
    if languages.target == SOURCE_START:
        return True
    start = config.decoder_start_token_id
    forced = config.forced_bos_token_id
    said = {
        *(forced if isinstance(forced, tuple) else (forced,)),
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


def language_token(
    languages: Languages, option: str, code: object, tokenizer: Tokenizer | None
) -> int:
    """The token of a language that the user names.

    transformers takes any token for one. A piece of ordinary words is taken with a warning: it is
    more likely a code of another model's.

    Raises:
        InputError: no token; the nearest languages are listed.
    """
    listed = languages.codes.get(code) if isinstance(code, str) else None
    if listed is not None:
        return listed
    by_letters = {name.lower(): name for name in languages.codes}
    near = get_close_matches(str(code).lower(), by_letters, _SHOWN, cutoff=0.0)
    nearest = ", ".join(by_letters[name] for name in near)
    unlisted = f"{option}={code!r} is none of the model's {len(languages.codes)} languages"
    token = tokenizer.token_id(code) if isinstance(code, str) and tokenizer is not None else None
    if token is None or tokenizer is None:
        raise InputError(f"{unlisted}; the nearest: {nearest}")
    if not tokenizer.is_added(token):
        warnings.warn(
            f"{unlisted} but an ordinary piece of text, and stands for the language all the same;"
            f" the nearest: {nearest}",
            stacklevel=2,
        )
    return token
