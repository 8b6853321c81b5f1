"""Text pieces that are final, from tokens that arrive one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..generation.batch import Hypothesis
    from ..generation.result import Generation

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Tokens that a push decodes, before fewer are tried.
_LONGEST_TAIL = 16


class Detokenizer:
    """Gives out text as soon as no later token can change it.

    A word is held back until something follows it, because the next token may lengthen it or
    a tokenizer's clean-up may join what follows to it; so is a character of which bytes are
    missing. Scripts without spaces are given out character by character. A push decodes the last
    tokens only, where the tokenizer can say that they do (:meth:`.Tokenizer.restart`).
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        #: All that was given out.
        self._pieces: list[str] = []
        self._longest_tail: float = _LONGEST_TAIL
        self._restart(0, "")

    def _restart(self, place: int, lead: str, held: str = "", edge: str = "") -> None:
        """Decode from a token on: all text is what is before it, ``edge`` and what follows.

        Args:
            place: the token's.
            lead: what the tokens from there on have added already.
            held: final text before ``edge`` that was not given out.
            edge: the last letter of what is not decoded again.
        """
        self._place, self._lead, self._held, self._edge = place, lead, held, edge
        #: What was given out of the text from ``edge`` on.
        self._given = ""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that has become final, given all tokens so far."""
        end = self._tokenizer.settled(token_ids, skip_special_tokens=self._skip)
        tail = token_ids[self._place : end]
        decoded = self._decode(tail)
        if not decoded.startswith(self._lead):  # it rewrites what it wrote: decode all from now on
            self._restart(0, "")
            self._given, self._longest_tail = "".join(self._pieces), math.inf
            return self.push(token_ids)
        text = self._edge + decoded[len(self._lead) :]
        final = text.rstrip(_REPLACEMENT)
        piece = self._give(final[: _final_length(final)])
        if len(tail) >= self._longest_tail and final == text and text.startswith(self._given):
            self._drop_tokens(tail, decoded, text)
        return piece

    def _drop_tokens(self, tail: Sequence[int], decoded: str, text: str) -> None:
        """Decode fewer tokens from now on, if what follows does not need them all."""
        place = self._tokenizer.restart(tail, skip_special_tokens=self._skip)
        if place:
            lead = self._decode(tail[place:])
            if lead and lead[-1] == decoded[-1:]:
                held = self._held + text[len(self._given) : -1]
                self._restart(self._place + place, lead, held, text[-1])

    def finish(self, token_ids: Sequence[int]) -> str:
        """The rest, when no token follows."""
        text, given = self._decode(token_ids), "".join(self._pieces)
        if text.startswith(given):
            return text[len(given) :]
        # What was given cannot be taken back.
        pairs = enumerate(zip(text, given, strict=False))
        return text[next((place for place, (a, b) in pairs if a != b), len(text)) :]

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip)

    def _give(self, text: str) -> str:
        if len(text) <= len(self._given) or not text.startswith(self._given):
            return ""  # a tokenizer that rewrites what it wrote: wait until it settles
        piece = self._held + text[len(self._given) :]
        self._held, self._given = "", text
        self._pieces.append(piece)
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

    Args:
        detokenizer: of this generation alone.
        steps: the sequence after each step, which may be one that grows.
        result_of: what the caller gets of the last one.

    Attributes:
        result: the whole :class:`.Generation`, once the pieces are exhausted.
    """

    result: Generation | None

    def __init__(
        self,
        detokenizer: Detokenizer,
        steps: Iterator[Hypothesis],
        result_of: Callable[[Hypothesis], Generation],
    ) -> None:
        self.result = None
        self._pieces = self._run(detokenizer, steps, result_of)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generating. ``result`` stays None."""
        self._pieces.close()

    def _run(
        self,
        detokenizer: Detokenizer,
        steps: Iterator[Hypothesis],
        result_of: Callable[[Hypothesis], Generation],
    ) -> Generator[str, None, None]:
        last = None
        for last in steps:
            if last.finish_reason is None:
                piece = detokenizer.push(last.token_ids)
                if piece:
                    yield piece
        if last is not None:
            self.result = result_of(last)
            piece = detokenizer.finish(last.token_ids)
            if piece:
                yield piece
