"""Languages of multilingual bundles: from codes to the tokens that name them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..bundle.manifest import Manifest
from ..bundle.tokenizer_info import (
    DECODER_START,
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


@dataclass(frozen=True)
class LanguageTokens:
    """Tokens that the languages of a call put into its sources.

    Attributes:
        source: the token of ``source_lang``; None: none is named.
        at_start: whether it stands before the text and not after it.
        replaces: whether the tokenizer has put another language's token there.
        target: the token of ``target_lang`` where that stands before the source, or None.
    """

    source: int | None = None
    at_start: bool = True
    replaces: bool = False
    target: int | None = None

    def put_into(self, ids: Sequence[int]) -> list[int]:
        """A source [S] as the tokenizer made it, with these tokens."""
        found = list(ids)
        if self.source is not None:
            place = 0 if self.at_start else len(found) - 1
            if self.replaces:
                found[place] = self.source
            else:
                found.insert(place if self.at_start else place + 1, self.source)
        return found if self.target is None else [self.target, *found]


def resolve_languages(
    config: GenerationConfig,
    manifest: Manifest,
    tokenizer: Tokenizer | None,
    target_tokenizer: Tokenizer | None,
) -> tuple[GenerationConfig, LanguageTokens]:
    """``config`` with the token that its ``target_lang`` stands for, and the tokens of sources.

    A language is one that the tokenizer lists, or any other of its tokens.

    Raises:
        InputError: the bundle has no languages, or not that one, or none of sources.
    """
    tokens = LanguageTokens()
    if config.source_lang is not None:
        languages = _languages(manifest, "source_lang")
        if languages.source == NO_SOURCE:
            raise InputError(
                f"source_lang={config.source_lang!r}: the model has one source language, which is"
                " not named"
            )
        tokens = LanguageTokens(
            language_token(languages, "source_lang", config.source_lang, tokenizer),
            at_start=languages.source == START,
            replaces=languages.default_source is not None,
        )
    if config.target_lang is None:
        return config, tokens
    languages = _languages(manifest, "target_lang")
    in_source = languages.target == SOURCE_START
    speller = tokenizer if in_source else target_tokenizer
    token = language_token(languages, "target_lang", config.target_lang, speller)
    if in_source:
        return config, replace(tokens, target=token)
    if languages.target == DECODER_START:
        return replace(config, decoder_start_token_id=token), tokens
    return replace(config, forced_bos_token_id=token), tokens


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
    from difflib import get_close_matches  # here: loading a model does not need it

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
