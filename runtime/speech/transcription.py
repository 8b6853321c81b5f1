"""What a caller gets: the transcription of a recording, its segments and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Word:
    """One word with its times.

    Attributes:
        start, end: seconds from the beginning of the recording.
        word: its text, with the space before it and the punctuation that belongs to it.
        probability: mean probability of its tokens, 0 to 1.
    """

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech between two timestamps that the model wrote.

    Attributes:
        id: its number in the recording, from 0.
        start, end: seconds from the beginning of the recording.
        text: with the space before it, where the language writes one.
        tokens: token ids, timestamps included; without the end token.
        avg_logprob: mean log-probability (natural logarithm) of the tokens of the window that the
            segment comes from, the end token included.
        compression_ratio: bytes of the window's text by what zlib makes of them; a text that
            repeats itself has a high one.
        no_speech_prob: the model's probability that the window holds no speech; None: the model
            has no such token.
        temperature: what the window was sampled with; 0: greedy or beam search.
        words: with ``word_timestamps``; else None.
    """

    id: int
    start: float
    end: float
    text: str
    tokens: list[int] = field(repr=False)
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None
    temperature: float
    words: list[Word] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Transcription:
    """The text of one recording.

    Attributes:
        text: of all segments, without white space at its ends.
        segments: in the order of time.
        language: code of the language that was spoken, as given or as detected; None: the model
            knows one language and no codes.
        language_probability: of ``language``, if it was detected.
        language_probabilities: of all languages, if it was detected.
        duration: seconds of audio.
    """

    text: str
    segments: list[Segment] = field(repr=False)
    language: str | None
    language_probability: float | None
    language_probabilities: Mapping[str, float] | None = field(repr=False)
    duration: float

    @property
    def words(self) -> list[Word]:
        """The words of all segments; none without ``word_timestamps``."""
        return [word for segment in self.segments for word in segment.words or ()]
