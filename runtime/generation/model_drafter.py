"""Guesses of what comes next, from a smaller model of the same tokens.

The draft model decodes greedily in a cache of its own, one row for each source of the batch. What
it wrote there for tokens that turned out right stays; the rest is overwritten.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..backends import Backend, EncoderOutput, SlotCache, Step, slot_backend
from ..backends.base import Ids
from ..kv_cache.capacity import first_capacity, grown_capacity
from ..numerics import Scores
from .logits_processors import Processors
from .processor import Rows

#: Slots after the last position: a row beside others may run so many tokens that nobody sees.
_SPARE = 2


class _Row:
    """One source: its number in the batch, its tokens, and what of them the draft has run.

    ``tokens[:used]`` are in the cache, at the slots of their places; after them there may be
    ``ahead``, which were guessed and run, and are kept as far as they prove right.
    """

    def __init__(self, number: int, prompt: Sequence[int]) -> None:
        self.number = number
        self.tokens = list(prompt)
        self.used = 0
        self.ahead: list[int] = []

    def append(self, token: int) -> None:
        # What was guessed is already in the cache if the guess was right up to here.
        if self.used == len(self.tokens) and self.ahead and self.ahead[0] == token:
            self.ahead.pop(0)
            self.used += 1
        else:
            self.ahead.clear()
        self.tokens.append(token)


class ModelDrafter:
    """See :class:`.drafter.Drafter`.

    Args:
        backend: the draft model's.
        encoded: its encoder's output for the sources of the batch.
        prompts: what the outputs start with, without tokens that count as generated.
        room: tokens of a prompt and its output at most.
        positions: the draft's target positions; None: any number.
        vocab_size: of both models.
        processors: edit the draft's scores as they do the model's.
        filling: of each source, what ``processors`` expect before its prompt.
    """

    def __init__(
        self,
        backend: Backend,
        encoded: EncoderOutput,
        prompts: Sequence[Sequence[int]],
        *,
        room: int,
        positions: int | None,
        vocab_size: int,
        processors: Processors,
        filling: Sequence[int],
    ) -> None:
        self._rows = [_Row(number, prompt) for number, prompt in enumerate(prompts)]
        self._processors = processors
        self._filling = filling
        self._vocab_size = vocab_size if processors else None
        limits = backend.capabilities.limits
        self._last_position = room - 1 if positions is None else min(room, positions) - 1
        self._max_slots = self._last_position + _SPARE
        self._max_num_tokens = limits.max_num_tokens if limits else room
        if limits is not None:
            self._max_slots = min(self._max_slots, limits.max_target_length)
        first = first_capacity(self._max_slots, max(map(len, prompts)))
        self._cache: SlotCache = slot_backend(backend, "draft_model").new_cache(encoded, first)
        #: Steps by their number of tokens, until the cache has another shape.
        self._steps: dict[int, Step] = {}

    def append(self, place: int, token: int) -> None:
        """See :class:`.drafter.Drafter`."""
        self._rows[place].append(token)

    def learn(self, place: int, guessed: int, right: int) -> None:
        """See :class:`.drafter.Drafter`; what was right is known from ``append``."""

    def select_batch(self, rows: Ids) -> None:
        """See :class:`.drafter.Drafter`."""
        self._rows = [self._rows[row] for row in rows]
        self._cache.select_batch(rows)
        self._steps.clear()

    def guess(self, most: Sequence[int]) -> list[list[int]]:
        """See :class:`.drafter.Drafter`; no guess leaves the draft's own positions."""
        room = self._max_slots - _SPARE + 1
        wanted = [
            max(0, min(limit, room - len(row.tokens)))
            for row, limit in zip(self._rows, most, strict=True)
        ]
        guesses: list[list[int]] = [[] for _ in self._rows]
        drafting = [place for place, limit in enumerate(wanted) if limit]
        if drafting:
            self._choose(self._catch_up(drafting), drafting, guesses)
        while True:
            drafting = [place for place in drafting if len(guesses[place]) < wanted[place]]
            if not drafting:
                return guesses
            step = self._forward({place: guesses[place][-1:] for place in drafting})
            for place in drafting:
                self._rows[place].ahead.append(guesses[place][-1])
            last = dict.fromkeys(drafting, (step, 0))
            self._choose(last, drafting, guesses)

    def _catch_up(self, drafting: Sequence[int]) -> dict[int, tuple[Step, int]]:
        """Run what rows have got since the last guess; the step and query of each one's last token.

        A step that is not the last one of several is copied where it is needed: they share arrays.
        """
        last = {}
        for place in drafting:
            self._rows[place].ahead.clear()
        waiting = {p: self._rows[p].tokens[self._rows[p].used :] for p in drafting}
        while waiting:
            parts = {place: tokens[: self._max_num_tokens] for place, tokens in waiting.items()}
            step = self._forward(parts)
            waiting = {
                place: tokens[self._max_num_tokens :]
                for place, tokens in waiting.items()
                if len(tokens) > self._max_num_tokens
            }
            for place, part in parts.items():
                self._rows[place].used += len(part)
                if place not in waiting:
                    last[place] = (_kept(step) if waiting else step, len(part) - 1)
        return last

    def _forward(self, parts: Mapping[int, Sequence[int]]) -> Step:
        """Run tokens of some rows after what those have in the cache.

        A row with fewer tokens than another, or none, runs some that are overwritten before they
        are seen.
        """
        count = max(map(len, parts.values()))
        starts = np.array([row.used + len(row.ahead) for row in self._rows])
        needed = int(starts.max()) + count
        if needed > self._cache.max_cache_len:
            self._cache.grow(grown_capacity(self._cache.max_cache_len, self._max_slots, needed))
            self._steps.clear()
        slots = self._cache.max_cache_len
        if count not in self._steps:
            self._steps[count] = Step.allocate(
                len(self._rows), count, slots, vocab_size=self._vocab_size
            )
        step = self._steps[count]
        for place, tokens in parts.items():
            step.input_ids[place, : len(tokens)] = tokens
        places = starts[:, None] + np.arange(count)
        np.minimum(places, self._last_position, out=step.position_ids)
        step.write_indices[:] = starts
        step.attention_mask[:, 0] = np.arange(slots) <= places[..., None]
        self._cache.forward(step)
        return step

    def _choose(
        self,
        last: Mapping[int, tuple[Step, int]],
        drafting: Sequence[int],
        guesses: Sequence[list[int]],
    ) -> None:
        """Extend the guesses by the most probable tokens."""
        for place in drafting:
            step, query = last[place]
            if step.logits is None:
                guesses[place].append(int(step.next_token_ids[place, query]))
                continue
            row, scores = self._rows[place], step.logits[place, query : query + 1].copy()
            before = [0] * self._filling[row.number] + row.tokens + guesses[place]
            rows = Rows(np.array([before], np.int64), np.array([row.number], np.int64))
            edited: Scores = self._processors(rows, scores)
            guesses[place].append(int(edited.argmax()))


def _kept(step: Step) -> Step:
    """A copy of what a run found: the arrays of a step are filled again by the next run."""
    logits = None if step.logits is None else step.logits.copy()
    return replace(step, next_token_ids=step.next_token_ids.copy(), logits=logits)
