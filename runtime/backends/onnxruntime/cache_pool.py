"""Caches that were released, with the steps that are bound to them, for the next call.

Binding a step to the graph takes as long as several steps of a small model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable

from ..base import RowSlotCache
from ..step import Step

#: Larger caches, and caches of larger sources, are bound anew: their steps take long enough.
LARGEST_BYTES = 4 << 20
#: Kept at most, of all shapes.
_MOST_BYTES = 16 << 20


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

    @property
    @abstractmethod
    def shape_key(self) -> Hashable:
        """The same for caches with the same shapes."""

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    def step(
        self,
        num_tokens: int,
        *,
        feed_back: bool = False,
        vocab_size: int | None = None,
        logsumexp: bool = False,
        first_scored: int = 0,
    ) -> Step:
        def make() -> Step:
            return super(PooledCache, self).step(
                num_tokens,
                feed_back=feed_back,
                vocab_size=vocab_size,
                logsumexp=logsumexp,
                first_scored=first_scored,
            )

        key = num_tokens, feed_back, vocab_size, logsumexp, first_scored
        return make() if self._pool is None else self._steps.take(key, make)

    def release(self) -> None:
        if self._pool is not None:
            self._steps.give_back()
            self._pool.give(self)

    def forget_steps(self) -> None:
        super().forget_steps()
        self._steps.clear()


class CachePool:
    """Free caches by their shapes. Threads may share it: each cache is one caller's at a time."""

    def __init__(self) -> None:
        self._free: dict[Hashable, list[PooledCache]] = {}

    def take(self, key: Hashable) -> PooledCache | None:
        """A free cache of that key; the caller's until it is given back."""
        try:
            return self._free[key].pop()
        except (KeyError, IndexError):
            return None

    def give(self, cache: PooledCache) -> None:
        """Keep a cache that nobody uses any more, if it is small; too many make room for it."""
        if cache.nbytes > LARGEST_BYTES:
            return
        kept = sum(one.nbytes for several in list(self._free.values()) for one in several)
        if kept + cache.nbytes > _MOST_BYTES:
            self._free.clear()
        self._free.setdefault(cache.shape_key, []).append(cache)

    def clear(self) -> None:
        """Keep nothing."""
        self._free.clear()
