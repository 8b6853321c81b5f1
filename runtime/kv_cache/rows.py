"""Sequences that come and go: each row of the cache is a source's, for as long as it is decoded.

A step advances all live rows, whatever their lengths are: each has its own slots, positions and
mask, and the write index is per row already (docs/design.md, section 3). The live rows are the
first ones; the last one moves to the place of a row that leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backends.base import EncoderOutput, Ids, Proposals, RowBackend, RowSlotCache, Step
from .capacity import first_capacity, grown_capacity
from .slots import logsumexp_of, prefill

#: Slots that no hypothesis sees are won back when a row has so many: a step reads them, and moving
#: the others costs a few steps' reading of as many (T5-small, 16 rows of 4 beams: 0.06 ms a slot
#: and step, 1 ms to move all rows' slots).
_DEAD = 16

#: Numbers of rows whose steps stay bound.
_MOST_STEPS = 32

#: No token: the prompt of a row was run.
_NONE = -1


@dataclass
class RowOutputs:
    """What a step gave for one row; the next step overwrites it. See :class:`.StepOutputs`."""

    next_token_ids: Ids
    logits: NDArray[np.float32] | None
    logsumexp: NDArray[np.float32] | None
    proposals: Proposals | None = None
    best_token_ids: Ids | None = None

    def complete_logits(self) -> None:
        """They are those of all tokens."""


class RowKVCache:
    """``width`` hypotheses for each of a changing number of sources.

    Args:
        backend: its caches replace rows.
        width: W, hypotheses per source.
        max_rows: sources at once, at most.
        vocab_size: V.
        logsumexp: whether ``logsumexp`` is needed.

    Attributes:
        count: n, the live rows.
    """

    def __init__(
        self,
        backend: RowBackend,
        *,
        width: int,
        max_rows: int,
        vocab_size: int,
        logsumexp: bool,
    ) -> None:
        self._backend = backend
        self._width, self._max_rows = width, max_rows
        self._vocab_size, self._wants_logsumexp = vocab_size, logsumexp
        #: By row: slots taken, tokens so far, slots that it can need, source positions, and the
        #: last token of a prompt, where that is still to be run.
        self._used, self._lengths, self._needs, self._positions, self._first = np.zeros(
            (5, max_rows), np.int64
        )
        self._columns = np.arange(width)
        self.clear()

    @property
    def slots(self) -> int:
        """T, of each row."""
        return 0 if self._cache is None else self._cache.max_cache_len

    def clear(self) -> None:
        """Leave all rows and free the memory."""
        self.count = 0
        self._cache: RowSlotCache | None = None
        self._whole = self._new_whole(0, 0)
        self._logsumexp: NDArray[np.float32] | None = None
        #: The steps of the first n rows, by n.
        self._steps: dict[int, Step] = {}
        #: [n], whether a row's hypotheses are still one.
        self._shared: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def add(
        self,
        encoded: EncoderOutput,
        index: int,
        prompt: Sequence[int],
        *,
        new_tokens: int,
        positions: int,
        max_num_tokens: int | None = None,
        others: int = 0,
    ) -> None:
        """Give the next row to a source; the next step runs the last token of its prompt.

        Args:
            encoded: the encoder's output for it, and maybe for others.
            index: its place in that.
            prompt: what its hypotheses start with.
            new_tokens: tokens that may follow.
            positions: source positions.
            max_num_tokens: tokens of a prompt that are run at once, at most.
            others: how many sources are about to follow.
        """
        row, before = self.count, len(prompt) - 1
        self._needs[row] = before + self._width * new_tokens
        self._used[row] = self._lengths[row] = before
        self._positions[row], self._first[row] = positions, prompt[-1]
        cache = self._fitted(encoded, others)
        cache.place(row, encoded, index)
        mask = self._whole.attention_mask[row]
        mask[:] = False
        mask[..., :before] = True
        if before:
            prefill(cache.rows(row, 1), [prompt[:-1]], None, max_num_tokens=max_num_tokens)
        self.count += 1

    def remove(self, row: int) -> None:
        """Leave a row; the last one takes its place."""
        self.count -= 1
        last = self.count
        if row == last or self._cache is None:
            return
        self._cache.move(last, row)
        state = (self._used, self._lengths, self._needs, self._positions, self._first)
        for array in (*state, self._whole.attention_mask):
            array[row] = array[last]

    def forward(self, tokens: Ids, parents: Ids | None = None) -> None:
        """Append ``tokens`` [n, W] to the hypotheses ``parents`` [n, W]; None: each its own.

        Of a row that was added since the last step both are unread: its prompt ends here.
        """
        count = self.count
        if self._cache is None or not count:
            raise AssertionError("a step needs rows")
        if parents is not None:
            rows = np.arange(count)[:, None]
            mask = self._whole.attention_mask
            mask[:count, 0] = mask[rows, 0, parents]
        self._make_room(self._cache)
        step = self._steps.get(count)
        if step is None:
            if len(self._steps) == _MOST_STEPS:  # each holds masks of its own for its graph
                self._steps.clear()
                self._cache.forget_steps()
            step = self._steps[count] = self._whole.rows(0, count)
        rows, first = np.arange(count)[:, None], self._first[:count, None]
        used, lengths = self._used[:count], self._lengths[:count]
        slots, positions = used[:, None] + self._columns, lengths[:, None]
        step.input_ids[:] = np.where(first == _NONE, tokens, first)
        step.position_ids[:] = positions
        step.write_indices[:] = used
        step.attention_mask[rows, 0, self._columns, slots] = True
        self._cache.cache_position_ids[rows, slots] = positions
        self._cache.forward(step)
        self._shared = first[:, 0] != _NONE
        first[:] = _NONE
        used += self._width
        lengths += 1
        self._logsumexp = logsumexp_of(step, self._backend.capabilities)

    def outputs(self, row: int) -> RowOutputs:
        """What the last step gave for a row."""
        width = 1 if self._shared[row] else self._width
        step, logsumexp = self._whole, self._logsumexp
        if step.logits is None:
            raise AssertionError("they are asked for")
        rows = slice(row, row + 1)
        return RowOutputs(
            step.next_token_ids[rows, :width],
            step.logits[rows, :width],
            None if logsumexp is None else logsumexp[rows, :width],
        )

    def all_outputs(self) -> RowOutputs:
        """What the last step gave for all rows, [n, W] each.

        The hypotheses of a row whose prompt ended in it are all the same.
        """
        step = self._steps[self.count]
        return RowOutputs(step.next_token_ids, step.logits, self._logsumexp)

    def _fitted(self, encoded: EncoderOutput, others: int) -> RowSlotCache:
        """The cache with room for one more row, and not much more than the live ones need."""
        count = self.count + 1
        used = int(self._used[:count].max()) + self._width
        most = int(self._needs[:count].max())
        positions = int(self._positions[:count].max())
        cache, fresh = self._cache, self._cache is None
        if cache is None:
            cache = self._cache = self._backend.new_cache(encoded, first_capacity(most, used))
        rows, slots = cache.cache_position_ids.shape
        room = cache.source_positions
        if fresh or count > rows:
            rows = min(max(rows if fresh else 2 * rows, count + others), self._max_rows)
        if used > slots:
            slots = grown_capacity(slots, most, used)
        elif 4 * first_capacity(most, used) <= slots:
            slots //= 2
        fits = positions <= room < 2 * positions or positions == room
        # A fresh one lies over what the encoder gave, which is not the rows' to overwrite.
        if fresh or (rows, slots) != cache.cache_position_ids.shape or not fits:
            cache.resize(
                rows=rows, slots=slots, positions=None if fits and not fresh else positions
            )
            self._follow(cache)
        return cache

    def _make_room(self, cache: RowSlotCache) -> None:
        """Win back slots that no hypothesis sees, where it pays; have more, where it does not."""
        count, width, slots = self.count, self._width, cache.max_cache_len
        full = self._used[:count] + width > slots
        if width > 1:
            visible = np.any(self._whole.attention_mask[:count, 0], axis=1, keepdims=True)[:, 0]
            live = visible.sum(axis=1)
            dead = self._used[:count] - live
            # A row that is full is packed if that leaves it half empty, as growing copies all.
            pays = np.where(full, live + width <= slots // 2, dead >= max(_DEAD, 3 * width))
            for row in np.flatnonzero(pays):
                self._pack(cache, int(row), visible[row], int(live[row]))
            full &= ~pays
        if full.any():
            needed = int(self._used[:count].max()) + width
            most = int(self._needs[:count].max())
            cache.resize(slots=grown_capacity(slots, most, needed))
            self._follow(cache)

    def _pack(self, cache: RowSlotCache, row: int, visible: NDArray[np.bool_], live: int) -> None:
        """Move the slots that are seen together; those before the first unseen one stay."""
        start = int(visible.argmin())
        if start < live:
            chosen = start + np.flatnonzero(visible[start:])
            cache.pack(row, chosen, start)
            mask = self._whole.attention_mask[row, 0]
            mask[:, start:live] = mask[:, chosen]
            mask[:, live:] = False
        self._used[row] = live

    def _follow(self, cache: RowSlotCache) -> None:
        """Have arrays for as many rows and slots as the cache has."""
        shape, before = cache.cache_position_ids.shape, self._whole.attention_mask
        if (before.shape[0], before.shape[3]) == shape:
            return
        self._whole = self._new_whole(*shape)
        rows, slots = min(shape[0], len(before)), min(shape[1], before.shape[3])
        self._whole.attention_mask[:rows, ..., :slots] = before[:rows, ..., :slots]
        self._steps.clear()

    def _new_whole(self, rows: int, slots: int) -> Step:
        return Step.allocate(
            rows,
            self._width,
            slots,
            vocab_size=self._vocab_size,
            logsumexp=self._wants_logsumexp,
        )
