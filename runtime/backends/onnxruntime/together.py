"""Two graphs that are opened at once."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

from .session import give_back_memory

A = TypeVar("A")
B = TypeVar("B")


def together(
    first: Callable[[], A], second: Callable[[], B], *, at_once: bool = True
) -> tuple[A, B]:
    """The results of both, of which ``first`` is called on a thread of its own.

    ONNX Runtime packs the weights of a session on one thread and lets go of Python's lock.

    Args:
        at_once: False: one after the other, with the memory of ``first`` given back between.

    Raises:
        BaseException: whatever one of them raises, ``second``'s before ``first``'s; both have
            ended then.
    """
    if not at_once:
        one = first()
        give_back_memory()
        return one, second()
    found: list[A] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            found.append(first())
        except BaseException as error:  # the caller raises it
            failed.append(error)

    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(call,), name="seq2edge-load"
    )
    thread.start()
    try:
        other = second()
    finally:
        thread.join()
    if failed:
        raise failed[0]
    return found[0], other
