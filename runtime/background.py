"""Work on a thread beside one's own, so that parts of a model load at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A call that runs on a thread while the body of ``with`` does something else.

    The thread has ended when the body is left. If the body fails, its error counts.

    >>> with Background(open_encoder) as encoder:
    ...     decoder = open_decoder()
    >>> encoder.result()

    Args:
        call: makes the result.
        discard: lets go of it where the body failed.
        apart: False: it runs before the body, on the same thread.
    """

    def __init__(
        self,
        call: Callable[[], T],
        discard: Callable[[T], object] = lambda _result: None,
        *,
        apart: bool = True,
    ) -> None:
        self._call, self._discard, self._apart = call, discard, apart
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Background[T]:
        if self._apart:
            self._thread.start()
        else:
            self._run()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._apart:
            self._thread.join()
        if error is not None:
            for result in self._results:
                self._discard(result)

    def result(self) -> T:
        """What the call gave, or its error; after the body of ``with``."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # whoever asks for the result gets it
            self._error = error
