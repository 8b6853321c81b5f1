"""Segments as they become final."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

from ..closing import ClosesOnExit
from .batched import batched
from .language import DetectedLanguage
from .sequential import Done, Recognition, sequential
from .transcription import Segment, Transcription

#: Called with the seconds of audio that are done and those of the recording.
SecondsProgress = Callable[[float, float], None]


class SegmentStream(ClosesOnExit):
    """An iterator of :class:`.Segment`; :meth:`SpeechModel.segments` makes it.

    Closing it (or leaving its ``with``) ends the transcription.

    Attributes:
        language, language_probability, duration: as of :class:`.Transcription`.
        detected: the detected language; None: it was given, or there was nothing to detect.
    """

    def __init__(
        self,
        recognition: Recognition,
        detected: DetectedLanguage | None,
        batch_size: int | None,
        progress: SecondsProgress | None,
        opened: ExitStack,
    ) -> None:
        self._reader = recognition.reader
        self.detected = detected
        english = None if recognition.speech.languages else "en"
        self.language = recognition.options.language or english
        self.language_probability = None
        if detected is not None:
            self.language = detected.language
            self.language_probability = detected.probability
        self._timeline = recognition.timeline
        self.duration = self._timeline.duration
        self._progress = progress
        self._opened = opened
        self._segments: list[Segment] = []
        if batch_size is None:
            steps = sequential(recognition, self.language)
        else:
            steps = batched(recognition, self.language, batch_size)
        self._next = self._run(steps)

    def __iter__(self) -> Iterator[Segment]:
        return self

    def __next__(self) -> Segment:
        segment = next(self._next)
        self._segments.append(segment)
        return segment

    @property
    def result(self) -> Transcription:
        """All segments so far as one transcription."""
        return Transcription(
            text="".join(segment.text for segment in self._segments).strip(),
            segments=list(self._segments),
            language=self.language,
            language_probability=self.language_probability,
            language_probabilities=None if self.detected is None else self.detected.probabilities,
            duration=self.duration,
        )

    def _run(self, steps: Iterator[Done]) -> Generator[Segment, None, None]:
        for done in steps:
            yield from done.segments
            if self._progress is not None:
                seconds = done.frame * self._reader.frame_seconds
                self._progress(self._timeline.seconds(seconds, is_end=True), self.duration)

    def close(self) -> None:
        """End the transcription and close the file. What is there stays."""
        self._next.close()
        self._opened.close()
