"""Requests that come and go give what each gives alone, whatever runs beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import BackendError, ContinuousBatch, InputError, Request, Seq2SeqModel
from seq2edge.runtime.generation import stopping

from ..batches import assert_same_generations
from .generation.copying import ENDS, Recorded, Run, lively_bundle

#: Token ids of sources of 1 to 70 tokens.
SOURCES = [
    [int(token) for token in np.random.default_rng(length).integers(3, 380, length)]
    for length in (9, 1, 70, 4, 33, 2, 18, 5, 40, 3, 12, 7, 1, 25)
]
#: Options of requests that run side by side; each is some sources' own.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_beams": 4, "num_return_sequences": 2},
    {"do_sample": True, "seed": 7, "num_return_sequences": 3},
    {"return_scores": True, "repetition_penalty": 1.2},
    {"decoder_prefix": (40, 50, 60)},
    {"num_beams": 4, "max_new_tokens": 60, "length_penalty": 2.0},
    {"no_repeat_ngram_size": 2, "max_new_tokens": 70},
    {"num_beams": 3, "do_sample": True, "seed": 5, "decoder_prefix": (40, 50)},
    {"forced_bos_token_id": 44, "forced_eos_token_id": 45, "max_new_tokens": 9},
    {"num_beams": 4, "forced_bos_token_id": 44, "max_new_tokens": 1},
    {"encoder_no_repeat_ngram_size": 1, "min_new_tokens": 12},
]
SHAPES = ["t5-v1.1", "umt5", "bart", "marian", "m2m100", "t5-v1.1 lowered", "bart lowered"]


def options_of(number: int) -> dict[str, Any]:
    return {"max_new_tokens": 24, **OPTIONS[number % len(OPTIONS)]}


def alone(model: Seq2SeqModel, number: int, **options: Any) -> Any:
    options = options or options_of(number)
    return model.generate_ids([SOURCES[number]], [[1] * len(SOURCES[number])], **options)


def drained(batch: ContinuousBatch) -> list[Request]:
    """The requests in the order they ended."""
    ended = []
    while not batch.idle:
        ended += [event.request for event in batch.step() if event.request.done]
    return ended


@pytest.fixture(scope="module")
def model_of(
    variant_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Seq2SeqModel]]:
    """A function from a shape to a random model whose outputs end at different times."""
    made: dict[str, Seq2SeqModel] = {}

    def get(name: str) -> Seq2SeqModel:
        if name not in made:
            shape, _, lowered = name.partition(" ")
            bundle = lively_bundle(variant_of, shape)
            if lowered:
                out = tmp_path_factory.mktemp("lowered") / "bundle"
                quantize_bundle(bundle, out, "fp32", check=False)
                bundle = out
            made[name] = Seq2SeqModel.load(bundle, num_threads=1)
        return made[name]

    yield get
    for model in made.values():
        model.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_requests_of_all_kinds_give_what_each_gives_alone(
    shape: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    model = model_of(shape)
    batch = ContinuousBatch(model, max_rows=4)
    requests, most = [], 0
    for number, source in enumerate(SOURCES):
        requests.append(batch.submit(source, **options_of(number)))
        for _ in range(number % 3):  # they come while others run
            batch.step()
            most = max(most, batch.running)
    ended = drained(batch)
    assert most == 4 and {*ended} <= {*requests} and batch.idle
    for number, request in enumerate(requests):
        assert request.done and request.error is None
        assert_same_generations(list(request.results), alone(model, number))
    lengths = {len(found.token_ids) for request in requests for found in request.results}
    assert len(lengths) > 5


def test_a_list_longer_than_the_batch_is_refilled(variant_of: Callable[..., Any]) -> None:
    recorded = Recorded(lively_bundle(variant_of, "t5-v1.1"))
    lengths = [2, 9, 4, 30, 1, 6, 11, 3, 8, 5, 2, 7, 13, 1]

    def allowed(number: int, done: np.ndarray) -> list[int]:
        return [ENDS[-1]] if len(done) >= lengths[number] else [100, 101, 102]

    config = replace(recorded.model.generation_config, prefix_allowed_tokens=allowed)
    recorded.runs()
    # The longest one begins.
    texts = ["x" * (len(lengths) - number) for number in range(len(lengths))]
    found = recorded.model.generate(texts, config, batch_size=4)
    assert [len(row.token_ids) for row in found] == lengths
    runs = recorded.runs()
    # Four rows as long as there are four sources left.
    rows: list[list[int]] = []
    left = list(lengths)
    while left or rows:
        while left and len(rows) < 4:
            rows.append([left.pop(0)])
        assert runs.pop(0) == Run(len(rows), 1)
        rows = [[row[0] - 1] for row in rows if row[0] > 1]
    assert not runs


def test_events_bring_pieces_and_then_the_result(model_of: Callable[[str], Seq2SeqModel]) -> None:
    model = model_of("t5-v1.1")
    batch = ContinuousBatch(model, max_rows=3)
    texts = ["abc", "a longer text of words", "x", "12345 67890"]

    def words(_source: int, tokens: np.ndarray) -> list[int]:
        return [ord("w") + 3, 1] if len(tokens) % 4 else [ord(" ") + 3]

    options: list[dict[str, Any]] = [
        {"prefix_allowed_tokens": words, "min_new_tokens": 12},
        {"num_beams": 4},
        {"do_sample": True, "seed": 1},
        {},
    ]
    requests = [
        batch.submit(text, stream=True, max_new_tokens=40, **own)
        for text, own in zip(texts, options, strict=True)
    ]
    pieces: dict[Request, list[str]] = {request: [] for request in requests}
    while not batch.idle:
        for event in batch.step():
            if event.piece:
                pieces[event.request].append(event.piece)
    for text, own, request in zip(texts, options, requests, strict=True):
        assert "".join(pieces[request]) == request.results[0].text
        expected = model.generate(text, max_new_tokens=40, **own)
        assert_same_generations(list(request.results), expected)
    assert len(pieces[requests[0]]) > 3
    assert len(pieces[requests[1]]) == 1  # beam search knows its text at the end


def test_cancelling_one_leaves_the_others(model_of: Callable[[str], Seq2SeqModel]) -> None:
    model = model_of("t5-v1.1 lowered")
    batch = ContinuousBatch(model, max_rows=2)
    options = {"max_new_tokens": 60, "min_new_tokens": 30}
    requests = [batch.submit(SOURCES[number], **options) for number in range(5)]
    for _ in range(6):
        batch.step()
    assert (batch.running, batch.waiting) == (2, 3)
    batch.cancel(requests[0])
    batch.cancel(requests[3])
    ended = {event.request for event in batch.step()}
    assert ended == {requests[0], requests[3]}
    assert requests[0].results[0].finish_reason == "cancelled"
    whole = alone(model, 0, **options)[0].token_ids
    assert requests[0].results[0].token_ids == whole[:7]
    assert requests[3].results[0].token_ids == [] and requests[3].results[0].text == ""
    drained(batch)
    for number in (1, 2, 4):
        assert_same_generations(list(requests[number].results), alone(model, number, **options))
    batch.cancel(requests[1])  # which is done, and stays so
    assert batch.idle and batch.step() == []


def test_an_error_of_one_hurts_no_other(model_of: Callable[[str], Seq2SeqModel]) -> None:
    model = model_of("bart")

    def broken(_tokens: np.ndarray, _scores: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("their own")

    batch = ContinuousBatch(model, max_rows=8)
    good = [batch.submit(SOURCES[number], max_new_tokens=20) for number in (0, 2, 4)]
    bad = batch.submit(SOURCES[1], logits_processors=(broken,))
    nothing = batch.submit(SOURCES[3], prefix_allowed_tokens=lambda _source, _tokens: [])
    beams = batch.submit(SOURCES[3], num_beams=3, prefix_allowed_tokens=lambda _source, _tokens: [])
    drained(batch)
    assert isinstance(bad.error, ZeroDivisionError) and bad.done and not bad.results
    for request in (nothing, beams):
        assert isinstance(request.error, InputError) and "no token may follow" in str(request.error)
    for number, request in zip((0, 2, 4), good, strict=True):
        assert_same_generations(list(request.results), alone(model, number, max_new_tokens=20))


def test_a_step_that_fails_ends_what_ran_and_not_what_waits(
    model_of: Callable[[str], Seq2SeqModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seq2edge.runtime.backends.onnxruntime import OrtSlots

    model = model_of("t5-v1.1")
    batch = ContinuousBatch(model, max_rows=2)
    options = {"max_new_tokens": 20, "min_new_tokens": 10}
    requests = [batch.submit(SOURCES[number], **options) for number in range(4)]
    batch.step()

    def fails(*_: Any) -> None:
        raise BackendError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(OrtSlots, "forward", fails)
        assert {event.request for event in batch.step()} == {*requests[:2]}
    drained(batch)
    assert [str(request.error) for request in requests[:2]] == ["out of memory"] * 2
    for number in (2, 3):
        assert_same_generations(list(requests[number].results), alone(model, number, **options))


def test_what_cannot_be_done_is_refused_when_it_is_submitted(
    model_of: Callable[[str], Seq2SeqModel],
) -> None:
    model = model_of("t5-v1.1")
    batch = ContinuousBatch(model)
    for wrong, said in (
        ({"prompt_lookup_num_tokens": 4}, "prompt_lookup_num_tokens guesses"),
        ({"draft_model": model}, "draft_model guesses"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"max_new_token": 4}, "max_new_token"),
    ):
        with pytest.raises(InputError, match=said):
            batch.submit("a text", **wrong)
    with pytest.raises(InputError, match="is empty"):
        batch.submit(" ")
    with pytest.raises(InputError, match="must lie in 0"):
        batch.submit([5, 400])
    with pytest.raises(InputError, match="num_return_sequences=2 must be 1"):
        batch.submit("a text", stream=True, num_beams=2, num_return_sequences=2)
    assert batch.idle and batch.step() == []
    for size in (0, -1, 1.5):
        with pytest.raises(InputError, match="max_rows must be an integer"):
            ContinuousBatch(model, size)  # type: ignore[arg-type]


def test_closing_forgets_what_is_left(model_of: Callable[[str], Seq2SeqModel]) -> None:
    model = model_of("t5-v1.1")
    batch = ContinuousBatch(model, max_rows=1)
    requests = [batch.submit(SOURCES[number]) for number in range(3)]
    batch.step()
    batch.close()
    assert batch.idle and batch.step() == []
    assert not any(request.done for request in requests)
    again = batch.submit(SOURCES[0], max_new_tokens=5)
    assert drained(batch) == [again]
    assert_same_generations(list(again.results), alone(model, 0, max_new_tokens=5))


def test_the_time_of_a_request_begins_with_its_row(
    model_of: Callable[[str], Seq2SeqModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("t5-v1.1")
    seconds = iter(range(10**6))  # a clock that goes on by a second whenever it is read
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(stopping, "time", clock)
    batch = ContinuousBatch(model, max_rows=1)
    options = {"max_new_tokens": 30, "min_new_tokens": 20}
    first = batch.submit(SOURCES[0], **options)
    second = batch.submit(SOURCES[0], max_time=5.0, **options)
    drained(batch)
    assert first.results[0].finish_reason != "time"
    assert second.results[0].finish_reason == "time"
    assert second.results[0].token_ids == first.results[0].token_ids[:5]


def test_slots_that_no_beam_sees_are_won_back(model_of: Callable[[str], Seq2SeqModel]) -> None:
    model = model_of("umt5")

    def descend(_tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """All beams become continuations of the best one."""
        edited = np.full_like(scores, -np.inf)
        edited[0, 10:18] = -np.arange(8)
        return edited

    batch = ContinuousBatch(model, max_rows=2)
    for source in SOURCES[:2]:
        batch.submit(source, num_beams=8, max_new_tokens=100, logits_processors=(descend,))
    slots = []
    while not batch.idle:
        batch.step()
        slots += [g.cache.slots for g in batch._decoder._groups.values() if g.rows]
    assert len(slots) > 90 and max(slots) <= 256  # 8 a step would be 800
