"""Prompt-lookup decoding is greedy decoding in fewer decoder runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import Generation, GenerationConfig

from ...batches import padded
from .copying import (
    ENDS,
    Recorded,
    Run,
    copy_of_source,
    copying_bundle,
    copying_source,
    lively_bundle,
)

#: Sources to copy; the last one makes the cache grow twice.
COPIED = [copying_source(length, seed) for seed, length in enumerate((20, 35, 47, 60, 150))]
SHAPES = ("t5-v1.1", "bart-scaled")


def _processor(token_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Depends on all tokens so far, whichever rows they come in."""
    for row, tokens in enumerate(token_ids):
        scores[row, (tokens * (1 + np.arange(len(tokens)))).sum() % 97 :: 97] += 2.0
    return scores


#: One entry a test of random models: options that both ways of decoding get.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prefix": {"decoder_prefix": (9, 10, 11)},
    "forced BOS": {"forced_bos_token_id": 7},
    "forced end": {"forced_bos_token_id": 7, "forced_eos_token_id": 1},
    "scores": {"return_scores": True},
    "scores and prefix": {"return_scores": True, "decoder_prefix": (30, 40)},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "repetition_penalty": {"repetition_penalty": 1.3, "return_scores": True},
    "min_new_tokens": {"min_new_tokens": 15},
    "bad_words_ids": {"bad_words_ids": (*((n,) for n in range(3, 384, 2)), (8, 10))},
    "begin_suppress_tokens": {"begin_suppress_tokens": tuple(range(3, 300))},
    "logits_processors": {"logits_processors": (_processor,), "return_scores": True},
    "several": {"no_repeat_ngram_size": 2, "min_new_tokens": 9, "forced_eos_token_id": 1},
}


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(copying_bundle(tmp_path_factory.mktemp("copying")))


@pytest.fixture(scope="module")
def lively(variant_of: Callable[..., Any]) -> Callable[[str], Recorded]:
    """A function from a shape to a random model of it."""
    loaded: dict[str, Recorded] = {}

    def get(shape: str) -> Recorded:
        if shape not in loaded:
            loaded[shape] = Recorded(lively_bundle(variant_of, shape))
        return loaded[shape]

    return get


def lookup(config: GenerationConfig, most: int = 10, longest: int = 2) -> GenerationConfig:
    return replace(config, prompt_lookup_num_tokens=most, max_matching_ngram_size=longest)


def lively_rows(recorded: Recorded) -> np.ndarray:
    """Four random sources of 8 to 70 tokens; a token of the output is often in them."""
    rng, special = np.random.default_rng(1), recorded.model.manifest.special_tokens
    rows = [[*rng.integers(3, 384, length).tolist(), special.eos[0]] for length in (33, 8, 69, 50)]
    return padded(rows, special.pad)


def tokens(found: list[Generation]) -> list[list[int]]:
    return [row.token_ids for row in found]


def both(
    recorded: Recorded, rows: np.ndarray, config: GenerationConfig, **how: int
) -> tuple[list[Run], list[Run]]:
    """Decode greedily and with lookup, compare, and give the decoder runs of each."""
    recorded.runs()
    greedy = recorded.model.generate_ids(rows, config=config)
    runs = recorded.runs()
    guessed = recorded.model.generate_ids(rows, config=lookup(config, **how))
    assert [replace(row, score=None) for row in guessed] == [
        replace(row, score=None) for row in greedy
    ]
    for one, other in zip(guessed, greedy, strict=True):
        assert (one.score is None) == (not config.return_scores)
        assert one.score == pytest.approx(other.score, abs=1e-3)
    return runs, recorded.runs()


def test_the_model_copies_its_source_with_edits(copying: Recorded) -> None:
    found = tokens(copying.model.generate_ids(padded(COPIED), max_new_tokens=200))
    assert found == [copy_of_source(source) for source in COPIED]
    assert all(copy != source[1:] for copy, source in zip(found, COPIED, strict=True))


@pytest.mark.parametrize("longest", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 2, 4, 8, 10])
def test_copies_are_those_of_greedy_decoding(copying: Recorded, most: int, longest: int) -> None:
    config = replace(copying.model.generation_config, max_new_tokens=200)
    alone = [both(copying, padded([s]), config, most=most, longest=longest) for s in COPIED]
    _, together = both(copying, padded(COPIED), config, most=most, longest=longest)
    # A row of a batch guesses what it guesses alone.
    assert len(together) == max(len(runs) for _, runs in alone)
    assert max(run.num_tokens for run in together) == most + 1


