"""Guesses of what comes next, from n-grams that occurred before."""

from __future__ import annotations

from collections.abc import Sequence

from ..backends.base import Ids

#: Tokens. In the worst case one step in so many runs a guess that is wrong.
_LONGEST_PAUSE = 16
#: Tokens of the longest n-gram that is looked up, however long a call allows: what matches so many
#: goes on the same way almost always, and all n-grams of a text take its length times this.
_LONGEST_NGRAM = 16
#: Tokens of the first guess: a wrong one costs what it is long.
_FIRST_LENGTH = 2


class NgramDrafter:
    """N-grams of one source and its output, and what followed each when it was last there.

    Args:
        source: the source's tokens.
        longest: tokens of the longest n-gram that is matched; longer matches are tried first.
        most: tokens of the longest guess.
    """

    def __init__(self, source: Sequence[int], longest: int, most: int) -> None:
        longest = min(longest, _LONGEST_NGRAM)
        self._longest = longest
        #: A single token says little of what follows; unless no more is asked for.
        self._shortest = min(2, longest)
        self._most = most
        #: Doubled by a guess that was right to its end, halved by one that was all wrong.
        self._length = min(most, _FIRST_LENGTH)
        #: After a guess that was all wrong no other is made for so many tokens; the number
        #: doubles each time, so that text with nothing to copy costs next to nothing.
        self._pause = 0
        self._waiting = 0
        self._source = list(source)
        self._output: list[int] = []
        #: N-gram to the place after it.
        self._in_source: dict[tuple[int, ...], int] = {}
        self._in_output: dict[tuple[int, ...], int] = {}
        #: Place in the source of the next token, while the output goes on as the source does.
        self._place: int | None = None
        for size in range(self._shortest, longest + 1):
            for end in range(size, len(self._source)):
                self._in_source[tuple(self._source[end - size : end])] = end

    def append(self, token: int) -> None:
        """Learn the next token of the output."""
        output, length = self._output, len(self._output)
        # N-grams that end before this token are now followed by something.
        for size in range(self._shortest, min(self._longest, length) + 1):
            self._in_output[tuple(output[-size:])] = length
        output.append(token)
        self._waiting -= 1
        if self._place is not None:
            follows = self._place < len(self._source) and self._source[self._place] == token
            self._place = self._place + 1 if follows else None

    def guess(self, most: int) -> list[int]:
        """What may come next: up to ``most`` tokens, often none."""
        count = min(most, self._length)
        if count < 1 or self._waiting > 0:
            return []
        if self._place is not None:
            return self._source[self._place : self._place + count]
        output = self._output
        for size in range(min(self._longest, len(output)), self._shortest - 1, -1):
            recent = tuple(output[-size:])
            place = self._in_source.get(recent)
            if place is not None:
                self._place = place
                return self._source[place : place + count]
            place = self._in_output.get(recent)
            if place is not None:
                # What repeats up to the very end is taken to go on repeating.
                repeated = output[place:]
                return (repeated * (1 + count // len(repeated)))[:count]
        return []

    def learn(self, guessed: int, right: int) -> None:
        """Adapt to how many of the ``guessed`` tokens were right, after ``append``."""
        if right:
            self._pause = 0
            longer = 2 * self._length if right == guessed else right + 1
            self._length = min(self._most, longer)
        elif guessed:
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause + 1)
            self._waiting = self._pause
            self._length = max(1, self._length // 2)


class NgramDrafters:
    """A :class:`NgramDrafter` for each source of a batch."""

    def __init__(self, sources: Sequence[Sequence[int]], longest: int, most: int) -> None:
        self._rows = [NgramDrafter(source, longest, most) for source in sources]

    def append(self, place: int, token: int) -> None:
        self._rows[place].append(token)

    def guess(self, most: Sequence[int]) -> list[list[int]]:
        return [row.guess(limit) for row, limit in zip(self._rows, most, strict=True)]

    def learn(self, place: int, guessed: int, right: int) -> None:
        self._rows[place].learn(guessed, right)

    def select_batch(self, rows: Ids) -> None:
        self._rows = [self._rows[row] for row in rows]
