"""Logits processors: what may come next, and how probable it is made.

Each is a function of the tokens so far and keeps nothing between steps, so hypotheses can be
reordered, dropped and verified in any order. The order of application and the arithmetic are
those of ``transformers``' processors of the same names: with beam search they edit
log-probabilities, else logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..backends.base import Ids
from ..errors import InputError
from .config import GenerationConfig, LogitsProcessor, PrefixAllowedTokens

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Hypotheses whose next token is to be chosen.

    Attributes:
        token_ids: [R, L] int64, tokens so far, the decoder start token included.
        sources: [R] int64, which source of the batch each belongs to.
    """

    token_ids: Ids
    sources: Ids


class Processor(Protocol):
    """Edits ``scores`` [R, V] in place, or returns others."""

    def __call__(self, rows: Rows, scores: Scores, /) -> Scores: ...


class Processors:
    """The processors of a call, in order. Falsy if there are none."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = tuple(processors)

    def __bool__(self) -> bool:
        return bool(self._processors)

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

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        lengths = self._lengths[rows.sources]
        for length, processors in self._made.items():
            mine = np.flatnonzero(lengths == length)
            if mine.size:
                tokens = rows.token_ids[mine, self._lengths.max() - length :]
                scores[mine] = processors(Rows(tokens, rows.sources[mine]), scores[mine])
        return scores


@dataclass(frozen=True)
class Context:
    """What processors need to know of the batch.

    ``prompt_length`` counts start token and prefix; ``forced_length`` the forced start too.
    """

    sources: Sequence[Sequence[int]]
    numbers: Sequence[int]
    eos: tuple[int, ...]
    prompt_length: int
    forced_length: int


def build_processors(
    config: GenerationConfig, context: Context, constraint: Processor | None = None
) -> Processors:
    """The processors that ``config`` asks for; most configs ask for none."""
    chain: list[Processor] = []
    eos = np.array(context.eos, np.int64)
    if config.logit_bias:
        chain.append(LogitBias(config.logit_bias))
    if config.repetition_penalty != 1.0:
        chain.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        chain.append(NoRepeatNgram(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        chain.append(EncoderNoRepeatNgram(config.encoder_no_repeat_ngram_size, context.sources))
    if config.bad_words_ids:
        chain.append(BadWords(config.bad_words_ids, context.eos))
    if config.min_length and eos.size:
        chain.append(MinLength(config.min_length, eos))
    if config.min_new_tokens and eos.size:
        chain.append(MinLength(context.prompt_length + config.min_new_tokens, eos))
    if config.prefix_allowed_tokens is not None:
        chain.append(PrefixAllowed(config.prefix_allowed_tokens, context.numbers))
    if config.suppress_tokens:
        chain.append(Suppress(config.suppress_tokens))
    if config.begin_suppress_tokens:
        chain.append(Suppress(config.begin_suppress_tokens, only_at=context.forced_length))
    chain += [_Custom(processor) for processor in config.logits_processors]
    if constraint is not None:
        chain.append(constraint)
    return Processors(chain)


class LogitBias:
    def __init__(self, bias: Mapping[int, float]) -> None:
        self._tokens = np.array(list(bias), np.int64)
        self._bias = np.array(list(bias.values()), np.float32)

    def __call__(self, _rows: Rows, scores: Scores) -> Scores:
        scores[:, self._tokens] += self._bias
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


class NoRepeatNgram:
    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        tokens, size = rows.token_ids, self._size
        if tokens.shape[1] >= size:
            row, token = _completions(tokens, tokens, size)
            scores[row, token] = -np.inf
        return scores


class EncoderNoRepeatNgram:
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


class BadWords:
    """Sequences of token ids that may not be completed; a lone end token is always allowed."""

    def __init__(self, words: Sequence[Sequence[int]], eos: Sequence[int]) -> None:
        words = [tuple(word) for word in words]
        self._words = [word for word in words if not (len(word) == 1 and word[0] in eos)]

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        length = rows.token_ids.shape[1]
        for word in self._words:
            before = len(word) - 1
            if before <= length:
                recent = rows.token_ids[:, length - before :]
                scores[(recent == word[:-1]).all(axis=1), word[-1]] = -np.inf
        return scores


class MinLength:
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
        return scores


class Suppress:
    """Tokens that may not come; with ``only_at``, when so many tokens are there."""

    def __init__(self, tokens: Sequence[int], *, only_at: int | None = None) -> None:
        self._tokens = np.array(tokens, np.int64)
        self._only_at = only_at

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        if self._only_at is None or rows.token_ids.shape[1] == self._only_at:
            scores[:, self._tokens] = -np.inf
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