@pytest.mark.parametrize("most", [4, 8, 10])
def test_copying_takes_less_than_half_the_decoder_runs(copying: Recorded, most: int) -> None:
    config = replace(copying.model.generation_config, max_new_tokens=200)
    for source in COPIED:
        greedy, guessed = both(copying, padded([source]), config, most=most)
        assert len(greedy) == len(source) - 1
        assert 2 * len(guessed) <= len(greedy)


@pytest.mark.parametrize("limit", [1, 2, 3, 30, 63, 64, 65])
def test_no_guess_passes_max_new_tokens(copying: Recorded, limit: int) -> None:
    config = replace(copying.model.generation_config, max_new_tokens=limit, return_scores=True)
    _, guessed = both(copying, padded(COPIED), config)
    # Neither does the token after a right guess.
    assert max(run.num_tokens for run in guessed) <= max(1, limit - 1)
    found = copying.model.generate_ids(padded(COPIED[-1:]), config=lookup(config))
    assert (len(found[0].token_ids), found[0].finish_reason) == (limit, "length")


def test_a_cancelled_call_keeps_what_it_has(copying: Recorded) -> None:
    config = lookup(replace(copying.model.generation_config, max_new_tokens=200))
    answers = iter([False] * 3 + [True] * 9)
    found = copying.model.generate_ids(padded(COPIED), config=config, cancelled=answers.__next__)
    for row, source in zip(found, COPIED, strict=True):
        assert row.finish_reason == "cancelled"
        assert row.token_ids == copy_of_source(source)[: len(row.token_ids)]
        assert 4 <= len(row.token_ids) < len(source) - 1


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_random_models_decode_as_without_lookup(
    lively: Callable[[str], Recorded], shape: str, options: dict[str, Any]
) -> None:
    recorded = lively(shape)
    config = replace(recorded.model.generation_config, max_new_tokens=40, **options)
    rows = lively_rows(recorded)
    greedy, guessed = both(recorded, rows, config, most=4, longest=1)
    both(recorded, rows, config, most=10, longest=2)
    both(recorded, rows[:1], config, most=2, longest=3)
    assert any(run.num_tokens > 1 for run in guessed[1:])
    assert len(guessed) <= len(greedy)


def test_rows_of_random_models_end_early_and_leave(lively: Callable[[str], Recorded]) -> None:
    for shape in SHAPES:
        recorded = lively(shape)
        config = replace(recorded.model.generation_config, max_new_tokens=40)
        _, guessed = both(recorded, lively_rows(recorded), config)
        sizes = [run.batch_size for run in guessed]
        assert sizes[0] == 4 and sizes[-1] <= 2
        assert sizes == sorted(sizes, reverse=True)


def test_stop_strings_end_a_sequence_within_a_right_guess(
    lively: Callable[[str], Recorded],
) -> None:
    model = lively("t5-v1.1").model
    text = "abcdefghijklmnopqrstuvwxyz"
    copy = model.tokenize([text])[0]
    config = replace(
        model.generation_config,
        stop_strings=("?", "klm"),
        prefix_allowed_tokens=lambda _, done: [copy[len(done) - 1]],
        max_new_tokens=20,
    )
    greedy, guessed = both(lively("t5-v1.1"), padded([copy]), config)
    assert len(guessed) < len(greedy) // 2
    found = model.generate(text, lookup(config))
    assert (found[0].text, found[0].finish_reason) == ("abcdefghijklm", "stop_string")


def test_stop_strings_of_random_text_are_found_as_without_lookup(
    lively: Callable[[str], Recorded],
) -> None:
    recorded = lively("t5-v1.1")
    config = replace(recorded.model.generation_config, max_new_tokens=40, min_new_tokens=40)
    rows = lively_rows(recorded)
    texts = [row.text or "" for row in recorded.model.generate_ids(rows, config=config)]
    stops = tuple(text[4:6] for text in texts if text[4:6])
    assert len(stops) >= 2
    config = replace(config, stop_strings=stops)
    both(recorded, rows, config)
    reasons = {row.finish_reason for row in recorded.model.generate_ids(rows, config=config)}
    assert "stop_string" in reasons


