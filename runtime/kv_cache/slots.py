"""The hypotheses of a batch as tree steps: who sees which cache slot, and where to write.

The hypotheses of one source are the query axis of one sequence (docs/design.md, section 3):
a step of W hypotheses writes W slots, and the mask row of each holds its ancestors. Choosing
other parents therefore permutes rows of a boolean mask and touches no key or value.

Slots that no hypothesis sees any more are won back when the cache is full: the others are
moved together instead of the cache being grown, which would copy all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import numerics
from ..backends import Capabilities, SlotCache, Step
from ..backends.base import Ids, Proposals
from .capacity import grown_capacity


@dataclass(eq=False)
class PromptLogits:
    """Logits after one token of each source's prompt, which the run of the prompts fills in.

    Attributes:
        places: [B], the token of each prompt.
        values: [B, V] float32; None before the run.
    """

    places: Sequence[int]
    values: NDArray[np.float32] | None = None

    def take(self, logits: NDArray[np.float32], start: int = 0) -> None:
        """From ``logits`` [B, Q, V] after the tokens that begin with the prompts' ``start``-th."""
        if self.values is None:
            self.values = np.empty((len(logits), logits.shape[2]), np.float32)
        for row, place in enumerate(self.places):
            if start <= place < start + logits.shape[1]:
                self.values[row] = logits[row, place - start]


