"""Logits processors: what may come next, and how probable it is made.

Each is a function of the tokens so far and keeps nothing between steps, so hypotheses can be
reordered, dropped and verified in any order. The order of application and the arithmetic are
those of ``transformers``' processors of the same names (its ``_get_logits_processor``): with beam
search they edit log-probabilities, else logits. What shapes the distribution that tokens are drawn
from comes after them, in :mod:`.warpers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..backends.base import Ids
from ..errors import InputError
from ..numerics import Scores
from .config import GenerationConfig
from .processor import BanProcessor, LogitsProcessor, PrefixAllowedTokens, Processor, Rows


class Processors:
    """The processors of a call, in order. Falsy if there are none."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = tuple(processors)

    def __bool__(self) -> bool:
        return bool(self._processors)

    @property
    def only_ban(self) -> bool:
        """Whether all that they do is to let tokens not come, whatever the scores are."""
        return all(isinstance(processor, BanProcessor) for processor in self._processors)

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        """The edited scores [R, V]; ``scores`` may be overwritten."""
        for processor in self._processors:
            scores = processor(rows, scores)
        return scores


class ByLength(Processors):
    """Of sources with prompts of different lengths: each length has processors of its own.

    A source's results then do not depend on its batch.

    Args:
        lengths: [B], tokens before each source's prefix; rows are filled up on the left to the
            longest.
        made: the processors of each length.
    """

    def __init__(self, lengths: Ids, made: Mapping[int, Processors]) -> None:
        self._lengths = lengths
        self._made = made

    def __bool__(self) -> bool:
        return any(self._made.values())

    @property
    def only_ban(self) -> bool:
        return all(processors.only_ban for processors in self._made.values())

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        lengths = self._lengths[rows.sources]
        for length, processors in self._made.items():
            mine = np.flatnonzero(lengths == length)
            if mine.size:
                tokens = rows.token_ids[mine, self._lengths.max() - length :]
                unscored = rows.unscored_logsumexp
                part = Rows(
                    tokens, rows.sources[mine], None if unscored is None else unscored[mine]
                )
                scores[mine] = processors(part, scores[mine])
                if unscored is not None and part.unscored_logsumexp is not None:
                    unscored[mine] = part.unscored_logsumexp
        return scores


@dataclass(frozen=True)
class Context:
    """What processors need to know of the batch.

    ``prompt_length`` counts start token and prefix, ``forced_length`` the forced BOS too, and
    ``max_length`` all tokens that there may be.
    """

    sources: Sequence[Sequence[int]]
    numbers: Sequence[int]
    eos: tuple[int, ...]
    prompt_length: int
    forced_length: int
    max_length: int


