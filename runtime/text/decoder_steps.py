"""What a tokenizer.json's decoder is made of, and how far its steps look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: Cuts off the spaces at the ends of a text, as SentencePiece does.
END_SPACES = r"\A +| +\z"

#: Steps that look at a token, at whether it is the first or last one, or at a run of bytes.
_OF_TOKENS = {"BPEDecoder", "ByteFallback", "Metaspace", "Replace", "Strip", "WordPiece"}
#: Steps that make one text of all tokens.
_JOINING = {"ByteLevel", "Fuse"}


def decoder_steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All steps in their order.

    Args:
        decoder: its part of tokenizer.json; {}: there is none.
    """
    if decoder.get("type") == "Sequence":
        for part in decoder.get("decoders", []):
            yield from decoder_steps(part)
    elif decoder:
        yield decoder


def letters_looked_at(decoder: dict[str, Any]) -> frozenset[str] | None:
    """Letters that the steps over a whole text change, or look for; None: there is no telling.

    No replacement begins before any other letter and ends behind it, so what follows such a letter
    is decoded the same whatever is before it. The replacement character is one of the letters:
    behind it a character may lack bytes.

    Args:
        decoder: as in :func:`decoder_steps`.
    """
    letters, joined = {"\N{REPLACEMENT CHARACTER}"}, False
    for step in decoder_steps(decoder):
        kind, content, pattern = step.get("type"), step.get("content", ""), step.get("pattern")
        if kind == "Strip" and step.get("stop"):
            return None  # it fails on a text that is shorter than what it strips
        if not joined:
            if kind not in _OF_TOKENS | _JOINING:
                return None
            joined = kind in _JOINING
        elif kind == "Strip":
            letters |= set(content)
        elif kind == "Replace" and pattern == {"Regex": END_SPACES} and not content:
            letters.add(" ")
        elif kind == "Replace" and isinstance(pattern, dict) and "String" in pattern:
            letters |= {*pattern["String"], *content}
        elif kind != "Fuse":
            return None
    return frozenset(letters)
