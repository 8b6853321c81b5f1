"""One thread per bundle: takes what waits, in batches, and runs the model step by step."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from .errors import ApiError, OverloadedError
from .metrics import ModelMetrics
from .settings import Limits

_log = logging.getLogger(__name__)

#: Of the mean duration of a request, what the newest one counts.
_NEWEST = 0.2


class Item(Protocol):
    """A part of a job that waits and runs by itself."""

    @property
    def job(self) -> Any: ...


class Runner(Protocol):
    """What a worker drives. All of it is called by the worker's thread."""

    @property
    def room(self) -> int:
        """How many items more it can take now."""
        ...

    @property
    def running(self) -> int:
        """Items that it has not ended yet."""
        ...

    @property
    def gathers(self) -> bool:
        """Whether those that come later wait for those that run, so that company is waited for."""
        ...

    def add(self, items: Sequence[Any]) -> None:
        """Begin with items; those that cannot be taken fail by themselves."""
        ...

    def step(self) -> None:
        """Go on with all of them, for as short as can be."""
        ...

    def abort(self, error: Exception) -> None:
        """End all of them with an error and be as new."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class Worker:
    """A bounded queue and the thread that empties it.

    Args:
        name: of the bundle.
        runner: runs what it is given.
        limits: of the queue, and how long to wait for company.
        metrics: are counted up.
    """

    def __init__(self, name: str, runner: Runner, limits: Limits, metrics: ModelMetrics) -> None:
        self.name = name
        self._runner = runner
        self._limits = limits
        self._metrics = metrics
        self._condition = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._stopped = False
        self._seconds = 0.5  # of a request, the mean
        self._thread = threading.Thread(target=self._run, name=f"model {name}", daemon=True)
        metrics.queue_length.set_function(lambda: len(self._waiting))
        metrics.running.set_function(lambda: runner.running)

    # In the event loop:

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_full(self) -> bool:
        """Whether not even the smallest job would be taken."""
        return len(self._waiting) >= self._most

    @property
    def _most(self) -> int:
        """Items that may wait: beside those of the queue, those that the next step begins with."""
        return self._limits.max_queue + max(0, self._runner.room)

    def submit(self, job: Any) -> None:
        """Let a job wait.

        Raises:
            OverloadedError: there are too many before it.
            ApiError: it has more items than may ever wait.
        """
        if job.size > self._limits.max_queue:
            most = self._limits.max_queue
            raise ApiError(413, f"the request has {job.size} texts, and {most} may wait here")
        with self._condition:
            if len(self._waiting) + job.size > self._most:
                raise self.refuse()
            self._waiting.extend(job.items)
            self._condition.notify()

    def refuse(self) -> OverloadedError:
        """The error of a full queue, counted, with the time that half of it is likely to take."""
        self._metrics.rejected.inc()
        rounds = len(self._waiting) / self._limits.max_batch / 2
        return OverloadedError(self.name, min(60, max(1, math.ceil(rounds * self._seconds))))

    def stop(self, timeout: float) -> None:
        """End the thread, which leaves what still waits, and free the model."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if not self._thread.is_alive():
            self._runner.close()

    # On the thread:

    def _run(self) -> None:
        while self._wait():
            items: list[Any] = []
            try:
                items = self._take()
                if items:
                    self._runner.add(items)
                if self._runner.running:
                    self._metrics.batch_size.observe(self._runner.running)
                    self._runner.step()
            except BaseException as error:  # a bug, or a library's panic: the next may work
                _log.exception("the model %s failed", self.name)
                failure = error if isinstance(error, Exception) else RuntimeError(str(error))
                for item in items:
                    item.job.fail(failure)
                self._runner.abort(failure)

    def _wait(self) -> bool:
        """Wait for work, and for company of the first item; False: the end."""
        with self._condition:
            while not (self._waiting or self._runner.running or self._stopped):
                self._condition.wait()
            if self._stopped:
                return False
            if self._runner.gathers and not self._runner.running:
                until = self._waiting[0].job.created + self._limits.batch_wait
                while len(self._waiting) < self._limits.max_batch:
                    left = until - time.monotonic()
                    if left <= 0 or self._stopped:
                        break
                    self._condition.wait(left)
            return True

    def _take(self) -> list[Any]:
        """The items that there is room for, in the order of their arrival."""
        taken: list[Any] = []
        room = self._runner.room
        with self._condition:
            while self._waiting and len(taken) < room:
                item = self._waiting.popleft()
                if item.job.abandoned:
                    item.job.leave()
                    continue
                taken.append(item)
        now = time.monotonic()
        for item in taken:
            if item.job.started is None:
                item.job.started = now
                self._metrics.queue_seconds.observe(now - item.job.created)
        return taken

    def took(self, seconds: float) -> None:
        """A request has run for so long."""
        self._seconds += _NEWEST * (seconds - self._seconds)
