"""What two hypotheses of live audio agree on: the part of a text that will not change any more.

Source: local agreement, Macháček et al. 2023, "Turning Whisper into Real-Time Transcription
System".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: Languages that are written without spaces: a word may end after any character.
_WITHOUT_SPACES = frozenset(("zh", "ja", "th", "lo", "my", "yue"))

#: Signs that may stand before the rest of a word.
_WITHIN_WORDS = "'\u2019-"


class Agreement:
    """Finds agreement of token sequences about the same audio, to the end of a word.

    Args:
        text_of: tokens to their text.
        first_control: tokens from this one on are no text but timestamps, which may differ.
        language: code of the language that is written.
    """

    def __init__(
        self, text_of: Callable[[Sequence[int]], str], first_control: int, language: str | None
    ) -> None:
        self._text_of = text_of
        self._first_control = first_control
        self._spaced = language not in _WITHOUT_SPACES

    def length(self, previous: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of ``tokens`` stand: those up to the last whole word of both.

        Punctuation at the very end of ``tokens`` waits for what follows: a sentence that is not
        over is often ended by the end of the audio.
        """
        before = [token for token in previous if token < self._first_control]
        places = [place for place, token in enumerate(tokens) if token < self._first_control]
        same = 0
        while same < min(len(before), len(places)) and before[same] == tokens[places[same]]:
            same += 1
        words = [tokens[place] for place in places]
        if same == len(words):
            while same and not _has_word(self._text_of(words[same - 1 : same])):
                same -= 1
        while same and not self._ends_word(words, same):
            same -= 1
        return places[same - 1] + 1 if same else 0

    def _ends_word(self, words: list[int], count: int) -> bool:
        """Whether a word ends after the first ``count`` tokens."""
        if self._text_of(words[:count]).endswith("\ufffd"):  # within a character
            return False
        if count == len(words) or not self._spaced:
            return True
        following = self._text_of(words[count : count + 1])
        return following.startswith(" ") or not _has_word(following.strip(_WITHIN_WORDS))


def _has_word(text: str) -> bool:
    """Whether it is more than punctuation."""
    return any(character.isalnum() or character == "\ufffd" for character in text)


def end_seconds(
    tokens: Sequence[int], count: int, duration: float, begin: int | None, step: float
) -> float:
    """About where in a window of ``duration`` seconds the first ``count`` tokens end.

    Text is taken to be spoken evenly between timestamps.

    Args:
        begin: the timestamp of 0 seconds, ``step`` seconds before the next; None: there are none.
    """
    before, after = (0, 0.0), (len(tokens), duration)
    for place, token in enumerate(tokens):
        if begin is None or token < begin:
            continue
        seconds = min((token - begin) * step, duration)
        if place < count:
            before = (place, seconds)
        else:
            after = (place, seconds)
            break
    share = (count - before[0]) / max(1, after[0] - before[0])
    return before[1] + min(1.0, share) * (after[1] - before[1])
