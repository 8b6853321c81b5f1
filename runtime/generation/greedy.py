"""Greedy decoding and sampling: hypotheses that do not compete, each ends on its own.

Plain greedy decoding reads 8 bytes a step: the argmax is in the graph, and its output is bound
to the memory of ``input_ids``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Ids, Proposals
from ..kv_cache import KVCache, StepOutputs
from ..numerics import Scores, logsumexp
from .batch import GenerationBatch, Hypothesis, Results, selection
from .processor import Rows
from .sampling import Sampler
from .stopping import LENGTH
from .warpers import build_warpers

#: Where fewer of a row's most probable tokens may come, all are looked at. Of 64 that 4 bits
#: propose the right one was never below the 25th (docs/design.md, section 6).
_ENOUGH_LEFT = 32


class GreedySearch:
    """Greedy decoding, or sampling, of one batch."""

    def __init__(self, batch: GenerationBatch) -> None:
        self._batch = batch
        self._samples = batch.config.num_return_sequences
        self._sampler = Sampler(batch.config, batch.sources) if batch.config.do_sample else None
        self._warpers = build_warpers(batch.config, batch.manifest.special_tokens.eos)
        self._reads_logits = bool(
            batch.processors
            or batch.config.return_scores
            or self._sampler is not None
            or batch.call.logprobs
            or batch.prompt_logits is not None
        )
        self._only_best = (
            self._sampler is None
            and not batch.config.return_scores
            and (batch.call.estimates_logprobs or not batch.call.logprobs)
            and batch.processors.only_ban
            and batch.suppresses_as_the_model
        )
        self._results: Results = [
            [Hypothesis([*batch.config.decoder_prefix]) for _ in range(self._samples)]
            for _ in range(batch.batch_size)
        ]
        self._remaining = batch.new_tokens
        #: What processors read: see :meth:`_tokens_so_far`; None: they read nothing yet.
        self._tokens: Ids | None = None
        #: Of one step's normalizers.
        self._scratch: Scores | None = None
        #: The sources that still run: places in ``results``.
        self._active = list(range(batch.batch_size))
        self._unfinished = batch.batch_size * self._samples
        for token in batch.forced:
            self._append_forced(token)

    def run(self) -> Iterator[Results]:
        """Decode step by step; yields all sequences, grown by one token, after each.

        ``results[source][sample]``: with greedy decoding one for each source.

        Raises:
            InputError: the options together forbid every token.
        """
        if self.done or self.ends_without_step():  # the forced tokens were all
            yield self._results
            return
        cache = self._batch.new_cache(
            self._samples, logits=self._reads_logits, only_best=self._only_best
        )
        plain = (
            self._unfinished == 1
            and not self._reads_logits
            and self._batch.config.forced_eos_token_id is None
        )
        try:
            yield from self._plain_steps(cache) if plain else self._steps(cache)
        finally:
            cache.release()

    def _plain_steps(self, cache: KVCache) -> Iterator[Results]:
        """:meth:`_steps` of one sequence that no option edits: a small model's step is 60 us."""
        ((sequence,),) = self._results
        tokens, stopping = sequence.token_ids, self._batch.stopping
        while True:
            chosen = cache.next_token_ids
            tokens.append(chosen.item())
            self._remaining -= 1
            last = LENGTH if self._remaining == 0 else stopping.interrupted()
            sequence.finish_reason = stopping.reason(tokens) or last
            if sequence.finish_reason is not None:
                self._unfinished = 0
            yield self._results
            if self.done:
                return
            cache.forward(chosen)

    def _steps(self, cache: KVCache) -> Iterator[Results]:
        while True:
            before = self._unfinished
            tokens, _ = self.take(cache)
            yield self._results
            if self.done:
                return
            kept = selection(self._unfinished_sources()) if self._unfinished < before else None
            if kept is not None:
                self._active = [self._active[place] for place in kept]
                cache.select_batch(kept)
                tokens = tokens[kept]
            if self.ends_without_step():
                yield self._results
                return
            cache.forward(tokens)

    @property
    def done(self) -> bool:
        """Whether all sequences have ended."""
        return not self._unfinished

    def ends_without_step(self) -> bool:
        """Put the forced end token in the last place, if that is next."""
        forced = self._batch.forces_end(self._remaining)
        if forced is not None:
            self._append_forced(forced)
        return forced is not None

    def take(self, outputs: StepOutputs) -> tuple[Ids, None]:
        """Choose from what a step gave: the tokens [A, n] of the next one, if one follows.

        Raises:
            InputError: the options together forbid every token.
        """
        if not self._reads_logits or outputs.logits is None:
            tokens = outputs.next_token_ids
            self._append(tokens, None)
        else:
            tokens, scores, logprobs = self._choose(outputs)
            self._append(tokens, scores, logprobs)
        return tokens, None

    def results(self) -> Results:
        """The sequences of each source, as far as they are."""
        return self._results

    def _unfinished_sources(self) -> list[bool]:
        return [
            any(sequence.finish_reason is None for sequence in self._results[source])
            for source in self._active
        ]

    def _append_forced(self, token: int) -> None:
        self._append(np.full((len(self._active), self._samples), token), None)

    def _append(
        self,
        tokens: Ids,
        scores: NDArray[np.float64] | None,
        logprobs: NDArray[np.float64] | None = None,
    ) -> None:
        """Add ``tokens`` [A, n] to the unfinished sequences."""
        self._remaining -= 1
        stopping, first = self._batch.stopping, self._batch.decoder_prompt.shape[1]
        last = LENGTH if self._remaining == 0 else stopping.interrupted()
        for place, (source, row) in enumerate(zip(self._active, tokens.tolist(), strict=True)):
            for sample, sequence in enumerate(self._results[source]):
                if sequence.finish_reason is not None:
                    continue
                sequence.token_ids.append(row[sample])
                end = first + len(sequence.token_ids)
                if self._tokens is not None and end <= self._tokens.shape[2]:
                    self._tokens[source, sample, end - 1] = row[sample]
                if scores is not None:
                    sequence.score += float(scores[place, sample])
                if logprobs is not None:
                    sequence.logprob += float(logprobs[place, sample])
                sequence.finish_reason = stopping.reason(sequence.token_ids) or last
                self._unfinished -= sequence.finish_reason is not None

    def _choose(
        self, cache: StepOutputs
    ) -> tuple[Ids, NDArray[np.float64], NDArray[np.float64] | None]:
        """Tokens, scores and log-probabilities, [A, n] each, from logits [A, n or 1, V]."""
        active, samples = len(self._active), self._samples
        rows, scores = self._processed(cache)
        if self._too_few_left(cache.proposals, rows, scores):
            cache.complete_logits()
            rows, scores = self._processed(cache)
        before = scores
        if self._sampler is None:
            tokens = scores.argmax(axis=1)
        else:
            if self._batch.processors:
                self._check(scores.max(axis=1))
            for warp in self._warpers:
                scores = warp(scores)
            streams = np.array(self._active)[:, None] * samples + np.arange(samples)
            tokens = self._sampler.draw(scores, streams.ravel())
        shape = (active, samples)
        chosen, logprobs = _taken(scores, tokens), None
        if self._sampler is None and self._batch.processors:
            self._check(chosen)
        if self._batch.call.logprobs:
            normalizer = self._normalizer(cache.proposals, rows, before)
            logprobs = (_taken(before, tokens) - normalizer).astype(np.float64).reshape(shape)
        if self._batch.config.return_scores:
            chosen = chosen - logsumexp(scores)
        return tokens.reshape(shape), chosen.astype(np.float64).reshape(shape), logprobs

    def _processed(self, cache: StepOutputs) -> tuple[Rows, Scores]:
        """[A * n, V] scores, the logits' memory in part, and what they are of."""
        logits, proposals = cache.logits, cache.proposals
        if logits is None:
            raise AssertionError("they were asked for")
        if logits.shape[1] != self._samples:
            logits = np.repeat(logits, self._samples, axis=1)
        scores: Scores = logits.reshape(len(self._active) * self._samples, -1)
        unscored = None if proposals is None else proposals.unscored_logsumexp.copy()
        if not self._batch.processors:
            return Rows(np.zeros((0, 0), np.int64), np.zeros(0, np.int64), unscored), scores
        rows = self._rows(unscored)
        return rows, self._batch.processors(rows, scores)

    def _too_few_left(self, proposals: Proposals | None, rows: Rows, scores: Scores) -> bool:
        """Whether a token that the step did not look at may be the best one that may come."""
        if proposals is None or rows.unscored_logsumexp is None:
            return False
        left = np.count_nonzero(scores[0, proposals.token_ids[: proposals.count]] > -np.inf)
        return bool(left < _ENOUGH_LEFT and rows.unscored_logsumexp[0] > -np.inf)

    def _normalizer(
        self, proposals: Proposals | None, rows: Rows, scores: Scores
    ) -> NDArray[np.float32]:
        """log(sum(exp(scores))) [A * n] of all tokens that may come."""
        if proposals is not None and rows.unscored_logsumexp is not None:
            self._results[self._active[0]][0].is_estimated = True
            scored = logsumexp(scores[:, proposals.token_ids])
            return np.logaddexp(scored, rows.unscored_logsumexp)
        if self._scratch is None or self._scratch.shape != scores.shape:
            self._scratch = np.empty_like(scores)
        return logsumexp(scores, self._scratch)

    def _rows(self, unscored: Scores | None) -> Rows:
        batch, first = self._batch, self._batch.decoder_prompt.shape[1]
        length = first + batch.new_tokens - self._remaining + len(batch.config.decoder_prefix)
        if self._tokens is None or self._tokens.shape[2] < length:
            self._tokens = self._tokens_so_far(first, 2 * length)
        tokens = self._tokens[self._active, :, :length].reshape(-1, length)
        return Rows(tokens, np.array(self._active).repeat(self._samples), unscored)

    def _tokens_so_far(self, first: int, room: int) -> Ids:
        """[B, n, room] of all sequences, zeros where they may go on; ``first`` tokens are given."""
        batch = self._batch
        tokens = np.zeros((batch.batch_size, self._samples, room), np.int64)
        tokens[:, :, :first] = batch.decoder_prompt[:, None]
        for rows, sequences in zip(tokens, self._results, strict=True):
            for row, sequence in zip(rows, sequences, strict=True):
                row[first : first + len(sequence.token_ids)] = sequence.token_ids
        return tokens

    def _check(self, best: NDArray[np.float32]) -> None:
        """Refuse rows [A * n] whose best score is none."""
        for row in np.flatnonzero(best == -np.inf):
            sequence = self._results[self._active[row // self._samples]][row % self._samples]
            if sequence.finish_reason is None:
                raise self._batch.no_continuation(sequence.token_ids)


def _taken(scores: Scores, tokens: Ids) -> NDArray[np.float32]:
    """[R], of each row of scores [R, V] the one of its token."""
    taken: NDArray[np.float32] = scores[np.arange(len(tokens)), tokens]
    return taken
