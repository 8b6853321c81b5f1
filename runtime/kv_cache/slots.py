"""The hypotheses of a batch as tree steps: who sees which cache slot, and where to write.

The hypotheses of one source are the query axis of one sequence (docs/design.md, section 3):
a step of W hypotheses writes W slots, and the mask row of each holds its ancestors. Choosing
other parents therefore permutes rows of a boolean mask and touches no key or value.

Slots that no hypothesis sees any more are won back when the cache is full: the others are
moved together instead of the cache being grown, which would copy all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..backends import Decoder, Step, makes_chains
from ..backends.base import Ids
from ..generation.logsumexp import logsumexp
from .capacity import grown_capacity


def prefill(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    vocab_size: int | None,
    *,
    normalizer: bool = False,
    max_num_tokens: int | None = None,
) -> Step:
    """Run each sequence's prompt into its slots 0.. : what comes after it, a step of [B, 1].

    With ``max_num_tokens`` in parts of so many tokens. Shorter prompts are filled up on the right;
    what is written there is overwritten before it is ever seen.
    """
    batch = len(prompts)
    lengths = np.array([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    tokens = np.zeros((batch, longest), np.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    after = Step.allocate(batch, 1, 0, vocab_size=vocab_size, normalizer=normalizer)
    size = max_num_tokens or longest
    for start in range(0, longest, size):
        part = tokens[:, start : start + size]
        count = part.shape[1]
        step = Step.allocate(
            batch, count, decoder.capacity, vocab_size=vocab_size, normalizer=normalizer
        )
        step.input_ids[:] = part
        step.position_ids[:] = start + np.arange(count)
        step.write_indices[:] = start
        step.attention_mask[..., : start + count] = np.tri(count, start + count, start, np.bool_)
        decoder.bind(step)()
        rows = np.flatnonzero((start < lengths) & (lengths <= start + count))
        ends = lengths[rows] - 1 - start
        for found, wanted in zip(step.outputs(), after.outputs(), strict=True):
            wanted[rows, 0] = found[rows, ends]
    return after


class SlotKVCache:
    """``width`` hypotheses for each source of a batch, all of one length.

    Args:
        decoder: a fresh decoder with room for the prompt.
        prompts: tokens that the hypotheses of each of the B sources start with.
        width: W, hypotheses a source.
        most_slots: slots that a source can need at most.
        vocab_size: V, if logits are needed; None: only the most probable tokens are.
        normalizer: whether ``logsumexp`` is needed.
        max_num_tokens: tokens of a source that the decoder can run at once; None: any number.

    Attributes:
        next_token_ids: [B, W] int64, the most probable next token of each hypothesis; [B, 1] after
            the prompt, which the hypotheses share.
        logits: [B, W, V] float32 ([B, 1, V] after the prompt), or None. Both are overwritten
            by the next step.
        logsumexp: [B, W] float32 ([B, 1]), log(sum(exp(logits))), or None.
    """

    next_token_ids: Ids
    logits: NDArray[np.float32] | None
    logsumexp: NDArray[np.float32] | None

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        width: int,
        most_slots: int,
        vocab_size: int | None,
        normalizer: bool = False,
        max_num_tokens: int | None = None,
    ) -> None:
        self._decoder = decoder
        self._width = width
        self._most_slots = most_slots
        self._vocab_size = vocab_size
        self._normalizer = normalizer
        lengths = [len(prompt) for prompt in prompts]
        #: Slots taken, by each source and by the one with most.
        self._used = np.array(lengths, np.int64)
        self._most_used = max(lengths)
        #: The next token of a source is at its prompt's length and so many steps.
        self._prompts, self._steps = self._used.copy(), 0
        self._alike = min(lengths) == self._most_used
        #: What a chain found beyond ``next_token_ids``, [B] each.
        self._found: deque[Ids] = deque()
        self._chain: Callable[[int], Ids] | None = None
        self._chained = 1
        self._step, self._run = self._bind(len(prompts))
        if self._most_used == width == 1:  # the step that follows has the right shape
            self._step.input_ids[:] = prompts
            self._step.attention_mask[..., 0] = True
            self._run()
            last = self._step
        else:
            last = prefill(
                decoder, prompts, vocab_size, normalizer=normalizer, max_num_tokens=max_num_tokens
            )
            seen = np.arange(self.capacity) < self._used[:, None]
            self._step.attention_mask[:] = seen[:, None, None]
        self.next_token_ids, self.logits = last.next_token_ids, last.logits
        self.logsumexp = self._normalized(last)

    @property
    def capacity(self) -> int:
        """Cache slots a source."""
        return self._decoder.capacity

    def advance(self, tokens: Ids, parents: Ids | None = None) -> None:
        """Append ``tokens`` [B, W] to the hypotheses ``parents`` [B, W]; None: each its own.

        Where no logits are needed ``tokens`` are ``next_token_ids``.
        """
        if self._chain is not None:
            self._follow(self._chain, tokens)
            return
        mask = self._step.attention_mask
        if parents is not None:
            mask[:, 0] = mask[np.arange(len(parents))[:, None], 0, parents]
        if self._most_used + self._width > self.capacity:
            self._make_room()
        step, used = self._step, self._used
        if tokens is not step.input_ids:  # else the graph wrote them where it reads them
            step.input_ids[:] = tokens
        if self._width == 1 and self._alike:  # chains: slot is position
            step.attention_mask[..., self._most_used] = True
            step.position_ids.fill(self._most_used)
        else:
            sources, columns = np.arange(len(used))[:, None], np.arange(self._width)
            slots = used[:, None] + columns
            step.attention_mask[sources, 0, columns, slots] = True
            positions = (self._prompts + self._steps)[:, None]
            self._decoder.cache_position_ids[sources, slots] = positions
            step.position_ids[:] = positions
        step.write_indices[:] = used
        self._run()
        self._used += self._width
        self._most_used += self._width
        self._steps += 1
        self.next_token_ids, self.logits = step.next_token_ids, step.logits
        self.logsumexp = self._normalized(step)

    def select_batch(self, sources: Ids) -> None:
        """Go on with these sources only; ``next_token_ids`` and ``logits`` shrink with them."""
        self._decoder.select_batch(sources)
        self._found = deque(tokens[sources] for tokens in self._found)
        self._used, self._prompts = self._used[sources], self._prompts[sources]
        self._most_used = int(self._used.max())
        self.next_token_ids = self.next_token_ids[sources]
        self.logits = None if self.logits is None else self.logits[sources]
        if self.logsumexp is not None:
            self.logsumexp = self.logsumexp[sources]
        self._rebind(self._step.attention_mask[sources])

    def _follow(self, chain: Callable[[int], Ids], tokens: Ids) -> None:
        """Give the next tokens; where none are left, run a chain of steps for more.

        Chains get longer as they go, so that the first tokens do not wait for others.
        """
        if not self._found:
            step, first = self._step, self._most_used  # slot is position
            count = min(self._chained, max(1, self._most_slots - first))
            step.input_ids[:] = tokens
            step.position_ids.fill(first)
            step.write_indices.fill(first)
            step.attention_mask[..., : first + 1] = True
            self._found.extend(chain(count))
            if makes_chains(self._decoder):
                self._chained = min(2 * self._chained, self._decoder.ahead)
            self._used += count
            self._most_used += count
            self._steps += count
        self.next_token_ids = self._found.popleft()[:, None]

    def _make_room(self) -> None:
        mask = self._step.attention_mask
        visible = mask[:, 0].any(axis=1)
        live = visible.sum(axis=1)
        if self._width > 1 and live.max() + self._width <= self.capacity // 2:
            order = np.argsort(~visible, axis=1, kind="stable")
            self._decoder.compact(order[:, : live.max()])
            mask[:, 0] = np.take_along_axis(mask[:, 0], order[:, None, :], axis=2)
            self._used = live
            self._most_used = int(live.max())
            return
        needed = self._most_used + self._width
        self._decoder.grow(grown_capacity(self.capacity, self._most_slots, needed))
        self._rebind(mask)

    def _normalized(self, step: Step) -> NDArray[np.float32] | None:
        if step.logits is None or step.logsumexp is None:
            return None
        if not self._decoder.normalizes:
            rows = step.logits.reshape(-1, step.logits.shape[2])
            step.logsumexp[:] = logsumexp(rows).reshape(step.logsumexp.shape)
        return step.logsumexp

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
        greedy = self._width == 1 and self._vocab_size is None and self._alike
        if greedy and makes_chains(self._decoder):
            self._chain = self._decoder.bind_chain(step)
        return step, self._decoder.bind(step)
