"""Language tokens: which of a tokenizer's tokens they are, and where they go.

Source: the tokenizers of transformers, for the places, and for the codes where files name none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer, processors

from seq2edge.runtime.bundle.tokenizer_info import (
    DECODER_START,
    END,
    FORCED_BOS,
    NO_SOURCE,
    SOURCE_START,
    START,
    Languages,
)
from seq2edge.runtime.text.tokenizer import HIDDEN

from ..errors import CheckpointError
from .from_transformers import own_module
from .settings import listed_tokens, named_tokens, text_of


@dataclass(frozen=True)
class LanguageScheme:
    """How a tokenizer class of transformers marks languages.

    Attributes:
        pattern: the form of the class's own language tokens; its first group is the code.
        token: a code as such a token.
        source: where a source's language token stands, ``start`` or ``end``.
        target: what the target's does: ``forced_bos`` or ``decoder_start``.
        default: code of the source where the settings name none; None: no token then.
        family: name of the class's module in transformers, which holds its own codes.
        listed: whether the settings may list fewer of them.
    """

    pattern: re.Pattern[str]
    token: str
    source: str
    target: str
    default: str | None
    family: str
    listed: bool = False

    def tokens(self, settings: Mapping[str, Any]) -> list[str]:
        """The class's own language tokens in the order of their ids.

        Raises:
            CheckpointError: the settings name an unknown list.
            MissingDependencyError: transformers is not installed.
        """
        codes = own_module(self.family).FAIRSEQ_LANGUAGE_CODES
        if isinstance(codes, Mapping):
            name = str(settings.get("language_codes", next(iter(codes))))
            if name not in codes:
                raise CheckpointError(
                    f"tokenizer_config.json: language_codes {name!r} is not supported; known:"
                    f" {', '.join(codes)}"
                )
            codes = codes[name]
        own = [self.token.format(self.code(code)) for code in codes]
        listed = [token for token in listed_tokens(settings) if token in own]
        return listed if self.listed and listed else own

    def code(self, token: str) -> str:
        """The code of a language token: what stands in its form, or all of it."""
        match = self.pattern.fullmatch(token)
        return match[1] if match else token

    def default_token(self, settings: Mapping[str, Any], known: Mapping[str, int]) -> str | None:
        """The source's language token where a call says none."""
        code = settings.get("src_lang") or self.default
        if settings.get("language_codes") == "multi":  # PLBart
            code = settings.get("src_lang") or "en_XX"
        if code is None:
            return None
        token = self.token.format(self.code(str(code)))
        return next((name for name in (token, str(code)) if name in known), None)

    def template(self, default: str | None, eos: str) -> list[str]:
        """Tokens around a source, which is ``$A``."""
        if default is None:
            return ["$A", eos]
        return [default, "$A", eos] if self.source == START else ["$A", eos, default]


_REGIONS = re.compile(r"([a-z]{2}_[A-Z]{2})")
_SCRIPTS = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})")
_UNDERLINED = re.compile(r"__(\w+?)__")
#: By tokenizer class.
SCHEMES = {
    "MBartTokenizer": LanguageScheme(_REGIONS, "{}", END, DECODER_START, "en_XX", "mbart"),
    "MBart50Tokenizer": LanguageScheme(_REGIONS, "{}", START, FORCED_BOS, "en_XX", "mbart50"),
    "NllbTokenizer": LanguageScheme(
        _SCRIPTS, "{}", START, FORCED_BOS, "eng_Latn", "nllb", listed=True
    ),
    "M2M100Tokenizer": LanguageScheme(_UNDERLINED, "__{}__", START, FORCED_BOS, "en", "m2m_100"),
    "PLBartTokenizer": LanguageScheme(_UNDERLINED, "__{}__", END, DECODER_START, None, "plbart"),
}
#: Marks that are special and no language: <mask>, <extra_id_0>, [SEP].
_MARKUP = re.compile(r"<.*>|\[.*\]")


def find_scheme(kind: str, settings: Mapping[str, Any]) -> LanguageScheme | None:
    """The scheme of a tokenizer class; None: it has no languages."""
    scheme = SCHEMES.get(kind)
    if scheme is not None and kind == "NllbTokenizer" and settings.get("legacy_behaviour"):
        return replace(scheme, source=END)
    return scheme


def mark_languages(
    tokenizer: Tokenizer, scheme: LanguageScheme, settings: Mapping[str, Any]
) -> Languages | None:
    """Put the default language into the tokenizer's template, and say what there is.

    Languages are the special tokens that the files add, whatever they look like, but for those
    with a name (``mask_token``) and for marks; and where none has the form of the class's own, the
    tokens of the vocabulary that do.

    Returns:
        None if the tokenizer has none of the language tokens.

    Raises:
        CheckpointError: it has no ``</s>``.
    """
    ids = _special(tokenizer, settings)
    if not any(map(scheme.pattern.fullmatch, ids)):  # some files have them as plain tokens
        known = tokenizer.get_vocab()
        ids |= {token: known[token] for token in known if scheme.pattern.fullmatch(token)}
    if not ids:
        return None
    default = scheme.default_token(settings, ids)
    eos = text_of(settings.get("eos_token", "</s>"))
    if tokenizer.token_to_id(eos) is None:
        raise CheckpointError(f"tokenizer.json has no {eos}")
    template = scheme.template(default, eos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in template if t != "$A"],
    )
    return Languages(
        codes={scheme.code(token): number for token, number in ids.items()},
        source=scheme.source,
        target=scheme.target,
        default_source=None if default is None else scheme.code(default),
    )


def _special(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens by id that are added and may be languages."""
    listed = set(listed_tokens(settings))
    no_language = {*_UNNAMED, *named_tokens(settings).values()}
    added = tokenizer.get_added_tokens_decoder().items()
    return {
        token.content: number
        for number, token in sorted(added, key=lambda item: item[0])
        if (token.special or token.content in listed)
        and token.content not in no_language
        and not _MARKUP.fullmatch(token.content)
        and not token.content.startswith(HIDDEN)
    }


#: Named special tokens where the settings say none.
_UNNAMED = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")


def is_marian_language(token: str) -> bool:
    """Whether a token of a Marian vocabulary names a target language: ``>>code<<``."""
    return token.startswith(">>") and token.endswith("<<")


def marian_languages(ids: Mapping[str, int]) -> Languages | None:
    """The target languages that a Marian vocabulary has ``>>codes<<`` of; None: it has none."""
    codes = {token[2:-2]: number for token, number in ids.items() if is_marian_language(token)}
    return Languages(codes, NO_SOURCE, SOURCE_START) if codes else None
