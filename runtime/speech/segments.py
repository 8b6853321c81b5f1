"""Decoded windows to segments: numbers, times, texts, words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .fallback import DecodedWindow, WindowDecoder
from .timestamps import Piece
from .transcription import Segment, Word
from .windows import Window, WindowReader


class SegmentMaker:
    """Makes the segments of one recording, in order.

    Args:
        reader, decoder: of the transcription.
        restored: from seconds of what was decoded to seconds of the recording.
    """

    def __init__(
        self,
        reader: WindowReader,
        decoder: WindowDecoder,
        *,
        restored: Callable[[float], float] | None = None,
    ) -> None:
        self._reader = reader
        self._decoder = decoder
        self._restored = restored
        self._count = 0

    def of_window(
        self,
        window: Window,
        found: DecodedWindow,
        pieces: Sequence[Piece],
        words: Sequence[Sequence[Word]] | None = None,
    ) -> list[Segment]:
        """The segments of ``pieces``; those without text are none.

        ``words`` of each piece have times in seconds of the window.
        """
        segments = []
        for number, piece in enumerate(pieces):
            text = self._decoder.text_of(piece.tokens)
            if not text.strip():
                continue
            segments.append(
                Segment(
                    id=self._count,
                    start=self._time(window, piece.start),
                    end=self._time(window, piece.end),
                    text=text,
                    tokens=list(piece.tokens),
                    avg_logprob=found.avg_logprob,
                    compression_ratio=found.compression_ratio,
                    no_speech_prob=found.no_speech_prob,
                    temperature=found.temperature,
                    words=None if words is None else self._placed(window, words[number]),
                )
            )
            self._count += 1
        return segments

    def _placed(self, window: Window, words: Sequence[Word]) -> list[Word]:
        return [
            Word(
                self._time(window, word.start),
                self._time(window, word.end),
                word.word,
                word.probability,
            )
            for word in words
        ]

    def _time(self, window: Window, seconds: float) -> float:
        """Seconds of the window as seconds of the recording, not beyond its end."""
        time = min(window.start * self._reader.frame_seconds + seconds, self._reader.duration)
        return round(time if self._restored is None else self._restored(time), 3)
