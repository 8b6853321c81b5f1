"""Models in asyncio: a call runs on a thread, and ends when its task is cancelled.

The event loop is never held up by a model. Cancellation is honest: the call stops at its next step,
and the task ends only after the thread has let go of the model.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, TypeVar

from .text.detokenizer import TextStream

if TYPE_CHECKING:
    from .generation.result import Generation

T = TypeVar("T")


async def run_in_thread(call: Callable[[], T], stop: Callable[[], None]) -> T:
    """The result of ``call()``, which runs on a thread of the event loop's pool.

    When the task is cancelled, ``stop()`` is called, which must make ``call`` return soon; the
    cancellation goes on when it has.
    """
    import asyncio  # here: whoever does not use it need not load sockets and SSL

    work = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # nobody else asks for it
        raise


class AsyncTextStream(AsyncIterator[str]):
    """Text pieces of one generation; joined they are its text.

    The model works while a piece is awaited, and not in between.

    Args:
        start: begins the generation, which asks its argument once a step whether it is to end.

    Attributes:
        result: the whole :class:`.Generation`, once the pieces are exhausted.
    """

    result: Generation | None

    def __init__(self, start: Callable[[Callable[[], bool]], TextStream]) -> None:
        self.result = None
        self._start = start
        self._stream: TextStream | None = None
        self._stopped = threading.Event()

    async def __anext__(self) -> str:
        piece = await run_in_thread(self._next, self._stopped.set)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Stop generating. ``result`` stays None if there is none yet."""
        import asyncio

        self._stopped.set()
        if self._stream is not None:
            await asyncio.to_thread(self._stream.close)

    def _next(self) -> str | None:
        """The next piece; None: there is no other."""
        if self._stream is None:
            if self._stopped.is_set():
                return None
            self._stream = self._start(self._stopped.is_set)
        piece = next(self._stream, None)
        self.result = self._stream.result
        return piece