def prefill(
    cache: SlotCache,
    prompts: Sequence[Sequence[int]],
    vocab_size: int | None,
    *,
    logsumexp: bool = False,
    max_num_tokens: int | None = None,
    prompt_logits: PromptLogits | None = None,
    num_best: int | None = None,
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
    after = Step.allocate(
        batch, 1, 0, vocab_size=vocab_size, logsumexp=logsumexp, num_best=num_best
    )
    size = max_num_tokens or longest
    for start in range(0, longest, size):
        part = tokens[:, start : start + size]
        count = part.shape[1]
        rows = np.flatnonzero((start < lengths) & (lengths <= start + count))
        ends = lengths[rows] - 1 - start
        first = 0
        if cache.scores_last_tokens:
            places = [] if prompt_logits is None else [p - start for p in prompt_logits.places]
            wanted = [place for place in (*ends, *places) if 0 <= place < count]
            first = int(min(wanted, default=count - 1))
        step = cache.step(
            count,
            vocab_size=vocab_size,
            logsumexp=logsumexp,
            first_scored=first,
            num_best=num_best,
        )
        step.input_ids[:] = part
        step.position_ids[:] = start + np.arange(count)
        step.write_indices[:] = start
        step.attention_mask[..., : start + count] = np.tri(count, start + count, start, np.bool_)
        cache.forward(step)
        if prompt_logits is not None and step.logits is not None:
            prompt_logits.take(step.logits, start + first)
        for output, result in zip(step.outputs(), after.outputs(), strict=True):
            result[rows, 0] = output[rows, ends - first]
    return after


def logsumexp_of(step: Step, capabilities: Capabilities) -> NDArray[np.float32] | None:
    """The normalizers of a step that was run, [B, Q]; None where none are asked for."""
    if step.logits is None or step.logsumexp is None:
        return None
    if not capabilities.computes_logsumexp:
        rows = step.logits.reshape(-1, step.logits.shape[2])
        step.logsumexp[:] = numerics.logsumexp(rows).reshape(step.logsumexp.shape)
    return step.logsumexp


class SlotKVCache:
    """``width`` hypotheses for each source of a batch, all of one length.

    Args:
        cache: an empty cache with room for the prompt.
        prompts: tokens that the hypotheses of each of the B sources start with.
        width: W, hypotheses per source.
        max_slots: slots that a source can need at most.
        vocab_size: V, if logits are needed; None: only the most probable tokens are.
        logsumexp: whether ``logsumexp`` is needed.
        max_num_tokens: tokens of a source that can be run at once; None: any number.
        capabilities: of the backend that the cache is of.
        prompt_logits: takes logits of the prompts, where logits are needed at all.
        only_best: steps after the prompt's may look at the most probable tokens only, until
            :meth:`complete_logits` asks for all.
        num_best: N, where the logits of the N most probable tokens are enough, and the backend
            ``finds_best_tokens``; not with ``prompt_logits``.

    Attributes:
        next_token_ids: [B, W] int64, the most probable next token of each hypothesis; [B, 1] after
            the prompt, which the hypotheses share.
        logits: [B, W, V] float32 ([B, 1, V] after the prompt), or None. Both are overwritten
            by the next step. With ``num_best`` [B, W, N].
        best_token_ids: [B, W, N] int64, the tokens of ``logits``; None: those are of all.
        logsumexp: [B, W] float32 ([B, 1]), log(sum(exp(logits))), or None.
        proposals: see :class:`.KVCache`.
    """

    next_token_ids: Ids
    logits: NDArray[np.float32] | None
    logsumexp: NDArray[np.float32] | None
    proposals: Proposals | None
    best_token_ids: Ids | None

    def __init__(
        self,
        cache: SlotCache,
        prompts: Sequence[Sequence[int]],
        *,
        width: int,
        max_slots: int,
        vocab_size: int | None,
        logsumexp: bool = False,
        max_num_tokens: int | None = None,
        capabilities: Capabilities,
        prompt_logits: PromptLogits | None = None,
        only_best: bool = False,
        num_best: int | None = None,
    ) -> None:
        self._cache = cache
        self._num_best = num_best
        self._only_best = only_best
        self._width = width
        self._max_slots = max_slots
        self._vocab_size = vocab_size
        self._wants_logsumexp = logsumexp
        self._capabilities = capabilities
        lengths = [len(prompt) for prompt in prompts]
        #: Slots taken, by each source and by the one with most.
        self._used = np.array(lengths, np.int64)
        self._most_used = max(lengths)
        #: The next token of a source is at its prompt's length and so many steps.
        self._prompts, self._steps = self._used.copy(), 0
        self._alike = min(lengths) == self._most_used
        #: What a chain found beyond ``next_token_ids``, [B] each.
        self._found: deque[Ids] = deque()
        self._chained = 1
        #: Whether steps are run several at once, ahead of what is asked for.
        self._runs_ahead = (
            capabilities.steps_per_launch > 1 and width == 1 and vocab_size is None and self._alike
        )
        #: Whether the step has run the tokens before those that :meth:`forward` gets.
        self._follows = False
        self._step = self._new_step()
        self._step.only_best = False  # not for the prompt
        if self._most_used == width == 1:  # the step that follows has the right shape
            self._step.input_ids[:] = prompts
            self._step.attention_mask[..., 0] = True
            cache.forward(self._step)
            self._follows = self._alike
            if prompt_logits is not None and self._step.logits is not None:
                prompt_logits.take(self._step.logits)
            last = self._step
        else:
            last = prefill(
                cache,
                prompts,
                vocab_size,
                logsumexp=logsumexp,
                max_num_tokens=max_num_tokens,
                prompt_logits=prompt_logits,
                num_best=num_best,
            )
            seen = np.arange(cache.max_cache_len) < self._used[:, None]
            self._step.attention_mask[:] = seen[:, None, None]
        self.next_token_ids, self.logits = last.next_token_ids, last.logits
        self.logsumexp, self.proposals = logsumexp_of(last, capabilities), last.proposals
        self.best_token_ids = last.best_token_ids
        self._step.only_best = only_best

    def forward(self, tokens: Ids, parents: Ids | None = None) -> None:
        """Append ``tokens`` [B, W] to the hypotheses ``parents`` [B, W]; None: each its own.

        Where no logits are needed ``tokens`` are ``next_token_ids``.
        """
        if self._runs_ahead:
            self._forward_ahead(tokens)
            return
        if self._follows and self._most_used < self._slots:
            self._forward_next(tokens)
            return
        mask = self._step.attention_mask
        if parents is not None:
            mask[:, 0] = mask[np.arange(len(parents))[:, None], 0, parents]
        if self._most_used + self._width > self._cache.max_cache_len:
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
            self._cache.cache_position_ids[sources, slots] = positions
            step.position_ids[:] = positions
        step.write_indices[:] = used
        self._cache.forward(step)
        self._follows = self._width == 1 and self._alike
        self._used += self._width
        self._most_used += self._width
        self._steps += 1
        self.next_token_ids, self.logits = step.next_token_ids, step.logits
        self.logsumexp, self.proposals = logsumexp_of(step, self._capabilities), step.proposals
        self.best_token_ids = step.best_token_ids

    def release(self) -> None:
        """Let another call have the memory; this is not used any more."""
        self._cache.release()

    def complete_logits(self) -> None:
        """Let ``logits`` hold those of all tokens, where the last step gave only the best."""
        if self._step.only_best and self.logits is self._step.logits:
            self._step.only_best = False
            self._cache.forward(self._step)
            self._step.only_best, self.proposals = True, None

    def select_batch(self, sources: Ids) -> None:
        """Go on with these sources only; ``next_token_ids`` and ``logits`` shrink with them."""
        self._cache.select_batch(sources)
        self._found = deque(tokens[sources] for tokens in self._found)
        self._used, self._prompts = self._used[sources], self._prompts[sources]
        self._most_used = int(self._used.max())
        self.next_token_ids = self.next_token_ids[sources]
        self.logits = None if self.logits is None else self.logits[sources]
        if self.logsumexp is not None:
            self.logsumexp = self.logsumexp[sources]
        if self.best_token_ids is not None:
            self.best_token_ids = self.best_token_ids[sources]
        self.proposals = None  # those are of a single source
        self._replace_step(self._step.attention_mask[sources])

    def _forward_next(self, tokens: Ids) -> None:
        """:meth:`forward` of chains that the same step has run before: slot is position."""
        step = self._step
        if tokens is not step.input_ids:
            step.input_ids[:] = tokens
        self._cache.advance(step, self._most_used)
        self._used += 1
        self._most_used += 1
        self._steps += 1
        self.next_token_ids, self.logits = step.next_token_ids, step.logits
        if self._wants_logsumexp:
            self.logsumexp = logsumexp_of(step, self._capabilities)
        self.proposals, self.best_token_ids = step.proposals, step.best_token_ids

    def _forward_ahead(self, tokens: Ids) -> None:
        """Give the next tokens; where none are left, run several steps for more.

        Their number grows as they go, so that the first tokens do not wait for others.
        """
        if not self._found:
            step, first = self._step, self._most_used  # slot is position
            count = min(self._chained, max(1, self._max_slots - first))
            step.input_ids[:] = tokens
            step.position_ids.fill(first)
            step.write_indices.fill(first)
            step.attention_mask[..., : first + 1] = True
            self._found.extend(self._cache.forward_greedy(step, count))
            self._chained = min(2 * self._chained, self._capabilities.steps_per_launch)
            self._used += count
            self._most_used += count
            self._steps += count
        self.next_token_ids = self._found.popleft()[:, None]

    def _make_room(self) -> None:
        mask = self._step.attention_mask
        visible = mask[:, 0].any(axis=1)
        live = visible.sum(axis=1)
        if self._width > 1 and live.max() + self._width <= self._cache.max_cache_len // 2:
            order = np.argsort(~visible, axis=1, kind="stable")
            self._cache.compact(order[:, : live.max()])
            mask[:, 0] = np.take_along_axis(mask[:, 0], order[:, None, :], axis=2)
            self._used = live
            self._most_used = int(live.max())
            return
        needed = self._most_used + self._width
        self._cache.grow(grown_capacity(self._cache.max_cache_len, self._max_slots, needed))
        self._replace_step(mask)

    def _replace_step(self, mask: NDArray[np.bool_]) -> None:
        """A step of the cache's present shape that sees what ``mask`` says."""
        self._step, self._follows = self._new_step(), False
        self._step.attention_mask[..., : mask.shape[3]] = mask

    def _new_step(self) -> Step:
        self._slots = self._cache.max_cache_len
        step = self._cache.step(
            self._width,
            # A step that may be run again keeps what it has read.
            feed_back=not (self._only_best and self._vocab_size is not None),
            vocab_size=self._vocab_size,
            logsumexp=self._wants_logsumexp,
            num_best=self._num_best,
        )
        step.only_best = self._only_best
        return step
