"""Batches: which sources run together changes neither results nor their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import Generation, InputError

from ...batches import assert_same_generations, padded
from .copying import ENDS, Recorded, lively_bundle

TEXTS = [
    "a text of some length, longer than others",
    "x",
    "three words here",
    "another one, with a letter that takes two bytes: \u00fc",
    "ab",
    "12345 67890",
    "the last of them",
]
#: Ways to decode; those of the same name elsewhere are the same.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy with scores": {"return_scores": True, "repetition_penalty": 1.2},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "samples": {"do_sample": True, "seed": 7, "num_return_sequences": 3},
    "lookup": {"prompt_lookup_num_tokens": 4},
}
#: An end token that is in no source, and those that are none.
END = ENDS[-1]
ORDINARY = [token for token in range(3, 384) if token not in ENDS]
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.fixture(scope="module")
def bundle(variant_of: Callable[..., Any]) -> Path:
    """A random T5 with ByT5's tokenizer, whose outputs end at different times."""
    return lively_bundle(variant_of, "t5-v1.1")


@pytest.fixture(scope="module", params=[True, False], ids=["refilled", "halved"])
def recorded(bundle: Path, request: pytest.FixtureRequest) -> Recorded:
    return Recorded(bundle, replaces_rows=request.param)


@pytest.fixture(scope="module")
def halved(bundle: Path) -> Recorded:
    """Its backend cannot give a row to another source."""
    return Recorded(bundle, replaces_rows=False)


def generate(recorded: Recorded, texts: list[str], way: dict[str, Any], **how: Any) -> Any:
    config = replace(recorded.model.generation_config, max_new_tokens=24)
    return recorded.model.generate(texts, replace(config, **way), **how)


def progress_of(
    recorded: Recorded, texts: list[str], way: dict[str, Any], size: int | None
) -> list[tuple[int, int]]:
    """What the progress callback is called with."""
    calls: list[tuple[int, int]] = []
    generate(recorded, texts, way, batch_size=size, progress=lambda *at: calls.append(at))
    return calls


def best_of_each(found: list[Generation]) -> list[Generation]:
    """The first result of each text; that they come in the texts' order is checked."""
    sources = [row.source for row in found]
    assert sources == sorted(sources) and {*sources} == {*range(len(TEXTS))}
    return [found[sources.index(number)] for number in range(len(TEXTS))]


@each_way
def test_batches_give_what_each_text_gives_alone_in_the_callers_order(
    recorded: Recorded, way: dict[str, Any]
) -> None:
    alone = [row for text in TEXTS for row in generate(recorded, [text], way)]
    assert len({tuple(row.token_ids) for row in alone}) > len(TEXTS) // 2
    for size in (1, 2, 3, 7, 100, None):
        assert_same_generations(generate(recorded, TEXTS, way, batch_size=size), alone)
    backwards = generate(recorded, TEXTS[::-1], way, batch_size=2)
    results = len(alone) // len(TEXTS)
    groups = [backwards[at : at + results] for at in range(0, len(backwards), results)]
    assert_same_generations([row for group in groups[::-1] for row in group], alone)


@each_way
def test_token_ids_in_batches_give_what_each_row_gives_alone(
    recorded: Recorded, way: dict[str, Any]
) -> None:
    rows = recorded.model.tokenize(TEXTS)
    config = replace(recorded.model.generation_config, max_new_tokens=24, **way)
    alone = [row for ids in rows for row in recorded.model.generate_ids([ids], config=config)]
    for size in (2, None):
        found = recorded.model.generate_ids(padded(rows), config=config, batch_size=size)
        assert_same_generations(found, alone)


@each_way
def test_progress_counts_sources_up_to_all_of_them(recorded: Recorded, way: dict[str, Any]) -> None:
    for size in (1, 3, 7, None):
        calls = progress_of(recorded, TEXTS, way, size)
        done = [finished for finished, _ in calls]
        assert {total for _, total in calls} == {7}
        assert done == sorted({*done}) and done[-1] == 7
        if size == 1:
            assert done == [1, 2, 3, 4, 5, 6, 7]


def test_batches_hold_texts_of_similar_lengths(halved: Recorded) -> None:
    seen: list[tuple[int, ...]] = []

    def allowed(number: int, done: np.ndarray) -> list[int]:
        if len(done) == 1:
            seen.append((number,))
        return [1]

    generate(halved, TEXTS, {"prefix_allowed_tokens": allowed}, batch_size=2)
    lengths = [len(TEXTS[number].encode()) for (number,) in seen]
    assert lengths == sorted(len(text.encode()) for text in TEXTS)
    assert sorted(seen) == [(number,) for number in range(len(TEXTS))]


@each_way
@pytest.mark.parametrize("size", [2, 3, None])
def test_a_function_of_the_source_is_told_its_place_in_the_callers_list(
    recorded: Recorded, way: dict[str, Any], size: int | None
) -> None:
    def allowed(number: int, done: np.ndarray) -> list[int]:
        # Source i says its letter 2 * i + 2 times. A search needs a second, unlikelier one.
        letter = 100 + number
        return [letter, letter + 100] if len(done) < 2 * number + 3 else [1]

    bias = dict.fromkeys(range(200, 200 + len(TEXTS)), -100.0)
    way = {
        **way,
        "repetition_penalty": 1.0,
        "sequence_bias": bias,
        "prefix_allowed_tokens": allowed,
    }
    found = generate(recorded, TEXTS, way, batch_size=size)
    best = best_of_each(found)
    assert [row.token_ids for row in best] == [
        [100 + number] * (2 * number + 2) + [1] for number in range(len(TEXTS))
    ]