def test_a_stream_with_lookup_gives_the_text_of_greedy_decoding(
    lively: Callable[[str], Recorded],
) -> None:
    model = lively("t5-v1.1").model
    config = replace(model.generation_config, max_new_tokens=40, min_new_tokens=40)
    stream = model.stream("some text to start from", lookup(config))
    pieces = "".join(stream)
    assert stream.result == model.generate("some text to start from", config)[0]
    assert pieces == stream.result.text


def scripted(rows: list[list[int]]) -> Callable[[int, np.ndarray], list[int]]:
    """``prefix_allowed_tokens`` that makes source i answer with ``rows[i]``, whatever it is."""

    def allowed(number: int, done: np.ndarray) -> list[int]:
        return [rows[number][min(len(done), len(rows[number])) - 1]]

    return allowed


#: A text to copy, two of other tokens and what they are answered with: nothing that repeats.
_COPY, *_OTHERS = np.random.default_rng(2).permutation(np.arange(3, 333)).reshape(3, 110).tolist()


def test_a_copy_may_fill_all_learned_positions(lively: Callable[[str], Recorded]) -> None:
    recorded = lively("bart-scaled")
    config = recorded.model.generation_config
    for prefix in ((), (3, 4, 5)):
        script = scripted([[*prefix, *_COPY[1:]], _OTHERS[0]])
        options = replace(config, decoder_prefix=prefix, prefix_allowed_tokens=script)
        options = replace(options, sequence_bias=dict.fromkeys(ENDS, -1e9))
        rows = padded([_COPY[:79], _OTHERS[1][:12]], pad=1)
        both(recorded, rows, replace(options, max_new_tokens=80 - len(prefix)))


def test_a_copy_that_filled_all_learned_positions_may_wait_for_others(
    variant_of: Callable[..., Any],
) -> None:
    recorded = Recorded(variant_of("bart-scaled").bundle)
    rows = padded([_COPY[:79], _OTHERS[0][:12], _OTHERS[1][:12]], pad=1)
    script = scripted([_COPY[1:], _OTHERS[0][12:], _OTHERS[1][12:]])
    config = replace(recorded.model.generation_config, prefix_allowed_tokens=script)
    both(recorded, rows, replace(config, max_new_tokens=80))


@pytest.mark.parametrize("size", [1, 4])
def test_nothing_to_copy_takes_as_many_runs_as_greedy_decoding_and_few_guesses(
    lively: Callable[[str], Recorded], size: int
) -> None:
    recorded = lively("t5-v1.1")
    sources, answers = [], []
    for seed in range(size):
        # Each token of the answer is in the source, and never followed there by the next one.
        source = np.random.default_rng(seed).permutation(np.arange(60, 250))
        sources.append(source.tolist())
        answers.append(source[::-1][:160].tolist())
    config = replace(
        recorded.model.generation_config,
        prefix_allowed_tokens=scripted(answers),
        max_new_tokens=160,
    )
    for most in (1, 4, 10):
        # The end tokens among them end answers; the number of runs is greedy's either way.
        greedy, guessed = both(recorded, padded(sources), config, most=most, longest=1)
        assert len(guessed) == len(greedy)
        wrong = sum(run.num_tokens - 1 for run in guessed)
        assert 0 < wrong <= size * (5 + 1 + len(guessed) // 16)


@pytest.mark.parametrize("limit", [1, 12])
def test_a_forced_end_takes_no_run_of_its_own(
    lively: Callable[[str], Recorded], limit: int
) -> None:
    recorded = lively("bart-scaled")
    script = scripted([[token for token in _OTHERS[0] if token not in ENDS]])
    config = replace(
        recorded.model.generation_config,
        prefix_allowed_tokens=script,
        max_new_tokens=limit,
        forced_eos_token_id=2,
    )
    greedy, guessed = both(recorded, padded([_OTHERS[1][:12]]), config)
    assert len(greedy) == limit - 1
    assert len(guessed) <= len(greedy)


def test_repeated_output_is_guessed_without_a_match_in_the_source(
    lively: Callable[[str], Recorded],
) -> None:
    recorded = lively("t5-v1.1")
    cycle = list(islice(iter([70, 71, 72, 73, 74] * 20), 60))
    config = replace(
        recorded.model.generation_config,
        prefix_allowed_tokens=scripted([cycle]),
        max_new_tokens=60,
    )
    greedy, guessed = both(recorded, padded([[200, 201, 202, 1]]), config)
    assert len(greedy) == 60
    assert len(guessed) <= 20
