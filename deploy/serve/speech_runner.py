"""Recordings on a speech model: a segment of each in turn, so a long one holds up no short one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from seq2edge.runtime import SpeechModel
from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.errors import Seq2EdgeError

from .jobs import SpeechJob
from .metrics import ModelMetrics
from .settings import Limits


class SpeechRunner:
    """A :class:`.worker.Runner` of recordings.

    Args:
        model: is closed with it.
        limits: of recordings at once and of their length.
        metrics: are counted up.
    """

    def __init__(self, model: SpeechModel, limits: Limits, metrics: ModelMetrics) -> None:
        self._model, self._limits, self._metrics = model, limits, metrics
        self._running: deque[SpeechJob] = deque()

    #: Recordings are worked on one by one.
    gathers = False

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def room(self) -> int:
        return self._limits.max_recordings - len(self._running)

    def add(self, items: Sequence[SpeechJob]) -> None:
        for job in items:
            try:
                self._begin(job)
            except Seq2EdgeError as error:
                job.fail(error)

    def step(self) -> None:
        """Look for the next segment of the recording whose turn it is."""
        job = self._running.popleft()
        try:
            goes_on = self._advance(job)
        except Seq2EdgeError as error:
            job.fail(error)
            goes_on = False
        except BaseException:
            self._running.append(job)  # for abort
            raise
        if goes_on:
            self._running.append(job)
        else:
            _close(job)

    def abort(self, error: Exception) -> None:
        for job in self._running:
            job.fail(error)
            _close(job)
        self._running.clear()

    def close(self) -> None:
        self._model.close()

    def _begin(self, job: SpeechJob) -> None:
        rate = self._model.sampling_rate
        audio = open_audio(
            job.audio, target_sampling_rate=rate, max_seconds=self._limits.max_audio_seconds
        )
        try:
            job.stream = self._model.segments(audio, job.options, cancelled=lambda: job.abandoned)
        except BaseException:
            audio.close()
            raise
        job.opened = audio
        self._running.append(job)

    def _advance(self, job: SpeechJob) -> bool:
        segment = next(job.stream, None)
        if job.abandoned:
            job.leave()
            return False
        if segment is not None:
            job.give(segment)
            return True
        found = job.stream.result
        self._metrics.audio_seconds.inc(found.duration)
        self._metrics.generated_tokens.inc(sum(len(s.tokens) for s in found.segments))
        job.finish(found)
        return False


def _close(job: SpeechJob) -> None:
    job.stream.close()
    job.opened.close()
