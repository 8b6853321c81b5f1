"""Beam search and greedy decoding find what transformers' generate finds, and as good.

What counts as the same, and what as a tie, is in ``comparison.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import pytest
import torch

from seq2edge.runtime.backends.onnxruntime import OrtSlots

from .comparison import (
    COMBOS_A_GROUP,
    GROUPS,
    NEW_TOKENS,
    SHAPES,
    TIE,
    Combo,
    Comparison,
    Subject,
    SubjectOf,
    combos,
)


@pytest.fixture(scope="module")
def lively(subject_of: SubjectOf, ends_of: Callable[[str], list[int]]) -> Callable[[str], Subject]:
    """A shape with one end token that is often reached."""
    return lambda shape: subject_of(shape, ends_of(shape)[:1])


def test_the_combinations_cover_all_pairs_of_options() -> None:
    runs = [(combo, batch) for s, k, batch in GROUPS for combo in combos(s, k, batch)]
    assert len(set(runs)) >= 150
    beams = {combo for combo, _ in runs if combo.num_beams > 1}
    values = [
        (2, 4, 8),
        (0.0, 1.0, 2.0),
        (False, True, "never"),
        (True, False),  # one result, or as many as beams
        (0, 2),
        (1.0, 1.3),
        (0, 8),
    ]
    rows = [combo._replace(num_return_sequences=combo.num_return_sequences == 1) for combo in beams]
    for one, other in combinations(range(len(values)), 2):
        assert {(row[one], row[other]) for row in rows} == set(product(values[one], values[other]))


@pytest.mark.parametrize(("shape", "num_beams", "batch"), GROUPS)
def test_every_combination_finds_what_transformers_finds(
    shape: str, num_beams: int, batch: int, lively: Callable[[str], Subject]
) -> None:
    comparison = Comparison(lively(shape))
    options = combos(shape, num_beams, batch)
    assert len(set(options)) == (8 if num_beams == 1 else COMBOS_A_GROUP)
    for combo in options:
        comparison.run(batch, combo, **combo._asdict(), max_new_tokens=NEW_TOKENS)
    comparison.check()
    comparison.check_ends()
    # Options that changed nothing would show nothing.
    assert sum(len(found) for found in comparison.best.values()) >= 3 * batch


@pytest.mark.parametrize("shape", SHAPES)
def test_the_score_that_decides_on_ties_is_the_references_own(
    shape: str, lively: Callable[[str], Subject]
) -> None:
    subject = lively(shape)
    options = Combo(4, 2.0, False, 4, 2, 1.3, 0)._asdict() | {"max_new_tokens": NEW_TOKENS}
    for row in subject.expected(3, **options):
        score = subject.score_of(row.tokens, 3, row.source, **options)
        assert score == pytest.approx(row.score, abs=TIE / 10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_beams", [2, 4])
def test_several_end_tokens(
    shape: str, num_beams: int, subject_of: SubjectOf, ends_of: Callable[[str], list[int]]
) -> None:
    subject = subject_of(shape, ends_of(shape)[:2])
    comparison = Comparison(subject)
    for penalty, stopping in [(0.0, True), (2.0, False), (2.0, "never")]:
        comparison.run(
            3,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=penalty,
            early_stopping=stopping,
            max_new_tokens=NEW_TOKENS,
        )
    comparison.check()
    assert {row.tokens[-1] for row in comparison.seen} >= set(subject.ends)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_beams", [2, 4])
def test_beams_go_on_where_each_has_several_ends_that_are_best(
    shape: str, num_beams: int, subject_of: SubjectOf, ends_of: Callable[[str], list[int]]
) -> None:
    """Three candidates a beam are needed, and long sequences win by their length penalty."""
    subject = subject_of(shape, ends_of(shape)[:2])
    comparison = Comparison(subject)
    for bias, penalty in [(5.0, 2.0), (10.0, 4.0)]:
        comparison.run(
            3,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=penalty,
            early_stopping="never",
            sequence_bias={(end,): bias for end in subject.ends},
            max_new_tokens=NEW_TOKENS,
        )
    comparison.check()
    assert min(len(row.tokens) for row in comparison.seen) < 5
    assert max(len(row.tokens) for row in comparison.seen) > 8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("num_beams", "bias"), [(2, 2.0), (4, 3.0)])
def test_each_kind_of_early_stopping_finds_something_else(
    shape: str, num_beams: int, bias: float, lively: Callable[[str], Subject]
) -> None:
    subject = lively(shape)
    seen = set()
    for stopping in (False, True, "never"):
        comparison = Comparison(subject)
        comparison.run(
            3,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=2.0,
            early_stopping=stopping,
            sequence_bias={(subject.ends[0],): bias},
            max_new_tokens=NEW_TOKENS,
        )
        comparison.check()
        seen.add(tuple(tuple(row.tokens) for row in comparison.seen))
    assert len(seen) == 3


@pytest.mark.parametrize("forced", [("bos",), ("eos",), ("bos", "eos")], ids="+".join)
def test_forced_start_and_end_of_beams(
    forced: tuple[str, ...], subject_of: SubjectOf, ends_of: Callable[[str], list[int]]
) -> None:
    end, *others = ends_of("bart-scaled")
    tokens = {"bos": others[5], "eos": end}
    options = {f"forced_{name}_token_id": tokens[name] for name in forced}
    subject = subject_of("bart-scaled", [end], **options)
    comparison = Comparison(subject)
    for (num_beams, penalty), count in product([(2, 2.0), (4, 0.0)], (1, 2, NEW_TOKENS)):
        comparison.run(
            3,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=penalty,
            max_new_tokens=count,
        )
    comparison.check()
    long = [row.tokens for row in comparison.seen if len(row.tokens) == NEW_TOKENS]
    assert long
    if "bos" in forced:
        assert {row[0] for row in long} == {tokens["bos"]}
    if "eos" in forced:
        assert {row[-1] for row in long} == {end}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prefix", [[9], [9, 10, 11], [7] * 40])
def test_decoder_prefix_of_beams(
    prefix: list[int], shape: str, lively: Callable[[str], Subject]
) -> None:
    subject = lively(shape)
    start = subject.reference.config.decoder_start_token_id
    comparison = Comparison(subject)
    for batch, penalty, size in [(1, 0.0, 0), (3, 2.0, 0), (3, 0.0, 2), (1, 2.0, 2)]:
        comparison.run(
            batch,
            num_beams=4,
            num_return_sequences=4,
            length_penalty=penalty,
            no_repeat_ngram_size=size,
            min_new_tokens=3,
            max_new_tokens=NEW_TOKENS,
            decoder_input_ids=torch.tensor([[start, *prefix]] * batch),
        )
    comparison.check()
    assert all(row.tokens[: len(prefix)] == prefix for row in comparison.seen)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_beams", [1, 2, 8])
def test_a_single_new_token(shape: str, num_beams: int, lively: Callable[[str], Subject]) -> None:
    comparison = Comparison(lively(shape))
    for batch, penalty in product((1, 3), (1.0, 2.0)):
        comparison.run(
            batch,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            **({} if num_beams == 1 else {"length_penalty": penalty}),
            max_new_tokens=1,
        )
    comparison.check()
    assert {len(row.tokens) for row in comparison.seen} == {1}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bundles_own_beam_search_needs_no_options(
    shape: str, subject_of: SubjectOf, ends_of: Callable[[str], list[int]]
) -> None:
    subject = subject_of(
        shape,
        ends_of(shape)[:1],
        num_beams=4,
        length_penalty=2.0,
        no_repeat_ngram_size=3,
        min_length=6,
        max_length=20,
        early_stopping=True,
    )
    comparison = Comparison(subject)
    found = subject.model.generate_ids(*subject.batch(3))
    comparison.compare(3, "the bundle's own", subject.expected(3), found, {})
    comparison.check()
    greedy = [row.tokens for row in subject.expected(3, num_beams=1)]
    assert [row.token_ids for row in found] != greedy
    assert all(6 <= 1 + len(row.token_ids) <= 20 for row in found)


def test_200_tokens_of_beams_over_cache_growth_and_packing(
    subject_of: SubjectOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"grow": 0, "compact": 0}

    def counted(name: str) -> Callable[..., None]:
        method = getattr(OrtSlots, name)

        def call(decoder: OrtSlots, argument: Any) -> None:
            calls[name] += 1
            method(decoder, argument)

        return call

    for name in calls:
        monkeypatch.setattr(OrtSlots, name, counted(name))
    comparison = Comparison(subject_of("t5-v1.1", [1]))
    for batch in (1, 3):  # one source packs its cache, of three one needs it grown
        comparison.run(batch, num_beams=4, num_return_sequences=4, max_new_tokens=200)
    comparison.check()
    assert min(calls.values()) >= 2, calls
    assert max(len(row.tokens) for row in comparison.seen) == 200
    # Tokens that repeat from slot 64 on would not show a cache that lost its past.
    assert max(len(set(row.tokens[64:])) for row in comparison.seen) >= 10
