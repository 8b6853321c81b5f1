"""Beam search in which nothing is reordered but rows of a boolean mask (see :mod:`.tree`).

The rules (candidates, when a source is done, which finished sequences win) are those of
``transformers``' beam search, so that its results can be compared with ours one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Ids
from ..kv_cache import StepOutputs
from ..numerics import Scores, best_continuations, logsumexp
from .batch import GenerationBatch, Hypothesis, Results, selection
from .processor import Rows
from .sampling import Sampler
from .stopping import LENGTH
from .warpers import build_warpers


@dataclass
class Candidates:
    """Continuations of one source, best first: [K] each.

    ``logprobs`` are those of the tokens alone, where the call asks for them.
    """

    scores: NDArray[np.float64]
    parents: Ids
    tokens: Ids
    logprobs: NDArray[np.float64] | None = None


@dataclass
class BeamHypotheses:
    """The search of one source.

    ``beams`` hold tokens after the decoder start token; ``scores`` [k] are their
    log-probabilities, -inf for a beam that only fills a place; ``logprobs`` [k] become
    :attr:`.Hypothesis.logprob`. ``completed`` counts the sequences that ended.
    """

    batch: GenerationBatch
    beams: list[list[int]]
    scores: NDArray[np.float64]
    logprobs: NDArray[np.float64]
    finished: list[Hypothesis] = field(default_factory=list)
    completed: int = 0
    done: bool = False

    def advance(
        self, candidates: Candidates, generated: int, ending: str | None
    ) -> tuple[Ids, Ids]:
        """Take up candidates with ``generated`` new tokens: the next tokens and parents [k].

        ``ending`` is why all of them end, if they do.
        """
        width = len(self.beams)
        if self.done:  # it waits for its batch to leave it behind
            return np.zeros(width, np.int64), np.arange(width)
        logprobs = self.logprobs[candidates.parents]
        if candidates.logprobs is not None:
            logprobs = logprobs + candidates.logprobs
        scores, parents, tokens = (
            array.tolist() for array in (candidates.scores, candidates.parents, candidates.tokens)
        )
        running: list[int] = []
        for rank, (score, parent, token) in enumerate(zip(scores, parents, tokens, strict=True)):
            reason = self.batch.stopping.reason_after(self.beams[parent], token) or ending
            if reason is None:
                running.append(rank)
                if len(running) == width:
                    break
            # Those below the best k are there to replace the ones that end, not to win.
            elif rank < width and score > -np.inf:
                ended = [*self.beams[parent], token]
                self._finish(Hypothesis(ended, score, reason, float(logprobs[rank])), generated)
        # Where everything ended, the source is done.
        chosen = running + [0] * (width - len(running))
        self.beams = [[*self.beams[parents[rank]], tokens[rank]] for rank in chosen]
        self.scores = candidates.scores[chosen]
        self.scores[len(running) :] = -np.inf
        self.logprobs = logprobs[chosen]
        self.done = self._is_done(generated)
        return candidates.tokens[chosen], candidates.parents[chosen]

    def _finish(self, sequence: Hypothesis, generated: int) -> None:
        """Keep the best k; the better of two equals is the one that was there."""
        sequence.score /= float(generated) ** self.batch.config.length_penalty
        self.completed += 1
        self.finished.append(sequence)
        self.finished.sort(key=lambda found: -found.score)
        del self.finished[len(self.beams) :]

    def _is_done(self, generated: int) -> bool:
        config = self.batch.config
        if self.scores[0] == -np.inf:
            return True
        if config.patience is not None:
            return self.completed >= max(1, round(config.patience * len(self.beams)))
        if len(self.finished) < len(self.beams):
            return False
        if config.early_stopping is True:
            return True
        # The best that an open beam can still reach: its log-probability only falls, but a
        # positive length_penalty favours length. Without "never" its present length counts.
        if config.early_stopping == "never" and config.length_penalty > 0:
            generated = self.batch.new_tokens
        best = self.scores[0] / float(generated) ** config.length_penalty
        return bool(best <= self.finished[-1].score)


def best_candidates(
    logits: Scores, normalizer: Scores, before: NDArray[np.float64], count: int
) -> list[Candidates]:
    """The ``count`` best continuations of each source, whose beams have the scores ``before``.

    ``logits`` are [A, k, V], the others [A, k].
    """
    found = best_continuations(logits, normalizer, before, count)
    return [Candidates(*each) for each in zip(*found, strict=True)]


class BeamSearch:
    """Beam search, or beam sampling, of one batch.

    Attributes:
        count: continuations that are looked at of each source.
    """

    def __init__(self, batch: GenerationBatch) -> None:
        self._batch = batch
        self._width = batch.config.num_beams
        # At least k of the candidates go on, even if each beam ends with every end token.
        eos = batch.manifest.special_tokens.eos
        self.count = max(2, 1 + len(eos)) * self._width
        self._warpers = build_warpers(batch.config, eos)
        self._sampler = Sampler(batch.config, batch.sources) if batch.config.do_sample else None
        start = [*batch.config.decoder_prefix, *batch.forced]
        # All beams are one at first, so only the first one counts.
        scores = np.where(np.arange(self._width) == 0, 0.0, -np.inf)
        self._searches = [
            BeamHypotheses(batch, [list(start)] * self._width, scores, np.zeros(self._width))
            for _ in range(batch.batch_size)
        ]
        self._generated = len(batch.forced)
        self._active = np.arange(batch.batch_size)
        if batch.forced:
            self._end_at_once()

    def run(self) -> Iterator[Results]:
        """Beam search; yields once a step, and the results only with the last one.

        ``results[source]`` holds ``num_return_sequences`` sequences, best first (fewer if the
        options allow no more).

        Raises:
            InputError: the options together forbid every token.
        """
        cache = None
        tokens = parents = np.zeros((0, 0), np.int64)
        while not self.done:
            if not self.ends_without_step():
                if cache is None:
                    cache = self._batch.new_cache(
                        self._width,
                        logits=True,
                        logsumexp=True,
                        num_best=self.count if self.plain else None,
                    )
                else:
                    cache.forward(tokens, parents)
                tokens, parents = self.take(cache)
            if self.done:
                break
            kept = selection([not self._searches[source].done for source in self._active])
            if kept is not None and cache is not None:
                self._active = self._active[kept]
                cache.select_batch(kept)
                tokens, parents = tokens[kept], parents[kept]
            yield [[] for _ in self._searches]
        if cache is not None:
            cache.release()
        yield self.results()

    @property
    def done(self) -> bool:
        """Whether the search of every source has ended."""
        return all(search.done for search in self._searches)

    def ends_without_step(self) -> bool:
        """Put the forced end token in the last place, if that is next."""
        forced = self._batch.forces_end(self._batch.new_tokens - self._generated)
        if forced is not None:
            self._advance(self._forced(forced))
        return forced is not None

    def take(self, outputs: StepOutputs) -> tuple[Ids, Ids]:
        """Choose from what a step gave: tokens and parents [A, k] of the next one.

        Raises:
            InputError: the options together forbid every token.
        """
        if outputs.logits is None or outputs.logsumexp is None:
            raise AssertionError("they were asked for")
        found = self._candidates(outputs.logits, outputs.logsumexp.ravel())
        if outputs.best_token_ids is not None:
            for candidates, tokens in zip(found, outputs.best_token_ids, strict=True):
                candidates.tokens = tokens[candidates.parents, candidates.tokens]
        return self.take_up(found)

    @property
    def plain(self) -> bool:
        """Whether what may follow is found from logits alone, for several searches at once."""
        return not (self._batch.processors or self._sampler or self._batch.call.logprobs)

    @property
    def scores(self) -> NDArray[np.float64]:
        """[k], of the beams of the first source."""
        return self._searches[0].scores

    def take_up(self, candidates: list[Candidates]) -> tuple[Ids, Ids]:
        """Go on with what was found for each active source: as :meth:`take`."""
        steps = self._advance(candidates)
        if len(steps) == 1:  # np.stack takes 10 us
            ((tokens, parents),) = steps
            return tokens[None], parents[None]
        return np.stack([step[0] for step in steps]), np.stack([step[1] for step in steps])

    def _advance(self, candidates: list[Candidates]) -> list[tuple[Ids, Ids]]:
        """Take up what each active source may go on with: tokens and parents [k]."""
        remaining = self._batch.new_tokens - self._generated
        self._generated += 1
        ending = LENGTH if remaining == 1 else self._batch.stopping.interrupted()
        return [
            self._searches[source].advance(found, self._generated, ending)
            for source, found in zip(self._active, candidates, strict=True)
        ]

    def _end_at_once(self) -> None:
        """Where the forced BOS ends the sequences, it is all there is."""
        interrupted = self._batch.stopping.interrupted()
        if self._batch.new_tokens <= len(self._batch.forced):
            interrupted = interrupted or LENGTH
        for search in self._searches:
            tokens = search.beams[0]
            reason = self._batch.stopping.reason(tokens) or interrupted
            if reason is not None:
                search.finished.append(Hypothesis(tokens, 0.0, reason))
                search.done = True

    def _candidates(
        self, logits: NDArray[np.float32], normalizer: NDArray[np.float32]
    ) -> list[Candidates]:
        """The best continuations of each active source, from logits [A, 1 or k, V]."""
        active, beams, size = logits.shape
        scores = logits.reshape(-1, size)
        edited = bool(self._batch.processors) or self._sampler is not None
        if edited:
            scores = scores - normalizer[:, None]
            if self._batch.processors:
                scores = self._batch.processors(self._rows(beams), scores)
            for warp in self._warpers:
                scores = warp(scores)
        normalizers = None
        if self._batch.call.logprobs:
            normalizers = logsumexp(scores) if edited else normalizer
        searches = [self._searches[source] for source in self._active]
        before = np.stack([search.scores[:beams] for search in searches])
        if self._sampler is not None:
            totals = scores.reshape(active, beams, size) + before[:, :, None]
            found = self._drawn(self._sampler, totals)
            if normalizers is not None:
                self._add_logprobs(found, scores, normalizers)
            return found
        if edited:
            normalizer = np.zeros_like(normalizer)
        shape = (active, beams)
        found = best_candidates(
            scores.reshape(*shape, size), normalizer.reshape(shape), before, self.count
        )
        if normalizers is not None:
            self._add_logprobs(found, scores, normalizers)
        return found

    def _add_logprobs(
        self, found: list[Candidates], scores: Scores, normalizers: NDArray[np.float32]
    ) -> None:
        beams = len(scores) // len(found)
        for place, candidates in enumerate(found):
            rows = place * beams + candidates.parents
            chosen = scores[rows, candidates.tokens] - normalizers[rows]
            candidates.logprobs = chosen.astype(np.float64)

    def _drawn(self, sampler: Sampler, totals: NDArray[np.float64]) -> list[Candidates]:
        """Drawn continuations of each active source, from the scores [A, k, V] of all."""
        found = []
        for source, scores in zip(self._active, totals, strict=True):
            places = sampler.draw_candidates(scores.ravel(), self.count, int(source))
            # Where fewer may come than there are places, the rest leads nowhere.
            drawn = Candidates(
                np.full(self.count, -np.inf),
                np.zeros(self.count, np.int64),
                np.zeros(self.count, np.int64),
            )
            drawn.scores[: len(places)] = scores.ravel()[places]
            drawn.parents[: len(places)], drawn.tokens[: len(places)] = np.divmod(
                places, scores.shape[1]
            )
            found.append(drawn)
        return found

    def _forced(self, token: int) -> list[Candidates]:
        """Each beam goes on with ``token`` and keeps its score."""
        order = np.arange(self._width)
        tokens = np.full(self._width, token, np.int64)
        return [Candidates(self._searches[s].scores, order, tokens) for s in self._active]

    def _rows(self, beams: int) -> Rows:
        decoder_prompt = self._batch.decoder_prompt
        first = decoder_prompt.shape[1]
        length = first + len(self._batch.config.decoder_prefix) + self._generated
        tokens = np.zeros((len(self._active), beams, length), np.int64)
        for place, source in enumerate(self._active):
            tokens[place, :, :first] = decoder_prompt[source]
            for beam, found in enumerate(self._searches[source].beams[:beams]):
                # Those of a source that is done are shorter, and nothing comes of them.
                tokens[place, beam, first : first + len(found)] = found
        return Rows(tokens.reshape(-1, length), np.repeat(self._active, beams))

    def results(self) -> Results:
        """The best finished sequences of each source.

        Raises:
            InputError: the options together forbid every token.
        """
        wanted = self._batch.config.num_return_sequences
        for search in self._searches:
            if not search.finished:
                raise self._batch.no_continuation(search.beams[0])
        return [search.finished[:wanted] for search in self._searches]
