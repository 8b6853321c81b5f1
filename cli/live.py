"""Live audio on standard input, for ``transcribe --live``."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, BinaryIO, cast

from .texts import write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seq2edge.runtime.speech.streaming import LiveTranscription, StreamUpdate
    from seq2edge.runtime.speech.transcription import Segment

    Chunk = NDArray[np.float32]


def print_live(updates: LiveTranscription, form: str, as_json: bool) -> None:
    """Print text as it becomes final, or segments (subtitles), or updates (JSON); then the delay.

    Args:
        form: txt, srt, vtt or tsv.
    """
    delays: list[float] = []
    if as_json:
        for update in _noted(updates, delays):
            found = {
                "text": update.text,
                "pending": update.pending,
                "seconds": round(update.seconds, 3),
                "delay": None if update.delay is None else round(update.delay, 3),
            }
            write(json.dumps(found, ensure_ascii=False) + "\n")
    elif form == "txt":
        start = True
        for update in _noted(updates, delays):
            write(update.text.lstrip() if start else update.text)
            start = start and not update.text.strip()
        write("\n")
    else:
        from seq2edge.runtime.speech.formats import lines

        for part in lines(_segments(_noted(updates, delays)), form):
            write(part)
    if delays:
        mean = sum(delays) / len(delays)
        print(
            f"seq2edge: {updates.result.duration:.1f} s of audio; text was final {mean:.1f} s after"
            f" it was spoken, {max(delays):.1f} s at most",
            file=sys.stderr,
        )


class InBackground:
    """The same chunks, read by a thread: a microphone does not wait until a text is there.

    What has come meanwhile comes as one chunk. An error is raised here, where it stood there.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = chunks
        self._queue: SimpleQueue[Chunk | Exception | None] = SimpleQueue()

    def end(self) -> None:
        """No more chunks come after those that are here. A signal's handler may call it."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[Chunk]:
        import numpy as np

        Thread(target=self._read, daemon=True).start()
        while True:
            found = [self._queue.get()]
            while found[-1] is not None and not self._queue.empty():
                found.append(self._queue.get())
            audio = [item for item in found if isinstance(item, np.ndarray)]
            if audio:
                yield np.concatenate(audio)
            for item in found:
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    return

    def _read(self) -> None:
        try:
            for chunk in self._chunks:
                self._queue.put(chunk)
        except Exception as error:
            self._queue.put(error)
        self._queue.put(None)


def unbuffered(stream: BinaryIO) -> BinaryIO:
    """The same file, where it is one: a thread that waits for a buffer's file holds up the exit."""
    try:
        return cast("BinaryIO", io.FileIO(stream.fileno(), closefd=False))
    except io.UnsupportedOperation:  # bytes in memory
        return stream


@contextmanager
def at_interrupt(end: Callable[[], None]) -> Iterator[None]:
    """Within it the first Ctrl-C calls ``end``; the second one interrupts, as ever."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or before is None:
        yield
        return

    def handle(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        end()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _noted(updates: LiveTranscription, delays: list[float]) -> Iterator[StreamUpdate]:
    for update in updates:
        if update.delay is not None:
            delays.append(update.delay)
        yield update


def _segments(updates: Iterator[StreamUpdate]) -> Iterator[Segment]:
    for update in updates:
        yield from update.segments
