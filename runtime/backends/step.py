"""One run of a decoder graph: the arrays that it reads and fills, and what it has looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Proposals:
    """The tokens that a run has looked at, where it has not looked at all of them.

    Attributes:
        token_ids: [N] int64; the first ``count`` were found to be the most probable ones, the
            others are looked at in every run.
        count: how many those are.
        unscored_logsumexp: [1] float32, log(sum(exp(logits))) of all other tokens, as near as
            what proposes tokens knows them.
    """

    token_ids: Ids
    count: int
    unscored_logsumexp: NDArray[np.float32]


@dataclass(eq=False)
class Step:
    """Host arrays of a decoder step of Q tokens for each of B sequences over T cache slots.

    Attributes:
        input_ids: [B, Q] int64, the tokens to run.
        position_ids: [B, Q] int64, their logical positions (the decoder start token is 0).
        attention_mask: [B, 1, Q, T] bool, the slots that each token may see, its own included.
        write_indices: [B] int64, the first of the Q slots that are written.
        next_token_ids: [B, K] int64, filled by the run with the most probable next tokens; not
            where ``logsumexp`` is asked for. It is ``input_ids`` itself where a step feeds the
            following one (greedy decoding).
        logits: [B, K, V] float32, filled by the run, or None if they are not needed. Where
            ``best_token_ids`` is there, [B, K, N]: those of the N most probable tokens, in falling
            order.
        logsumexp: [B, K] float32, log(sum(exp(logits))), filled by the run of a backend that
            ``computes_logsumexp``, or None if it is not needed.
        only_best: a run may look at the most probable tokens only, and fill ``logits`` with -inf
            for the others.
        proposals: set by the run: what it has looked at; None: all tokens.
        best_token_ids: [B, K, N] int64, the tokens of ``logits``, filled by the run; None: those
            are of all. Only for a backend that ``finds_best_tokens``.
        first_scored: results are wanted of the tokens from this one on, K = Q - first_scored of
            them. Above 0 only for a cache that ``scores_last_tokens``.
    """

    input_ids: Ids
    position_ids: Ids
    attention_mask: Mask
    write_indices: Ids
    next_token_ids: Ids
    logits: NDArray[np.float32] | None
    logsumexp: NDArray[np.float32] | None = None
    only_best: bool = False
    proposals: Proposals | None = None
    first_scored: int = 0
    best_token_ids: Ids | None = None

    @classmethod
    def allocate(
        cls,
        batch_size: int,
        num_tokens: int,
        max_cache_len: int,
        *,
        feed_back: bool = False,
        vocab_size: int | None = None,
        logsumexp: bool = False,
        only_best: bool = False,
        first_scored: int = 0,
        num_best: int | None = None,
    ) -> Step:
        """Zeroed arrays; ``vocab_size`` asks for logits, ``feed_back`` aliases ids.

        ``num_best``: N; None: logits are of all tokens.
        """
        input_ids = np.zeros((batch_size, num_tokens), np.int64)
        scored = (batch_size, num_tokens - first_scored)
        given = None if vocab_size is None else num_best or vocab_size
        return cls(
            input_ids=input_ids,
            position_ids=np.zeros((batch_size, num_tokens), np.int64),
            attention_mask=np.zeros((batch_size, 1, num_tokens, max_cache_len), np.bool_),
            write_indices=np.zeros((batch_size,), np.int64),
            next_token_ids=input_ids if feed_back else np.zeros(scored, np.int64),
            logits=None if given is None else np.zeros((*scored, given), np.float32),
            logsumexp=np.zeros(scored, np.float32) if logsumexp else None,
            only_best=only_best,
            first_scored=first_scored,
            best_token_ids=np.zeros((*scored, num_best), np.int64) if num_best else None,
        )

    def clear(self) -> None:
        """As :meth:`allocate` gives it, but for what a run fills."""
        for array in (self.input_ids, self.position_ids, self.write_indices):
            array.fill(0)
        self.attention_mask.fill(False)
        self.only_best, self.proposals = False, None

    def nbytes(self, vocab_size: int) -> int:
        """Memory of its arrays, logits included: a graph that gives no others fills them too."""
        arrays = (self.input_ids, self.position_ids, self.attention_mask, self.next_token_ids)
        logits = self.next_token_ids.size * vocab_size * np.dtype(np.float32).itemsize
        return sum(array.nbytes for array in arrays) + logits

    def rows(self, first: int, count: int = 1) -> Step:
        """Some sequences of the step, in the same arrays."""
        some = slice(first, first + count)
        return Step(
            input_ids=self.input_ids[some],
            position_ids=self.position_ids[some],
            attention_mask=self.attention_mask[some],
            write_indices=self.write_indices[some],
            next_token_ids=self.next_token_ids[some],
            logits=None if self.logits is None else self.logits[some],
            logsumexp=None if self.logsumexp is None else self.logsumexp[some],
            only_best=self.only_best,
            first_scored=self.first_scored,
        )

    def tokens(self, first: int, count: int) -> Step:
        """Some tokens of the step's only sequence, in the same arrays but for ``write_indices``.

        Where none of them is to be scored, the last one is, into an array of its own.
        """
        some = slice(first, first + count)
        skipped = max(self.first_scored - first, 0)
        scored = slice(max(first - self.first_scored, 0), first + count - self.first_scored)
        wanted = skipped < count
        return Step(
            input_ids=self.input_ids[:, some],
            position_ids=self.position_ids[:, some],
            attention_mask=self.attention_mask[:, :, some],
            write_indices=self.write_indices + first,
            next_token_ids=self.next_token_ids[:, scored] if wanted else np.zeros((1, 1), np.int64),
            logits=self.logits[:, scored] if wanted and self.logits is not None else None,
            logsumexp=self.logsumexp[:, scored] if wanted and self.logsumexp is not None else None,
            only_best=self.only_best,
            first_scored=min(skipped, count - 1),
        )

    def outputs(self) -> list[NDArray[Any]]:
        """The arrays that a run fills."""
        optional = (self.logits, self.logsumexp, self.best_token_ids)
        return [self.next_token_ids, *(array for array in optional if array is not None)]
