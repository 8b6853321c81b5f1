"""Decoded windows to segments: numbers, times, texts, words."""

from __future__ import annotations

from collections.abc import Sequence

from .fallback import DecodedWindow, WindowDecoder
from .timeline import Timeline
from .timestamps import Piece
from .transcription import Segment, Word
from .windows import Window, WindowReader


class SegmentMaker:
    """Makes the segments of one recording, in order.

    Args:
        reader, decoder: of the transcription.
        timeline: of the recording; None: it is read as it is.
    """

    def __init__(
        self,
        reader: WindowReader,
        decoder: WindowDecoder,
        *,
        timeline: Timeline | None = None,
    ) -> None:
        self._reader = reader
        self._decoder = decoder
        self._timeline = timeline
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
            start = self._time(window, piece.start)
            segments.append(
                Segment(
                    id=self._count,
                    start=start,
                    # The last frame may be cut, and silence that is cut out lies between frames.
                    end=max(start, self._time(window, piece.end, is_end=True)),
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
            Word(*self._span(window, word.start, word.end), word.word, word.probability)
            for word in words
        ]

    def _span(self, window: Window, start: float, end: float) -> tuple[float, float]:
        if self._timeline is None:
            return self._time(window, start), self._time(window, end, is_end=True)
        before = window.start * self._reader.frame_seconds
        most = self._reader.duration
        return self._timeline.span(min(before + start, most), min(before + end, most))

    def _time(self, window: Window, seconds: float, *, is_end: bool = False) -> float:
        """Seconds of the window as seconds of the recording, not beyond its end."""
        time = min(window.start * self._reader.frame_seconds + seconds, self._reader.duration)
        if self._timeline is None:
            return round(time, 3)
        return self._timeline.seconds(time, is_end=is_end)
