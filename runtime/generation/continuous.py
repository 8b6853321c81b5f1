"""Continuous batching: a source that ends makes room for the next one, and nobody waits for it.

Every source has a search of its own, so options may differ between those that run together. Rows
of one width (beams, or samples) share a cache and are advanced in one step
(:mod:`..kv_cache.rows`).
The encoder is run for a newcomer alone, so that its results do not depend on who comes with it, not
even where int8 inputs have one scale for all of a run; or, for a list, for several of a length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.base import EncoderOutput, Ids, RowBackend
from ..errors import InputError
from ..kv_cache import StepOutputs
from ..kv_cache.rows import RowKVCache
from .batch import GenerationBatch, Hypothesis, Results
from .beam import BeamSearch, Candidates, best_candidates
from .engine_limits import steps_after
from .greedy import GreedySearch
from .prepared import PreparedCall
from .source import Source


class Search(Protocol):
    """A strategy that is advanced from outside: :class:`.GreedySearch`, :class:`.BeamSearch`."""

    @property
    def done(self) -> bool: ...

    def ends_without_step(self) -> bool: ...

    def take(self, outputs: StepOutputs) -> tuple[Ids, Ids | None]: ...

    def results(self) -> Results: ...


@dataclass(eq=False)
class Ticket:
    """One source of a prepared call: it waits, then runs, then is done.

    Attributes:
        call: what it is a source of.
        number: its place in that.
        cancelled: polled once a step; None: never.
        sequences: what it has come to: of beam search nothing before the end.
        error: why it has failed; None: it has not.
        done: whether it has ended, be it by an error.
        encoded: the encoder's output with this source in it, and its place there; None: before
            its encoder's run, and when it has a row.
    """

    call: PreparedCall
    number: int = 0
    cancelled: Callable[[], bool] | None = None
    sequences: list[Hypothesis] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False
    encoded: tuple[EncoderOutput, int] | None = None

    def __len__(self) -> int:
        """Source positions."""
        return len(self.call.sources[self.number])

    def source(self) -> Source:
        return self.call.sources[self.number]


#: Makes the batch of a ticket's source alone.
MakeBatch = Callable[[Ticket, EncoderOutput], GenerationBatch]
#: Runs the encoder.
Encode = Callable[[Sequence[Source]], EncoderOutput]

#: Positions that the encoder runs at once, where it runs for several sources.
_MOST_POSITIONS = 512


class _Width(NamedTuple):
    """What rows that share a step have in common: W, and whether they are beams."""

    width: int
    beams: bool


@dataclass(frozen=True)
class _Placed:
    """Stands for an encoder's output that a row of a cache holds."""

    batch_size: int = 1

    def numpy(self, name: str) -> NDArray[np.float32]:
        raise KeyError(name)


@dataclass
class _Row:
    """A running source, with what its next step runs: [1, W] each."""

    ticket: Ticket
    search: Search
    tokens: Ids
    parents: Ids | None


@dataclass
class _Group:
    """The rows of one cache, in its order."""

    cache: RowKVCache
    rows: list[_Row] = field(default_factory=list)


