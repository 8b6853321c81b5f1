"""A list of sources, shared out among workers: a thread each, over one backend's weights.

Sessions of ONNX Runtime may be run by several threads at once, so nothing is held twice. With
one thread in an operator, workers wait for each other at nothing, and what the host does for one
(candidates of beams, bookkeeping) runs beside another's graphs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from ..errors import InputError
from .batch import Results
from .continuous import ContinuousDecoder, Ticket
from .prepared import PreparedCall
from .validation import is_integer


def threads_of_worker(num_threads: int | None, num_workers: int) -> int | None:
    """Threads within an operator of each of so many workers; None: the backend chooses.

    Raises:
        InputError: ``num_workers`` is no integer of at least 1.
    """
    if not is_integer(num_workers) or num_workers < 1:
        raise InputError(f"num_workers must be an integer of at least 1, not {num_workers!r}")
    if num_threads is not None or num_workers == 1:
        return num_threads
    return max(1, len(os.sched_getaffinity(0)) // num_workers)


class SharedList:
    """The sources of one call on their way through several decoders.

    Args:
        decoders: one for each worker.
        call: as prepared.
        order: its sources, in the order in which they are begun.
        progress: told how many are done, by one worker at a time.
        cancelled: polled by each worker once a step.
    """

    def __init__(
        self,
        decoders: Sequence[ContinuousDecoder],
        call: PreparedCall,
        order: Sequence[int],
        progress: Callable[[int, int], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._decoders = decoders
        self._progress, self._cancelled = progress, cancelled
        self._interrupted, self._stopped = False, False
        self._tickets = [Ticket(call, number, lambda: self._interrupted) for number in order]
        # Dealt like cards: sources of all lengths for each, so that all end at about one time.
        for place, ticket in enumerate(self._tickets):
            decoders[place % len(decoders)].add(ticket)
        self._done, self._lock = 0, threading.Lock()

    def run(self) -> Results:
        """The sequences of each source, in the call's order.

        Raises:
            Exception: a source's own error, or the engine's; the other workers stop.
        """
        if len(self._decoders) == 1:
            self._work(self._decoders[0])
        else:
            self._run_threads()
        ordered = sorted(self._tickets, key=lambda ticket: ticket.number)
        return [ticket.sequences for ticket in ordered]

    def _run_threads(self) -> None:
        # Here: who has one worker does not wait for the import.
        from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

        with ThreadPoolExecutor(len(self._decoders), "seq2edge-worker") as pool:
            futures = [pool.submit(self._work, decoder) for decoder in self._decoders]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # an error, or Ctrl-C: what still runs ends after its step
                self._stopped = True
        for future in futures:
            future.result()

    def _work(self, decoder: ContinuousDecoder) -> None:
        while not self._stopped:
            while decoder.has_room and self._take_over(decoder):
                pass
            if decoder.idle:
                return
            if self._cancelled is not None and self._cancelled():
                self._interrupted = True
            ended = decoder.step()
            for ticket in ended:
                if ticket.error is not None:
                    raise ticket.error
            if ended:
                self._count(len(ended))

    def _take_over(self, decoder: ContinuousDecoder) -> bool:
        """Let a worker with free rows have a source that waits for another one."""
        for other in self._decoders:
            ticket = None if other is decoder else other.give_up()
            if ticket is not None:
                decoder.add(ticket)
                return True
        return False

    def _count(self, ended: int) -> None:
        with self._lock:
            self._done += ended
            if self._progress is not None:
                self._progress(self._done, len(self._tickets))
