"""One request's work: the event loop waits for it, a model's thread does it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from seq2edge.runtime import Generation, GenerationConfig, Transcription
from seq2edge.runtime.speech.options import TranscriptionOptions

from .errors import ApiError, too_late

R = TypeVar("R")


class Job(Generic[R]):
    """Work that waits, runs, and ends with a result or an error; made in the event loop.

    Args:
        timeout: seconds that it may take, waiting included.

    Attributes:
        size: parts that wait and are counted (texts, recordings).
        started: when the first of them began to run (time.monotonic); None: not yet.
    """

    size = 1

    def __init__(self, timeout: float) -> None:
        self.created = time.monotonic()
        self.started: float | None = None
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._gone = False
        self.ended = False

    # In the event loop:

    async def result(self) -> R:
        """The result. A caller that is cancelled cancels the job.

        Raises:
            ApiError, Seq2EdgeError: why there is none.
        """
        try:
            while True:
                kind, value = await self._next()
                if kind == "end":
                    found: R = value
                    return found
        finally:
            self.cancel()

    async def pieces(self) -> AsyncIterator[tuple[str, Any]]:
        """("piece", what became final) as long as there are any, then ("end", the result)."""
        try:
            while True:
                kind, value = await self._next()
                yield kind, value
                if kind == "end":
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._gone = True

    async def _next(self) -> tuple[str, Any]:
        left = self.created + self._timeout - time.monotonic()
        try:
            # A little later than the thread, which asks once a step.
            kind, value = await asyncio.wait_for(self._events.get(), max(0.0, left) + 1)
        except asyncio.TimeoutError:
            raise too_late(self._timeout) from None
        if kind == "error":
            raise value
        return kind, value

    # On the model's thread:

    @property
    def abandoned(self) -> bool:
        """Whether the work is to be left: nobody waits for it, it is too late, or it has ended."""
        return self.ended or self._gone or self.is_late

    @property
    def gone(self) -> bool:
        return self._gone

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.created + self._timeout

    def give(self, piece: Any) -> None:
        """A part of the result that is final."""
        self._put("piece", piece)

    def finish(self, result: R) -> None:
        """The result; the job has ended."""
        if not self.ended:
            self.ended = True
            self._put("end", result)

    def fail(self, error: Exception) -> None:
        """There is none; the job has ended."""
        if not self.ended:
            self.ended = True
            self._put("error", error)

    def leave(self) -> None:
        """End a job that is abandoned."""
        self.fail(too_late(self._timeout) if self.is_late else ApiError(499, "the client has gone"))

    def _put(self, kind: str, value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, value))


class TextJob(Job[list[list[Generation]]]):
    """Texts to generate from: the results of each.

    Args:
        texts: the sources.
        config: how to decode.
        stream: whether pieces are wanted, of the only text.
    """

    def __init__(
        self, texts: Sequence[str], config: GenerationConfig, *, stream: bool, timeout: float
    ) -> None:
        super().__init__(timeout)
        self.config = config
        self.stream = stream
        self.items = [TextItem(self, text, index) for index, text in enumerate(texts)]
        self.size = len(self.items)
        self._results: dict[int, list[Generation]] = {}

    def done(self, index: int, results: list[Generation]) -> None:
        """The results of one text; those of the last end the job."""
        self._results[index] = results
        if len(self._results) == self.size:
            self.finish([self._results[place] for place in range(self.size)])


@dataclass(eq=False)
class TextItem:
    """One text of a job: what waits, and what becomes a row of a batch."""

    job: TextJob
    text: str
    index: int
    #: Of the source, once it is tokenized.
    source_tokens: int = field(default=0)


class SpeechJob(Job[Transcription]):
    """A recording to transcribe; pieces are its segments.

    Args:
        audio: a binary file that can seek; the caller closes it.
        options: how to transcribe.
    """

    def __init__(self, audio: Any, options: TranscriptionOptions, *, timeout: float) -> None:
        super().__init__(timeout)
        self.audio = audio
        self.options = options
        self.items = [self]
        #: What the thread has open: the audio and its segments.
        self.opened: Any = None
        self.stream: Any = None

    @property
    def job(self) -> SpeechJob:
        return self