class ContinuousDecoder:
    """Decodes sources that come at any time, some of them at once.

    ``add`` and ``drop`` may be called from any thread, ``step`` from one at a time.

    Args:
        backend: its caches replace rows.
        encode: runs the encoder.
        make_batch: from a ticket, and what the encoder gave, to its batch.
        max_rows: sources that run at once, at most; the others wait in the order they came.
        encodes_ahead: sources that are encoded together, at most: those that wait next, if they
            are of nearly one length.
    """

    def __init__(
        self,
        backend: RowBackend,
        encode: Encode,
        make_batch: MakeBatch,
        max_rows: int,
        encodes_ahead: int = 1,
    ) -> None:
        self._backend = backend
        self._encode, self._encodes_ahead = encode, encodes_ahead
        self._make_batch = make_batch
        self._max_rows = max_rows
        self._waiting: deque[Ticket] = deque()
        self._groups: dict[_Width, _Group] = {}

    @property
    def running(self) -> int:
        """Sources that have a row."""
        return sum(len(group.rows) for group in self._groups.values())

    @property
    def waiting(self) -> int:
        """Sources that wait for a row."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._waiting and not self.running

    @property
    def has_room(self) -> bool:
        """Whether there are more rows than sources for them."""
        return len(self._waiting) + self.running < self._max_rows

    def add(self, ticket: Ticket) -> None:
        """Let a source wait for its turn."""
        self._waiting.append(ticket)

    def drop(self, ticket: Ticket) -> bool:
        """Forget a source that still waits; False: it does not."""
        try:
            self._waiting.remove(ticket)
        except ValueError:
            return False
        return True

    def give_up(self) -> Ticket | None:
        """Forget the source that has to wait longest, for another decoder; None: none waits."""
        try:
            return self._waiting.pop()
        except IndexError:
            return None

    def step(self) -> list[Ticket]:
        """Give free rows to those that wait, then advance all rows by one token.

        A source's own error, of its encoder's run or of its options, ends that source; one of a
        step ends those that ran in it.

        Returns:
            The tickets that are done now. The sequences of those that run have grown.
        """
        done = self._admit()
        for group in self._groups.values():
            done += self._advance(group)
            if not group.rows and not self._waiting:
                group.cache.clear()
        return done

    def clear(self) -> list[Ticket]:
        """Forget all sources, and free the caches: those that were not done."""
        left = [row.ticket for group in self._groups.values() for row in group.rows]
        self._groups.clear()
        while self._waiting:
            left.append(self._waiting.popleft())
        return left

    def _admit(self) -> list[Ticket]:
        done = []
        free = self._max_rows - self.running
        while self._waiting and free:
            try:
                ticket = self._waiting.popleft()
            except IndexError:  # it was dropped meanwhile
                break
            try:
                started = self._start(ticket, min(free - 1, len(self._waiting)))
            except Exception as error:  # a caller's processor may raise anything
                ticket.error, ticket.done, started = error, True, False
            free -= started
            if ticket.done:
                done.append(ticket)
        return done

    def _start(self, ticket: Ticket, others: int) -> bool:
        """Whether the source has taken a row; else it is done."""
        encoded, index = self._encoded(ticket)
        ticket.encoded = None
        batch = replace(self._make_batch(ticket, encoded), encoded=_Placed())
        config = batch.config
        beams = config.num_beams > 1
        search: Search = BeamSearch(batch) if beams else GreedySearch(batch)
        if search.done or search.ends_without_step():
            _finish(ticket, search)
            return False
        key = _Width(config.num_beams if beams else config.num_return_sequences, beams)
        group = self._groups.get(key) or self._new_group(key, batch.vocab_size)
        group.cache.add(
            encoded,
            index,
            batch.prompts[0],
            new_tokens=steps_after(batch.new_tokens, len(batch.forced)),
            positions=len(ticket),
            max_num_tokens=batch.max_num_tokens,
            others=others,
        )
        if not beams:
            (ticket.sequences,) = search.results()
        parents = np.arange(key.width)[None] if beams else None
        row = _Row(ticket, search, np.zeros((1, key.width), np.int64), parents)
        group.rows.append(row)
        return True

    def _encoded(self, ticket: Ticket) -> tuple[EncoderOutput, int]:
        """What the encoder gives for a source, and its place in it."""
        if ticket.encoded is not None:
            return ticket.encoded
        most = min(self._encodes_ahead, _MOST_POSITIONS // max(1, len(ticket)))
        together = [ticket]
        for other in list(self._waiting)[: max(0, most - 1)]:
            # The longest one leads; what is much shorter would be padding for the most part.
            if other.encoded is not None or not 3 * len(ticket) <= 4 * len(other) <= 4 * len(
                ticket
            ):
                break
            together.append(other)
        try:
            encoded = self._encode([one.source() for one in together])
        except InputError:  # together they would take more memory than there is
            if len(together) == 1:
                raise
            together = [ticket]
            encoded = self._encode([ticket.source()])
        for index, one in enumerate(together):
            one.encoded = encoded, index
        return encoded, 0

    def _new_group(self, key: _Width, vocab_size: int) -> _Group:
        cache = RowKVCache(
            self._backend,
            width=key.width,
            max_rows=self._max_rows,
            vocab_size=vocab_size,
            logsumexp=key.beams,
        )
        self._groups[key] = _Group(cache)
        return self._groups[key]

    def _advance(self, group: _Group) -> list[Ticket]:
        done = [
            self._leave(group, place)
            for place in reversed(range(len(group.rows)))
            if group.rows[place].search.ends_without_step()
        ]
        if not group.rows:
            return done
        rows = group.rows
        tokens = np.concatenate([row.tokens for row in rows])
        parents = [row.parents for row in rows if row.parents is not None]
        try:
            group.cache.forward(tokens, np.concatenate(parents) if parents else None)
        except Exception as error:
            group.rows = []
            group.cache.clear()
            for row in rows:
                row.ticket.error, row.ticket.done = error, True
            return [*done, *(row.ticket for row in rows)]
        found = _best_of_beams(group)
        for place, row in enumerate(rows):
            try:
                if place in found and isinstance(row.search, BeamSearch):
                    row.tokens, row.parents = row.search.take_up([found[place]])
                else:
                    row.tokens, row.parents = row.search.take(group.cache.outputs(place))
                if row.search.done:
                    _finish(row.ticket, row.search)
            except Exception as error:
                row.ticket.error, row.ticket.done = error, True
        return done + [
            self._leave(group, place)
            for place in reversed(range(len(rows)))
            if rows[place].ticket.done
        ]

    def _leave(self, group: _Group, place: int) -> Ticket:
        """Take a row out; the last one comes to its place."""
        group.cache.remove(place)
        row, last = group.rows[place], group.rows.pop()
        if last is not row:
            group.rows[place] = last
        if not row.ticket.done:
            _finish(row.ticket, row.search)
        return row.ticket


def _best_of_beams(group: _Group) -> dict[int, Candidates]:
    """What may follow in the rows whose options edit no score, by place: all at once."""
    plain = {
        place: row.search
        for place, row in enumerate(group.rows)
        if isinstance(row.search, BeamSearch) and row.search.plain
    }
    outputs = group.cache.all_outputs()
    if not plain or outputs.logits is None or outputs.logsumexp is None:
        return {}
    logits, normalizer, places = outputs.logits, outputs.logsumexp, list(plain)
    if len(places) < len(logits):
        logits, normalizer = logits[places], normalizer[places]
    before = np.stack([search.scores for search in plain.values()])
    count = next(iter(plain.values())).count
    return dict(zip(places, best_candidates(logits, normalizer, before, count), strict=True))


def _finish(ticket: Ticket, search: Search) -> None:
    ticket.done = True
    try:
        (ticket.sequences,) = search.results()
    except Exception as error:  # the options together allow no result
        ticket.error = error
