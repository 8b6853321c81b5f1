"""Speculative decoding: greedy decoding that guesses several tokens and verifies them at once.

A drafter says what may come next: a smaller model (:mod:`.model_drafter`), or what followed the
last n tokens where they occurred before (:mod:`.ngram_drafter`). A guess is run as one tree step of
Q tokens; those that greedy decoding would have chosen are kept, and the first one that it would not
is replaced by its choice. The result is greedy decoding's, token for token.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", in the
greedy case; Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..backends import SlotCache, Step
from ..kv_cache.capacity import grown_capacity
from ..kv_cache.slots import prefill
from ..numerics import Scores, logsumexp
from .batch import GenerationBatch, Hypothesis, Results, selection
from .drafter import Drafter
from .processor import Rows
from .stopping import LENGTH


@dataclass
class _Row:
    """One source: its number, its sequence, what that may still grow by, its slots in use.

    ``last_position`` is of a token that is run: the last one of a sequence never is.
    """

    number: int
    sequence: Hypothesis
    remaining: int
    used: int
    last_position: int
    last: int = 0
    guess: list[int] = field(default_factory=list)


class SpeculativeDecoding:
    """Greedy decoding of one batch with guesses that are verified.

    Args:
        batch: the batch.
        drafter: guesses for its sources.
        most: tokens of a guess, at most.
    """

    def __init__(self, batch: GenerationBatch, drafter: Drafter, most: int) -> None:
        config = batch.config
        self._batch = batch
        self._drafter = drafter
        self._most = most
        reads_logits = (
            batch.processors
            or config.return_scores
            or batch.call.logprobs
            or batch.prompt_logits is not None
        )
        self._vocab_size = batch.vocab_size if reads_logits else None
        self._all_rows = [
            _Row(
                number,
                Hypothesis([*config.decoder_prefix]),
                batch.new_tokens,
                len(prompt),
                len(prompt) - len(batch.forced) + batch.new_tokens - 2,
            )
            for number, prompt in enumerate(batch.prompts)
        ]
        #: Those that still run, a row of the batch each.
        self._rows = self._all_rows
        self._results: Results = [[row.sequence] for row in self._all_rows]
        #: Steps by their number of tokens, until the cache has another shape.
        self._steps: dict[int, Step] = {}
        self._max_slots = max(row.last_position for row in self._rows) + 1

    def run(self) -> Iterator[Results]:
        """Greedy decoding with guesses; yields all sequences after each step.

        Raises:
            InputError: the options together forbid every token.
        """
        batch = self._batch
        for token in batch.forced:
            for place, row in enumerate(self._rows):
                self._append(row, place, token)
        self._force_ends()
        if not self._unfinished():  # what is forced was all
            yield self._results
            return
        cache = batch.new_slots(self._max_slots)
        step = self._run_prompts(cache)
        for place, row in enumerate(self._rows):
            self._verify(row, step, place)
        while True:
            self._force_ends()
            interrupted = batch.stopping.interrupted()
            if interrupted is not None:
                for row in self._rows:
                    row.sequence.finish_reason = row.sequence.finish_reason or interrupted
            yield self._results
            if not self._unfinished():
                return
            kept = selection([row.sequence.finish_reason is None for row in self._rows])
            if kept is not None:
                self._rows = [self._rows[place] for place in kept]
                cache.select_batch(kept)
                self._drafter.select_batch(kept)
                self._steps.clear()
            step = self._step(cache)
            for place, row in enumerate(self._rows):
                if row.sequence.finish_reason is None:
                    row.used += self._verify(row, step, place)

    def _run_prompts(self, cache: SlotCache) -> Step:
        batch = self._batch
        if max(map(len, batch.prompts)) > 1:
            most = batch.max_num_tokens
            return prefill(
                cache,
                batch.prompts,
                self._vocab_size,
                max_num_tokens=most,
                prompt_logits=batch.prompt_logits,
            )
        step = self._step_of(cache, 1)  # the step that follows has the same shape
        step.input_ids[:] = batch.prompts
        step.attention_mask[..., 0] = True
        cache.forward(step)
        if batch.prompt_logits is not None and step.logits is not None:
            batch.prompt_logits.take(step.logits)
        return step

    def _force_ends(self) -> None:
        """Put the forced end in its place; no run is needed for that."""
        for place, row in enumerate(self._rows):
            token = self._batch.forces_end(row.remaining)
            if token is not None and row.sequence.finish_reason is None:
                self._append(row, place, token)

    def _unfinished(self) -> bool:
        return any(row.sequence.finish_reason is None for row in self._rows)

    def _step(self, cache: SlotCache) -> Step:
        """Guess, and run each row's last token and guess."""
        num_tokens, most_used = 1, 0
        # Not even a right guess may pass the limit; the token after it needs a place too.
        most = [
            0 if row.sequence.finish_reason else min(row.remaining - 1, self._most)
            for row in self._rows
        ]
        for row, guess in zip(self._rows, self._drafter.guess(most), strict=True):
            row.guess = guess
            num_tokens = max(num_tokens, 1 + len(row.guess))
            most_used = max(most_used, row.used)
        if most_used + num_tokens > cache.max_cache_len:
            needed = most_used + num_tokens
            cache.grow(grown_capacity(cache.max_cache_len, self._max_slots, needed))
            self._steps.clear()
        step = self._step_of(cache, num_tokens)
        for place, row in enumerate(self._rows):
            step.input_ids[place, 0] = row.last
            # A row that has all its tokens waits for the others one position too far.
            step.position_ids[place] = min(row.used, row.last_position)
            step.write_indices[place] = row.used
            # Slots up to ``used`` hold the sequence; those beyond may hold wrong guesses, and
            # in this step's own arrays they have never been shown.
            step.attention_mask[place, 0, :, : row.used + 1] = True
            if num_tokens > 1:
                self._lay_out(step, place, row)
        cache.forward(step)
        return step

    def _lay_out(self, step: Step, place: int, row: _Row) -> None:
        """A guess as a chain: each token sees those before it."""
        num_tokens = step.input_ids.shape[1]
        step.input_ids[place, 1 : 1 + len(row.guess)] = row.guess
        # What a shorter guess leaves of its row is run and never seen; its positions must exist.
        positions = row.used + np.arange(num_tokens)
        np.minimum(positions, row.last_position, out=step.position_ids[place])
        slots = slice(row.used + 1, row.used + num_tokens)
        step.attention_mask[place, 0, :, slots] = np.tri(num_tokens, num_tokens - 1, -1, np.bool_)

    def _step_of(self, cache: SlotCache, num_tokens: int) -> Step:
        if num_tokens not in self._steps:
            self._steps[num_tokens] = Step.allocate(
                len(self._rows), num_tokens, cache.max_cache_len, vocab_size=self._vocab_size
            )
        return self._steps[num_tokens]

    def _verify(self, row: _Row, step: Step, place: int) -> int:
        """Append what greedy decoding chooses, as far as the guess is right; how many tokens."""
        guess = row.guess
        right = 0
        while True:
            token, score, logprob = self._choose(row, step, place, right)
            self._append(row, place, token, score, logprob)
            if right == len(guess) or token != guess[right] or row.sequence.finish_reason:
                break
            right += 1
        if guess:
            self._drafter.learn(place, len(guess), right)
        return right + 1

    def _choose(self, row: _Row, step: Step, place: int, query: int) -> tuple[int, float, float]:
        """A token, its score and its log-probability, where they are asked for."""
        forced = self._batch.forces_end(row.remaining)
        if forced is not None:
            return forced, 0.0, 0.0
        if step.logits is None:
            return int(step.next_token_ids[place, query]), 0.0, 0.0
        scores: Scores = step.logits[place, query : query + 1].copy()
        if self._batch.processors:
            decoder_prompt = self._batch.decoder_prompt[row.number]
            tokens = np.array([[*decoder_prompt, *row.sequence.token_ids]], np.int64)
            rows = Rows(tokens, np.array([row.number], np.int64))
            scores = self._batch.processors(rows, scores)
            if np.isneginf(scores.max()):
                raise self._batch.no_continuation(row.sequence.token_ids)
        token = int(scores.argmax())
        asked = self._batch.config.return_scores, self._batch.call.logprobs
        if not any(asked):
            return token, 0.0, 0.0
        logprob = float(scores[0, token] - logsumexp(scores)[0])
        return token, logprob * asked[0], logprob * asked[1]

    def _append(
        self, row: _Row, place: int, token: int, score: float = 0.0, logprob: float = 0.0
    ) -> None:
        sequence = row.sequence
        sequence.token_ids.append(token)
        sequence.score += score
        sequence.logprob += logprob
        row.last = token
        row.remaining -= 1
        self._drafter.append(place, token)
        sequence.finish_reason = self._batch.stopping.reason(sequence.token_ids) or (
            LENGTH if row.remaining == 0 else None
        )
