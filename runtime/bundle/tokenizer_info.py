"""The tokenizer and its languages in a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .json_schema import FieldReader

#: Where a source's language token stands; ``NO_SOURCE``: it has none.
START, END, NO_SOURCE = "start", "end", "none"
#: What names the target language: the first generated token, the decoder's start token, or a
#: token before the source.
FORCED_BOS, DECODER_START, SOURCE_START = "forced_bos", "decoder_start", "source_start"


@dataclass(frozen=True)
class Languages:
    """Languages of a multilingual bundle.

    Attributes:
        codes: a language's code to its token.
        source: ``START``, ``END`` or ``NO_SOURCE``.
        target: ``FORCED_BOS``, ``DECODER_START`` or ``SOURCE_START``.
        default_source: code of the source language where a call names none, as the tokenizer
            puts it; None: a source has no language token then.
    """

    codes: Mapping[str, int]
    source: str
    target: str
    default_source: str | None = None


@dataclass(frozen=True)
class AddedByteToken:
    """A token of a tokenizer of bytes that is no byte.

    Attributes:
        id, content: its id, and what texts call it.
        special: decoding may leave it out.
        lstrip, rstrip: it takes the white space before or after it.
    """

    id: int
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class TokenizerInfo:
    """How texts become tokens.

    Attributes:
        kind: ``tokenizers`` (a tokenizer.json), ``byte`` (ByT5) or ``none``.
        unknown: what ids from ``size`` on mean: the tokenizer's pieces that are no tokens of the
            model. None: there are none.
        languages: None: a call names none.
        max_length: tokens of the longest text that the tokenizer is for (``model_max_length``);
            None: any.
        origin: the checkpoint's files that it was made from, and what read them; "": not known.
        added_tokens: of bytes; (): ByT5's own.
    """

    kind: str = "none"
    file: str | None = None
    byte_offset: int = 0
    size: int | None = None
    unknown: int | None = None
    languages: Languages | None = None
    max_length: int | None = None
    origin: str = ""
    added_tokens: tuple[AddedByteToken, ...] = ()


def read_tokenizer(r: FieldReader, raw: dict[str, Any], key: str) -> TokenizerInfo:
    """The manifest's entry ``key``; ``r`` collects what is wrong with it."""
    info = r.table(raw, key)
    return TokenizerInfo(
        kind=r.text(info, "kind", f"{key}."),
        file=None if info.get("file") is None else r.text(info, "file", f"{key}."),
        byte_offset=r.number(info, "byte_offset", f"{key}."),
        size=r.limit(info, "size", f"{key}."),
        unknown=r.limit(info, "unknown", f"{key}."),
        languages=None if info.get("languages") is None else _languages(r, info, f"{key}."),
        max_length=r.limit(info, "max_length", f"{key}."),
        origin=r.text(info, "origin", f"{key}.") if "origin" in info else "",
        added_tokens=_added_tokens(r, info, f"{key}.") if "added_tokens" in info else (),
    )


def _added_tokens(r: FieldReader, raw: dict[str, Any], where: str) -> tuple[AddedByteToken, ...]:
    tokens, where = [], f"{where}added_tokens."
    for item in r.items(raw, "added_tokens", where):
        entry = item if isinstance(item, dict) else {}
        number, content = r.number(entry, "id", where), r.text(entry, "content", where)
        flags = [bool(entry.get(name)) for name in ("special", "lstrip", "rstrip")]
        tokens.append(AddedByteToken(number, content, *flags))
    return tuple(tokens)


def _languages(r: FieldReader, raw: dict[str, Any], where: str) -> Languages:
    info, where = r.table(raw, "languages", where), f"{where}languages."
    codes, default = r.table(info, "codes", where), info.get("default_source")
    languages = Languages(
        codes={code: r.number(codes, code, f"{where}codes.") for code in codes},
        source=r.text(info, "source", where),
        target=r.text(info, "target", where),
        default_source=None if default is None else r.text(info, "default_source", where),
    )
    if languages.source not in (START, END, NO_SOURCE):
        r.problems.append(f"{where}source {languages.source!r} is unknown")
    if languages.target not in (FORCED_BOS, DECODER_START, SOURCE_START):
        r.problems.append(f"{where}target {languages.target!r} is unknown")
    return languages
