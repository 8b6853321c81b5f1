"""Language tokens: which of a tokenizer's tokens they are, and where they go.

Sources: the tokenizers of transformers for the places; for the codes where files name none, those
tokenizers and the papers (Liu et al. 2020, Tang et al. 2020, Fan et al. 2021, Ahmad et al. 2021).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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

from ..errors import CheckpointError
from .settings import listed_tokens, text_of

_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT"
    " lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
)
_MBART50 = (
    f"{_MBART} af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN"
    " pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
_M2M100 = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu"
    " ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr"
    " ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr"
    " uk ur uz vi wo xh yi yo zh zu"
)
_WMT21 = "en ha is ja cs ru zh de"
_PLBART = "java python en_XX"
_PLBART_MULTI = f"{_PLBART} javascript php ruby go"


@dataclass(frozen=True)
class Scheme:
    """How a tokenizer class of transformers marks languages.

    Attributes:
        pattern: what a language token looks like; its first group is the code.
        token: a code as its token.
        source: where a source's language token stands, ``start`` or ``end``.
        target: what the target's does: ``forced_bos`` or ``decoder_start``.
        default: code of the source where the settings name none; None: no token then.
        codes: by ``language_codes`` of the settings ("" where they say none), the codes in the
            order of their ids; None: the files must list them.
    """

    pattern: re.Pattern[str]
    token: str
    source: str
    target: str
    default: str | None
    codes: Mapping[str, str] | None

    def tokens(self, settings: Mapping[str, Any]) -> list[str]:
        """The language tokens in the order of their ids.

        Raises:
            CheckpointError: the files must list them and do not, or name an unknown list.
        """
        if self.codes is None:
            listed = [t for t in listed_tokens(settings) if self.pattern.fullmatch(t)]
            if listed:
                return listed
            raise CheckpointError(
                "special_tokens_map.json and tokenizer_config.json list no language tokens under"
                " additional_special_tokens; save a tokenizer.json instead"
            )
        name = str(settings.get("language_codes", ""))
        if name not in self.codes:
            raise CheckpointError(
                f"tokenizer_config.json: language_codes {name!r} is not supported; known:"
                f" {', '.join(known for known in self.codes if known)}"
            )
        return [self.token.format(code) for code in self.codes[name].split()]

    def default_token(self, settings: Mapping[str, Any], known: Mapping[str, int]) -> str | None:
        """The source's language token where a call says none."""
        code = settings.get("src_lang") or self.default
        if settings.get("language_codes") == "multi":  # PLBart
            code = settings.get("src_lang") or "en_XX"
        if code is None:
            return None
        match = self.pattern.fullmatch(str(code))
        token = self.token.format(match[1] if match else code)
        return token if token in known else None

    def template(self, default: str | None, eos: str) -> list[str]:
        """Tokens around a source, which is ``$A``."""
        if default is None:
            return ["$A", eos]
        return [default, "$A", eos] if self.source == START else ["$A", eos, default]


_REGIONS = re.compile(r"([a-z]{2}_[A-Z]{2})")
_UNDERLINED = re.compile(r"__(\w+?)__")
#: By tokenizer class.
SCHEMES = {
    "MBartTokenizer": Scheme(_REGIONS, "{}", END, DECODER_START, "en_XX", {"": _MBART}),
    "MBart50Tokenizer": Scheme(_REGIONS, "{}", START, FORCED_BOS, "en_XX", {"": _MBART50}),
    "NllbTokenizer": Scheme(
        re.compile("([a-z]{3}_[A-Z][a-z]{3})"), "{}", START, FORCED_BOS, "eng_Latn", None
    ),
    "M2M100Tokenizer": Scheme(
        _UNDERLINED,
        "__{}__",
        START,
        FORCED_BOS,
        "en",
        {"": _M2M100, "m2m100": _M2M100, "wmt21": _WMT21},
    ),
    "PLBartTokenizer": Scheme(
        _UNDERLINED,
        "__{}__",
        END,
        DECODER_START,
        None,
        {"": _PLBART, "base": _PLBART, "multi": _PLBART_MULTI},
    ),
}


def find_scheme(kind: str, settings: Mapping[str, Any]) -> Scheme | None:
    """The scheme of a tokenizer class; None: it has no languages."""
    scheme = SCHEMES.get(kind)
    if scheme is not None and kind == "NllbTokenizer" and settings.get("legacy_behaviour"):
        return Scheme(scheme.pattern, scheme.token, END, scheme.target, scheme.default, None)
    return scheme


def mark_languages(
    tokenizer: Tokenizer, scheme: Scheme, settings: Mapping[str, Any]
) -> Languages | None:
    """Put the default language into the tokenizer's template, and say what there is.

    Returns:
        None if the tokenizer has none of the language tokens.

    Raises:
        CheckpointError: it has no ``</s>``.
    """
    added = tokenizer.get_added_tokens_decoder().items()
    ids = {token.content: number for number, token in added}
    if not any(map(scheme.pattern.fullmatch, ids)):  # some files have them as plain tokens
        known = tokenizer.get_vocab()
        listed = known if scheme.codes is None else scheme.tokens(settings)
        ids = {token: known[token] for token in listed if token in known}
    found = {token: match[1] for token in ids if (match := scheme.pattern.fullmatch(token))}
    if not found:
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
        codes={code: ids[token] for token, code in found.items()},
        source=scheme.source,
        target=scheme.target,
        default_source=None if default is None else found[default],
    )


def marian_languages(ids: Mapping[str, int]) -> Languages | None:
    """The target languages that a Marian vocabulary has ``>>codes<<`` of; None: it has none."""
    codes = {t[2:-2]: n for t, n in ids.items() if t.startswith(">>") and t.endswith("<<")}
    return Languages(codes, NO_SOURCE, SOURCE_START) if codes else None
