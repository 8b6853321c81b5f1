"""The hypotheses of a batch as tree steps: who sees which cache slot, and where to write.

The hypotheses of one source are the query axis of one sequence (docs/design.md, section 3):
a step of W hypotheses writes W slots, and the mask row of each holds its ancestors. Choosing
other parents therefore permutes rows of a boolean mask and touches no key or value.

Slots that no hypothesis sees any more are won back when the cache is full: the others are
moved together instead of the cache being grown, which would copy all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..engines import Decoder, Step
from ..engines.base import Ids
from .cache import grown_capacity
from .scores import log_normalizer


def prefill(
    decoder: Decoder,
    batch_size: int,
    prompt: list[int],
    vocab_size: int | None,
    *,
    normalizer: bool = False,
) -> Step:
    """Run ``prompt`` into slots 0.. of every sequence; the step holds what comes after it."""
    count = len(prompt)
    step = Step.allocate(
        batch_size, count, decoder.capacity, vocab_size=vocab_size, normalizer=normalizer
    )
    step.input_ids[:] = prompt
    step.position_ids[:] = np.arange(count)
    step.attention_mask[..., :count] = np.tri(count, dtype=np.bool_)
    decoder.bind(step)()
    return step


class Tree:
    """``width`` hypotheses for each source of a batch, all of one length.

    Args:
        decoder: a fresh decoder with room for the prompt.
        batch_size: B, the number of sources.
        prompt: tokens that all hypotheses start with; they are run at once.
        width: W, hypotheses a source.
        most_slots: slots that a source can need at most.
        vocab_size: V, if logits are needed; None: only the most probable tokens are.
        normalizer: whether ``log_normalizer`` is needed.

    Attributes:
        next_ids: [B, W] int64, the most probable next token of each hypothesis; [B, 1] after
            the prompt, which the hypotheses share.
        logits: [B, W, V] float32 ([B, 1, V] after the prompt), or None. Both are overwritten
            by the next step.
        log_normalizer: [B, W] float32 ([B, 1]), log(sum(exp(logits))), or None.
    """

    next_ids: Ids
    logits: NDArray[np.float32] | None
    log_normalizer: NDArray[np.float32] | None

    def __init__(
        self,
        decoder: Decoder,
        batch_size: int,
        prompt: list[int],
        *,
        width: int,
        most_slots: int,
        vocab_size: int | None,
        normalizer: bool = False,
    ) -> None:
        self._decoder = decoder
        self._width = width
        self._most_slots = most_slots
        self._vocab_size = vocab_size
        self._normalizer = normalizer
        #: Slots taken, by each source and by the one with most.
        self._used = np.full(batch_size, len(prompt), np.int64)
        self._most_used = len(prompt)
        self._position = len(prompt)
        self._step, self._run = self._bind(batch_size)
        if len(prompt) == width == 1:  # the step that follows has the right shape
            self._step.input_ids[:] = prompt[0]
            self._step.attention_mask[..., 0] = True
            self._run()
            last = self._step
        else:
            last = prefill(decoder, batch_size, prompt, vocab_size, normalizer=normalizer)
            self._step.attention_mask[..., : len(prompt)] = True
        self.next_ids = last.next_ids[:, -1:]
        self.logits = None if last.logits is None else last.logits[:, -1:]
        self.log_normalizer = self._normalized(last)
        if self.log_normalizer is not None:
            self.log_normalizer = self.log_normalizer[:, -1:]

    @property
    def capacity(self) -> int:
        """Cache slots a source."""
        return self._decoder.capacity

    def advance(self, tokens: Ids, parents: Ids | None = None) -> None:
        """Append ``tokens`` [B, W] to the hypotheses ``parents`` [B, W]; None: each its own."""
        mask = self._step.attention_mask
        if parents is not None:
            mask[:, 0] = mask[np.arange(len(parents))[:, None], 0, parents]
        if self._most_used + self._width > self.capacity:
            self._make_room()
        step, used = self._step, self._used
        if tokens is not step.input_ids:  # else the graph wrote them where it reads them
            step.input_ids[:] = tokens
        if self._width == 1:
            step.attention_mask[..., self._position] = True  # a chain: slot is position
        else:
            sources, queries = np.arange(len(used))[:, None], np.arange(self._width)
            slots = used[:, None] + queries
            step.attention_mask[sources, 0, queries, slots] = True
            self._decoder.cache_position_ids[sources, slots] = self._position
        step.position_ids.fill(self._position)
        step.write_index[:] = used
        self._run()
        self._used += self._width
        self._most_used += self._width
        self._position += 1
        self.next_ids, self.logits = step.next_ids, step.logits
        self.log_normalizer = self._normalized(step)

    def keep(self, sources: Ids) -> None:
        """Go on with these sources only; ``next_ids`` and ``logits`` shrink with them."""
        self._decoder.keep(sources)
        self._used = self._used[sources]
        self._most_used = int(self._used.max())
        self.next_ids = self.next_ids[sources]
        self.logits = None if self.logits is None else self.logits[sources]
        if self.log_normalizer is not None:
            self.log_normalizer = self.log_normalizer[sources]
        self._rebind(self._step.attention_mask[sources])

    def _make_room(self) -> None:
        mask = self._step.attention_mask
        visible = mask[:, 0].any(axis=1)
        live = visible.sum(axis=1)
        if self._width > 1 and live.max() + self._width <= self.capacity // 2:
            order = np.argsort(~visible, axis=1, kind="stable")
            self._decoder.pack(order[:, : live.max()])
            mask[:, 0] = np.take_along_axis(mask[:, 0], order[:, None, :], axis=2)
            self._used = live
            self._most_used = int(live.max())
            return
        needed = self._most_used + self._width
        self._decoder.grow(grown_capacity(self.capacity, self._most_slots, needed))
        self._rebind(mask)

    def _normalized(self, step: Step) -> NDArray[np.float32] | None:
        if step.logits is None or step.log_normalizer is None:
            return None
        if not self._decoder.normalizes:
            rows = step.logits.reshape(-1, step.logits.shape[2])
            step.log_normalizer[:] = log_normalizer(rows).reshape(step.log_normalizer.shape)
        return step.log_normalizer

    def _rebind(self, mask: NDArray[np.bool_]) -> None:
        """A step of the decoder's present shape that sees what ``mask`` says."""
        self._step, self._run = self._bind(len(mask))
        self._step.attention_mask[..., : mask.shape[3]] = mask

    def _bind(self, batch_size: int) -> tuple[Step, Callable[[], None]]:
        step = Step.allocate(
            batch_size,
            self._width,
            self.capacity,
            feed_back=True,
            vocab_size=self._vocab_size,
            normalizer=self._normalizer,
        )
        return step, self._decoder.bind(step)