def build_processors(
    config: GenerationConfig, context: Context, others: Sequence[Processor] = ()
) -> Processors:
    """The processors that ``config`` (as checked) asks for, and ``others`` after them."""
    chain: list[Processor] = []
    eos = np.array(context.eos, np.int64)
    start = context.prompt_length
    if config.sequence_bias:
        biases = cast("Mapping[tuple[int, ...], float]", config.sequence_bias)
        chain.append(SequenceBias(biases))
    if config.encoder_repetition_penalty != 1.0:
        chain.append(EncoderRepetitionPenalty(config.encoder_repetition_penalty, context.sources))
    if config.repetition_penalty != 1.0:
        chain.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        chain.append(NoRepeatNgram(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        chain.append(EncoderNoRepeatNgram(config.encoder_no_repeat_ngram_size, context.sources))
    if config.bad_words_ids:
        chain.append(BadWords(config.bad_words_ids, context.eos))
    least = config.min_length
    if config.min_new_tokens is not None:
        least = start + config.min_new_tokens
    if least and eos.size:
        chain.append(MinLength(least, eos))
    if config.prefix_allowed_tokens is not None:
        chain.append(PrefixAllowed(config.prefix_allowed_tokens, context.numbers))
    # A single forced token is put in its place without a step; it needs no processor.
    if isinstance(config.forced_bos_token_id, tuple) and start == 1:
        chain.append(Forced(config.forced_bos_token_id, only_at=1))
    if isinstance(config.forced_eos_token_id, tuple):
        chain.append(Forced(config.forced_eos_token_id, only_at=context.max_length - 1))
    if config.remove_invalid_values:
        chain.append(RemoveInvalid())
    if config.exponential_decay_length_penalty is not None and eos.size:
        chain.append(ExponentialDecay(config.exponential_decay_length_penalty, start, eos))
    if config.suppress_tokens:
        chain.append(Suppress(config.suppress_tokens))
    if config.begin_suppress_tokens:
        shifted = start == 1 and config.forced_bos_token_id is not None
        chain.append(Suppress(config.begin_suppress_tokens, only_at=start + shifted))
    chain += [_Custom(processor) for processor in config.logits_processors]
    return Processors([*chain, *others])


class SequenceBias:
    """Adds to the score of a token that completes one of the sequences.

    Sequences of one length are compared at once.
    """

    def __init__(self, biases: Mapping[tuple[int, ...], float]) -> None:
        self._groups = []
        for length in sorted({len(tokens) for tokens in biases}):
            group = [tokens for tokens in biases if len(tokens) == length]
            sequences = np.array(group, np.int64)
            added = np.array([biases[tokens] for tokens in group], np.float32)
            self._groups.append((sequences[:, :-1], sequences[:, -1], added))

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        length = rows.token_ids.shape[1]
        for before, last, added in self._groups:
            if before.shape[1] == 0:
                scores[:, last] += added
            elif before.shape[1] <= length:
                recent = rows.token_ids[:, None, length - before.shape[1] :]
                row, sequence = np.nonzero((recent == before).all(axis=2))
                np.add.at(scores, (row, last[sequence]), added[sequence])
        return scores


class EncoderRepetitionPenalty:
    """Raises the scores of the source's tokens (``penalty`` above 1), each source's its own."""

    def __init__(self, penalty: float, sources: Sequence[Sequence[int]]) -> None:
        self._penalty = np.float32(1 / penalty)
        self._sources = [np.unique(np.array(source, np.int64)) for source in sources]

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        for row, source in enumerate(rows.sources):
            tokens = self._sources[source]
            there = scores[row, tokens]
            scores[row, tokens] = np.where(there < 0, there * self._penalty, there / self._penalty)
        return scores


class RepetitionPenalty:
    """Source: Keskar et al. 2019, "CTRL", section 4.1; negative scores are multiplied."""

    def __init__(self, penalty: float) -> None:
        self._penalty = np.float32(penalty)

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        there = np.take_along_axis(scores, rows.token_ids, axis=1)
        there = np.where(there < 0, there * self._penalty, there / self._penalty)
        np.put_along_axis(scores, rows.token_ids, there, axis=1)
        return scores


class NoRepeatNgram(BanProcessor):
    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        tokens, size = rows.token_ids, self._size
        if tokens.shape[1] >= size:
            row, token = _completions(tokens, tokens, size)
            scores[row, token] = -np.inf
        return scores


class EncoderNoRepeatNgram(BanProcessor):
    def __init__(self, size: int, sources: Sequence[Sequence[int]]) -> None:
        self._size = size
        self._sources = [np.array(source, np.int64) for source in sources]

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        size = self._size
        for row, source in enumerate(rows.sources):
            known = self._sources[source]
            if len(known) >= size and rows.token_ids.shape[1] >= size - 1:
                _, token = _completions(known[None], rows.token_ids[row : row + 1], size)
                scores[row, token] = -np.inf
        return scores


def _completions(known: Ids, tokens: Ids, size: int) -> tuple[Ids, Ids]:
    """Rows and tokens that would complete an n-gram of ``known`` after ``tokens``."""
    windows = sliding_window_view(known, size, axis=1)  # [R, L - size + 1, size]
    recent = tokens[:, tokens.shape[1] - size + 1 :]
    row, place = np.nonzero((windows[..., :-1] == recent[:, None]).all(axis=2))
    return row, windows[row, place, -1]


class BadWords(SequenceBias):
    """Sequences of token ids that may not be completed; a lone end token is always allowed."""

    def __init__(self, words: Sequence[Sequence[int]], eos: Sequence[int]) -> None:
        alone = {(token,) for token in eos}
        super().__init__(dict.fromkeys({tuple(word) for word in words} - alone, -np.inf))


class MinLength(BanProcessor):
    """No end token before there are ``length`` tokens, the decoder prompt counted in."""

    def __init__(self, length: int, eos: Ids) -> None:
        self._length = length
        self._eos = eos

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        if rows.token_ids.shape[1] < self._length:
            scores[:, self._eos] = -np.inf
        return scores


class PrefixAllowed:
    """The caller's function, told each source's place in the caller's own list."""

    def __init__(self, allowed: PrefixAllowedTokens, numbers: Sequence[int]) -> None:
        self._allowed = allowed
        self._numbers = numbers

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        forbidden = np.ones(scores.shape, np.bool_)
        for row, source in enumerate(rows.sources):
            tokens = np.asarray(self._allowed(self._numbers[source], rows.token_ids[row]), np.int64)
            if tokens.size and not 0 <= tokens.min() <= tokens.max() < scores.shape[1]:
                raise InputError(
                    f"prefix_allowed_tokens returned {tokens.tolist()}, outside the"
                    f" {scores.shape[1]} token ids"
                )
            forbidden[row, tokens] = False
        scores[forbidden] = -np.inf
        # Where other options forbid all that is allowed, in all rows of a source, it comes anyway.
        dead = np.isneginf(scores.max(axis=1))
        for source in np.unique(rows.sources[dead]) if dead.any() else ():
            mine = rows.sources == source
            if dead[mine].all():
                scores[mine] = np.where(forbidden[mine], -np.inf, 0)
        return scores


class Suppress(BanProcessor):
    """Tokens that may not come; with ``only_at``, when so many tokens are there."""

    def __init__(self, tokens: Sequence[int], *, only_at: int | None = None) -> None:
        self._tokens = np.array(tokens, np.int64)
        self._only_at = only_at

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        if self._only_at is None or rows.token_ids.shape[1] == self._only_at:
            scores[:, self._tokens] = -np.inf
        return scores


class Forced:
    """One of ``tokens``, all alike, when there are ``only_at`` tokens."""

    def __init__(self, tokens: Sequence[int], *, only_at: int) -> None:
        self._tokens = np.array(tokens, np.int64)
        self._only_at = only_at

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        if rows.token_ids.shape[1] == self._only_at:
            scores[:] = -np.inf
            scores[:, self._tokens] = 0
        return scores


class RemoveInvalid:
    """Scores that are nan become 0, infinite ones the largest finite ones."""

    def __call__(self, _rows: Rows, scores: Scores) -> Scores:
        return np.nan_to_num(scores, copy=False)


class ExponentialDecay:
    """Favours an end token the more, the longer a sequence has been longer than ``start``."""

    def __init__(self, penalty: tuple[int, float], prompt_length: int, eos: Ids) -> None:
        self._start = prompt_length + penalty[0]
        self._factor = np.float64(penalty[1])
        self._eos = eos

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        since = rows.token_ids.shape[1] - self._start
        if since > 0:
            ends = scores[:, self._eos]
            # A forbidden end stays so, and what remove_invalid_values made of it too.
            allowed = np.isfinite(ends) & (ends > np.finfo(np.float32).min)
            with np.errstate(over="ignore", invalid="ignore"):
                growth = np.float32(self._factor**since - 1)
                scores[:, self._eos] = np.where(allowed, ends + np.abs(ends) * growth, ends)
        return scores


class _Custom:
    def __init__(self, processor: LogitsProcessor) -> None:
        self._processor: Callable[[Ids, Scores], Scores] = processor

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        edited = self._processor(rows.token_ids, scores)
        if not isinstance(edited, np.ndarray) or edited.shape != scores.shape:
            shape = getattr(edited, "shape", type(edited).__name__)
            raise InputError(f"a logits processor must return {scores.shape} scores, not {shape}")
        return edited.astype(np.float32, copy=False)
