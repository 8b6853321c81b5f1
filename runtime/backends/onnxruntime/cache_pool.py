"""Caches that were released, with the steps that are bound to them, for the next call.

Binding a step to the graph takes as long as several steps of a small model.
"""

from __future__ import annotations

import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar, cast

from ..base import RowSlotCache
from ..step import Step

#: Caches that take more with their steps and sources are bound anew: they take long enough.
LARGEST_BYTES = 4 << 20
#: Kept at most, of all shapes.
_MOST_BYTES = 16 << 20

Cache = TypeVar("Cache")


class SpareSteps:
    """The steps of one cache: those of this call, and those of earlier ones, which are bound."""

    def __init__(self) -> None:
        self._spare: dict[Hashable, list[Step]] = {}
        self._taken: list[tuple[Hashable, Step]] = []

    def take(self, key: Hashable, make: Callable[[], Step]) -> Step:
        """A cleared step of that key; ``make`` makes one where none is spare."""
        spare = self._spare.get(key)
        step = spare.pop() if spare else make()
        step.clear()
        self._taken.append((key, step))
        return step

    def give_back(self) -> None:
        """All that were taken are spare."""
        for key, step in self._taken:
            self._spare.setdefault(key, []).append(step)
        self._taken.clear()

    def __iter__(self) -> Iterator[Step]:
        for steps in self._spare.values():
            yield from steps
        yield from (step for _, step in self._taken)

    def clear(self) -> None:
        """Forget all steps."""
        self._spare.clear()
        self._taken.clear()


class PooledCache(RowSlotCache):
    """A cache that another call may have when it is released, with its steps.

    Args:
        pool: keeps it; None: nobody does.
    """

    def __init__(self, pool: CachePool | None) -> None:
        super().__init__()
        self._pool, self._steps = pool, SpareSteps()
        #: Of :attr:`nbytes`, once it was asked for; None: it has changed since.
        self._nbytes: int | None = None

    @property
    @abstractmethod
    def shape_key(self) -> Hashable:
        """The same for caches with the same shapes."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, that of its source and of its steps included."""
        if self._nbytes is None:
            self._nbytes = self._count_bytes()
        return self._nbytes

    @abstractmethod
    def _count_bytes(self) -> int: ...

    def step(
        self,
        num_tokens: int,
        *,
        feed_back: bool = False,
        vocab_size: int | None = None,
        logsumexp: bool = False,
        first_scored: int = 0,
        num_best: int | None = None,
    ) -> Step:
        def make() -> Step:
            self._nbytes = None
            return super(PooledCache, self).step(
                num_tokens,
                feed_back=feed_back,
                vocab_size=vocab_size,
                logsumexp=logsumexp,
                first_scored=first_scored,
                num_best=num_best,
            )

        key = num_tokens, feed_back, vocab_size, logsumexp, first_scored, num_best
        return make() if self._pool is None else self._steps.take(key, make)

    def release(self) -> None:
        if self._pool is not None:
            self._steps.give_back()
            self._pool.give(self)

    def forget_steps(self) -> None:
        super().forget_steps()
        self._steps.clear()
        self._nbytes = None


def weakly(cache: Cache) -> Cache:
    """The same cache, for a function that it keeps itself.

    Otherwise its memory would stay until Python looks for cycles: after each window of speech 5 to
    40 MB of keys and values, several windows of them.
    """
    return cast("Cache", weakref.proxy(cache))


class CachePool:
    """Free caches by their shapes. Threads may share it: each cache is one caller's at a time."""

    def __init__(self) -> None:
        self._free: dict[Hashable, list[tuple[int, PooledCache]]] = {}
        self._lock = threading.Lock()
        #: Bytes of all that is free.
        self.nbytes = 0

    def take(self, key: Hashable) -> PooledCache | None:
        """A free cache of that key; the caller's until it is given back."""
        with self._lock:
            free = self._free.get(key)
            if not free:
                return None
            size, cache = free.pop()
            self.nbytes -= size
            return cache

    def give(self, cache: PooledCache) -> None:
        """Keep a cache that nobody uses any more, if it is small; too many make room for it."""
        size = cache.nbytes
        if size > LARGEST_BYTES:
            return
        with self._lock:
            if self.nbytes + size > _MOST_BYTES:
                self._clear()
            self._free.setdefault(cache.shape_key, []).append((size, cache))
            self.nbytes += size

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._free.clear()
        self.nbytes = 0
