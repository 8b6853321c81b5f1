"""Processors that edit scores: each against transformers' own, for every length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from seq2edge.runtime.generation import logits_processors as ours
from seq2edge.runtime.generation.config import GenerationConfig
from seq2edge.runtime.generation.logits_processors import (
    Context,
    Processor,
    Processors,
    Rows,
    build_processors,
)

#: A vocabulary and a batch so small that every n-gram comes again.
_VOCAB, _ROWS, _MOST = 10, 4, 12
EOS = (1, 3)
Scores = np.ndarray[Any, np.dtype[np.float32]]


def random_rows(length: int) -> tuple[Rows, Scores]:
    """Two hypotheses for each of two sources, and a score for each of their next tokens."""
    generator = np.random.default_rng(length)
    tokens = generator.integers(0, _VOCAB, (_ROWS, length))
    scores = generator.normal(size=(_ROWS, _VOCAB)).astype(np.float32)
    return Rows(tokens, np.array([0, 0, 1, 1])), scores


def assert_same_scores(mine: Processor, reference: Any, differs_at: set[int] | None = None) -> None:
    """For every length; ``differs_at``: the lengths at which it must edit, or any of them."""
    edited_at = set()
    for length in range(1, _MOST + 1):
        rows, scores = random_rows(length)
        expected = reference(torch.tensor(rows.token_ids), torch.tensor(scores)).numpy()
        found = mine(rows, scores.copy())
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32
        if not np.array_equal(expected, scores):
            edited_at.add(length)
    assert edited_at == differs_at if differs_at is not None else edited_at


@pytest.mark.parametrize("penalty", [0.7, 1.3, 5.0])
def test_repetition_penalty(penalty: float) -> None:
    assert_same_scores(
        ours.RepetitionPenalty(penalty), theirs.RepetitionPenaltyLogitsProcessor(penalty)
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat_ngram_size(size: int) -> None:
    assert_same_scores(ours.NoRepeatNgram(size), theirs.NoRepeatNGramLogitsProcessor(size))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_encoder_no_repeat_ngram_size(size: int) -> None:
    sources = np.random.default_rng(7).integers(0, _VOCAB, (2, 30))
    assert_same_scores(
        ours.EncoderNoRepeatNgram(size, sources.tolist()),
        theirs.EncoderNoRepeatNGramLogitsProcessor(size, torch.tensor(sources)),
    )


def test_encoder_no_repeat_ngram_size_of_more_than_the_source_allows_all() -> None:
    rows, scores = random_rows(6)
    found = ours.EncoderNoRepeatNgram(3, [[5, 6], [7]])(rows, scores.copy())
    np.testing.assert_array_equal(found, scores)


@pytest.mark.parametrize(
    "words",
    [
        [[4]],
        [[4], [7]],
        [[2, 4]],
        [[1], [3], [4]],  # lone end tokens stay allowed
        [[1, 3], [5]],
        [[first, second] for first in range(_VOCAB) for second in range(0, _VOCAB, 3)],
        [[a, b, c] for a in range(0, _VOCAB, 2) for b in range(_VOCAB) for c in (0, 1, 5)] + [[6]],
    ],
    ids=["one", "two", "a pair", "end tokens", "a pair of end tokens", "pairs", "triples"],
)
def test_bad_words_ids(words: list[list[int]]) -> None:
    assert_same_scores(
        ours.BadWords(words, EOS), theirs.NoBadWordsLogitsProcessor(words, eos_token_id=list(EOS))
    )


def test_a_lone_end_token_among_the_bad_words_stays_allowed() -> None:
    rows, scores = random_rows(5)
    found = ours.BadWords([[1], [3]], EOS)(rows, scores.copy())
    np.testing.assert_array_equal(found, scores)


@pytest.mark.parametrize("tokens", [[4], [0, 3, 9], list(range(_VOCAB))])
def test_suppress_tokens(tokens: list[int]) -> None:
    assert_same_scores(ours.Suppress(tokens), theirs.SuppressTokensLogitsProcessor(tokens))


@pytest.mark.parametrize("place", [1, 2, 5])
def test_begin_suppress_tokens(place: int) -> None:
    assert_same_scores(
        ours.Suppress([0, 3, 9], only_at=place),
        theirs.SuppressTokensAtBeginLogitsProcessor([0, 3, 9], place),
        differs_at={place},
    )


def processors_of(**options: Any) -> Processors:
    """Those of the options, after a prompt of three tokens and a forced one."""
    context = Context(
        sources=[[5], [6]],
        numbers=[0, 1],
        eos=EOS,
        prompt_length=3,
        forced_length=4,
        max_length=_MOST,
    )
    return build_processors(GenerationConfig(**options), context)


@pytest.mark.parametrize("length", [2, 7])
def test_min_length(length: int) -> None:
    assert_same_scores(
        processors_of(min_length=length),
        theirs.MinLengthLogitsProcessor(length, torch.tensor(EOS)),
        differs_at=set(range(1, length)),
    )


@pytest.mark.parametrize("length", [1, 2, 7])
def test_min_new_tokens(length: int) -> None:
    assert_same_scores(
        processors_of(min_new_tokens=length),
        theirs.MinNewTokensLengthLogitsProcessor(3, length, torch.tensor(EOS)),
        differs_at=set(range(1, 3 + length)),
    )


@pytest.mark.parametrize(
    "bias",
    [
        {(0,): 2.5, (4,): -1.0, (9,): -np.inf},
        {(first, second): 0.5 + first for first in range(_VOCAB) for second in (0, 3)},
        {(2,): 1.0, (5, 2): -3.0, (1, 5, 2): 4.0, (6, 6): -np.inf}
        | {(a, b, 7): a - 0.5 * b for a in range(_VOCAB) for b in range(_VOCAB)},
    ],
    ids=["single tokens", "pairs", "mixed"],
)
def test_sequence_bias(bias: dict[tuple[int, ...], float]) -> None:
    assert_same_scores(ours.SequenceBias(bias), theirs.SequenceBiasLogitsProcessor(bias))


@pytest.mark.parametrize("penalty", [0.6, 1.5])
def test_encoder_repetition_penalty(penalty: float) -> None:
    sources = np.array([[5, 5, 8, 2], [0, 7, 1, 3]])
    reference = theirs.EncoderRepetitionPenaltyLogitsProcessor(penalty, torch.tensor(sources))
    assert_same_scores(ours.EncoderRepetitionPenalty(penalty, sources.tolist()), reference)


@pytest.mark.parametrize("start", [-2, 0, 4])
def test_exponential_decay_length_penalty(start: int) -> None:
    reference = theirs.ExponentialDecayLengthPenalty((start, 1.4), list(EOS), 3)
    assert_same_scores(
        processors_of(exponential_decay_length_penalty=(start, 1.4)),
        reference,
        differs_at=set(range(max(1, 3 + start + 1), _MOST + 1)),
    )


def test_exponential_decay_leaves_a_forbidden_end_forbidden() -> None:
    rows, scores = random_rows(9)
    scores[:, EOS] = -np.inf
    decay = {"exponential_decay_length_penalty": (0, 3.0)}
    found = processors_of(**decay)(rows, scores.copy())
    np.testing.assert_array_equal(found, scores)
    # transformers makes it infinitely good then, and all log-probabilities nan.
    found = processors_of(**decay, remove_invalid_values=True)(rows, scores.copy())
    assert (found[:, EOS] == np.finfo(np.float32).min).all()


def test_remove_invalid_values() -> None:
    rows, scores = random_rows(4)
    scores[0, :3] = np.nan, np.inf, -np.inf
    expected = theirs.InfNanRemoveLogitsProcessor()(
        torch.tensor(rows.token_ids), torch.tensor(scores)
    )
    np.testing.assert_array_equal(ours.RemoveInvalid()(rows, scores.copy()), expected.numpy())


@pytest.mark.parametrize("tokens", [(4, 2), (7, 7, 0)])
def test_forced_tokens(tokens: tuple[int, ...]) -> None:
    assert_same_scores(
        ours.Forced(tokens, only_at=1),
        theirs.ForcedBOSTokenLogitsProcessor(list(tokens)),  # type: ignore[arg-type]
        differs_at={1},
    )
    assert_same_scores(
        processors_of(forced_eos_token_id=tokens),
        theirs.ForcedEOSTokenLogitsProcessor(_MOST, list(tokens)),
        differs_at={_MOST - 1},
    )


def every_third(source: int, tokens: Any) -> list[int]:
    """Tokens that depend on the source, on the last token and on the length."""
    return list(range((source + int(tokens[-1]) + len(tokens)) % 3, _VOCAB, 3))


def test_prefix_allowed_tokens() -> None:
    assert_same_scores(
        ours.PrefixAllowed(every_third, [0, 1]),
        theirs.PrefixConstrainedLogitsProcessor(every_third, 2),
        differs_at=set(range(1, _MOST + 1)),
    )


def test_without_options_there_is_no_processor() -> None:
    assert not processors_of(num_beams=4, do_sample=True, top_k=5, forced_bos_token_id=3)
