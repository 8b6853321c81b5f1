"""Text pieces that are final, from tokens that arrive one by one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..generation.result import Generation

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Gives out text as soon as no later token can change it.

    A word is held back until something follows it, because the next token may lengthen it or
    a tokenizer's clean-up may join what follows to it; so is a character of which bytes are
    missing. Scripts without spaces are given out character by character.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._given = ""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that has become final, given all tokens so far."""
        settled = token_ids[: self._tokenizer.settled(token_ids)]
        text = self._decode(settled).rstrip(_REPLACEMENT)
        return self._give(text[: _final_length(text)])

    def finish(self, token_ids: Sequence[int]) -> str:
        """The rest, when no token follows."""
        text = self._decode(token_ids)
        if not text.startswith(self._given):  # what was given cannot be taken back
            pairs = enumerate(zip(text, self._given, strict=False))
            self._given = text[: next((place for place, (a, b) in pairs if a != b), len(text))]
        return self._give(text)

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip)

    def _give(self, text: str) -> str:
        if not text.startswith(self._given):
            return ""  # a tokenizer that rewrites what it wrote: wait until it settles
        piece = text[len(self._given) :]
        self._given = text
        return piece


def _final_length(text: str) -> int:
    """Up to the end of the last word that something follows."""
    for place in range(len(text) - 1, -1, -1):
        if text[place].isspace():
            return place
        # Ideographs and kana are words of their own ("Lo": letters without case).
        if place < len(text) - 1 and _stands_alone(text[place]):
            return place + 1
    return 0


def _stands_alone(letter: str) -> bool:
    import unicodedata  # here: a megabyte of tables, for streams alone

    return unicodedata.east_asian_width(letter) in "WF" and unicodedata.category(letter) == "Lo"


class TextStream(Iterator[str]):
    """Text pieces of one generation; joined they are its text.

    Attributes:
        result: the whole :class:`.Generation`, once the pieces are exhausted.
    """

    result: Generation | None

    def __init__(self, detokenizer: Detokenizer, steps: Iterator[Generation]) -> None:
        self.result = None
        self._pieces = self._run(detokenizer, steps)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generating. ``result`` stays None."""
        self._pieces.close()

    def _run(
        self, detokenizer: Detokenizer, steps: Iterator[Generation]
    ) -> Generator[str, None, None]:
        last = None
        for last in steps:
            if last.finish_reason is None:
                piece = detokenizer.push(last.token_ids)
                if piece:
                    yield piece
        if last is not None:
            self.result = last
            piece = detokenizer.finish(last.token_ids)
            if piece:
                yield piece