def sizes_of_runs(lengths: list[int]) -> list[int]:
    """Batch sizes of decoder runs, if a batch shrinks as soon as half of it is done.

    ``lengths``: tokens of each source, one a run.
    """
    sizes, size = [], len(lengths)
    for done in range(max(lengths)):
        left = sum(length > done for length in lengths)
        if 2 * left <= size:
            size = left
        sizes.append(size)
    return sizes


def ends_after(lengths: list[int]) -> dict[str, Any]:
    """Options that make source i end after ``lengths[i]`` tokens."""

    def allowed(number: int, done: np.ndarray) -> list[int]:
        return [END] if len(done) >= lengths[number] else ORDINARY

    return {"prefix_allowed_tokens": allowed}


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([2, 4, 6, 8, 10, 12, 14], [7] * 8 + [3] * 4 + [1] * 2),
        ([3] * 7, [7] * 3),
        ([9, 1, 1, 1, 9, 1, 9], [7] + [3] * 8),
        ([1, 9, 8, 8, 8, 8, 8], [7] * 8 + [1]),
        ([5, 1, 1, 1, 1, 1, 2], [7] + [2] + [1] * 3),
    ],
)
def test_a_batch_halves_once_half_of_it_is_done(
    halved: Recorded, lengths: list[int], sizes: list[int]
) -> None:
    options = ends_after(lengths)
    expected = [
        row
        for number, text in enumerate(TEXTS)
        for row in generate(halved, [text], ends_after(lengths[number:]))
    ]
    halved.runs(), halved.kept()
    found = generate(halved, TEXTS, options)
    assert [run.batch_size for run in halved.runs()] == sizes == sizes_of_runs(lengths)
    assert_same_generations(found, expected)
    assert [len(row.token_ids) for row in found] == lengths
    kept = [len(rows) for rows in halved.kept()]
    assert kept == [after for before, after in pairwise(sizes) if after < before]


def test_sources_that_end_by_themselves_leave_their_batch(halved: Recorded) -> None:
    halved.runs(), halved.kept()
    found = generate(halved, TEXTS, {})
    lengths = [len(row.token_ids) for row in found]
    assert len({*lengths}) >= 3
    assert [run.batch_size for run in halved.runs()] == sizes_of_runs(lengths)
    assert halved.kept()


def test_a_source_leaves_when_its_last_sample_is_done(halved: Recorded) -> None:
    halved.runs()
    way = {**WAYS["samples"], "max_new_tokens": 150}
    found = generate(halved, TEXTS, way)
    count = way["num_return_sequences"]
    lengths = [len(row.token_ids) for row in found]
    longest = [max(lengths[at : at + count]) for at in range(0, len(lengths), count)]
    runs = halved.runs()
    assert [run.batch_size for run in runs] == sizes_of_runs(longest)
    assert {run.num_tokens for run in runs} == {1, count}
    assert runs[-1].batch_size < len(TEXTS)


@pytest.mark.parametrize("name", ["beams", "lookup"])
def test_batches_of_beams_and_of_lookup_shrink_by_half_at_least(
    halved: Recorded, name: str
) -> None:
    halved.runs(), halved.kept()
    lengths = [2, 3, 4, 20, 2, 9, 3]
    found = generate(halved, TEXTS, {**WAYS[name], **ends_after(lengths)})
    sizes = [run.batch_size for run in halved.runs()]
    kept = [len(rows) for rows in halved.kept()]
    steps = [(before, after) for before, after in pairwise(sizes) if before != after]
    assert sizes[0] == 7 and sizes[-1] == 1
    assert all(2 * after <= before for before, after in steps)
    assert kept == [after for _, after in steps]
    assert [len(row.token_ids) for row in best_of_each(found)] == lengths
    alone = [
        row
        for text, length in zip(TEXTS, lengths, strict=True)
        for row in generate(halved, [text], {**WAYS[name], **ends_after([length])})
    ]
    assert_same_generations(found, alone)


@pytest.mark.parametrize("name", WAYS)
def test_options_about_the_own_source_hold_when_others_have_left(
    recorded: Recorded, name: str
) -> None:
    options = {**WAYS[name], **ends_after([9, 1, 1, 1, 9, 1, 9]), "encoder_no_repeat_ngram_size": 1}
    found = best_of_each(generate(recorded, TEXTS, options))
    for row, source in zip(found, recorded.model.tokenize(TEXTS), strict=True):
        assert not {*row.token_ids} & {*source}


@each_way
def test_cancelling_ends_every_source_and_every_batch(
    recorded: Recorded, way: dict[str, Any]
) -> None:
    found = generate(recorded, TEXTS, way, batch_size=3, cancelled=lambda: True)
    whole = generate(recorded, TEXTS, way)
    assert len(found) == len(whole)
    assert {row.finish_reason for row in found} <= {"cancelled", "eos"}
    assert all(len(row.token_ids) <= 5 for row in found)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_1_is_refused(recorded: Recorded, size: int) -> None:
    with pytest.raises(InputError, match=f"batch_size must be .* not {size}"):
        generate(recorded, TEXTS, {}, batch_size=size)
    with pytest.raises(InputError, match="batch_size"):
        generate(recorded, [], {}, batch_size=size)
    with pytest.raises(InputError, match="batch_size"):
        recorded.model.generate_ids([[5, 1]], batch_size=size)


@each_way
def test_no_text_gives_no_result_and_no_progress(recorded: Recorded, way: dict[str, Any]) -> None:
    recorded.runs()
    calls: list[tuple[int, int]] = []
    for size in (1, None):
        assert (
            generate(recorded, [], way, batch_size=size, progress=lambda *at: calls.append(at))
            == []
        )
        assert recorded.model.generate_ids([], batch_size=size) == []
    assert calls == []
    assert recorded.runs() == []
