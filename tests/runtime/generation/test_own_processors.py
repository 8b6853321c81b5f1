"""What callers pass in themselves: own processors, prefix_allowed_tokens, impossible options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import InputError, Seq2SeqModel

Scores = np.ndarray[Any, np.dtype[np.float32]]
#: Sources of three lengths that are in no order, without padding.
ROWS = [[5, 6, 7, 2], [200, 13, 77, 150, 22, 2], [17, 210, 2]]


class Subject(NamedTuple):
    """A model, padded sources and what is made of them by default."""

    model: Seq2SeqModel
    ids: list[list[int]]
    plain: list[list[int]]

    def found(self, **options: Any) -> list[list[int]]:
        return generated(self.model, self.ids, **options)


def generated(model: Seq2SeqModel, ids: list[list[int]], **options: Any) -> list[list[int]]:
    config = replace(model.generation_config, **{"max_new_tokens": 12, **options})
    return [row.token_ids for row in model.generate_ids(ids, config=config)]


@pytest.fixture(scope="module", params=["t5-v1.1", "bart-scaled"])
def subject(request: pytest.FixtureRequest, bundle_of: Callable[[str], Path]) -> Iterator[Subject]:
    with Seq2SeqModel.load(bundle_of(request.param), num_threads=1) as model:
        ids = [row + [model.manifest.special_tokens.pad] * (6 - len(row)) for row in ROWS]
        yield Subject(model, ids, generated(model, ids))


#: Options of each strategy.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "seed": 5, "num_return_sequences": 2},
    "lookup": {"prompt_lookup_num_tokens": 3},
}
every_way = pytest.mark.parametrize("way", WAYS)


@every_way
def test_an_own_processor_sees_all_tokens_and_scores_after_the_others(
    way: str, subject: Subject
) -> None:
    calls: list[tuple[Scores, Scores]] = []

    def own(token_ids: Any, scores: Scores) -> Scores:
        calls.append((token_ids.copy(), scores.copy()))
        return scores

    size = subject.model.manifest.dimensions.vocab_size
    subject.found(
        **WAYS[way],
        logits_processors=(own,),
        suppress_tokens=[9],
        begin_suppress_tokens=[10],
        sequence_bias={11: -np.inf},
        max_new_tokens=6,
    )
    for token_ids, scores in calls:
        assert (token_ids.dtype, scores.dtype) == (np.int64, np.float32)
        assert token_ids.ndim == 2
        assert scores.shape == (len(token_ids), size)
        assert (token_ids[:, 0] == subject.model.manifest.special_tokens.decoder_start).all()
        assert np.isneginf(scores[:, [9, 11]]).all()
        assert np.isneginf(scores[:, 10]).all() == (token_ids.shape[1] == 1)
    assert {token_ids.shape[1] for token_ids, _ in calls} >= {1, 2, 3, 4}


@every_way
def test_own_processors_run_in_order_and_decide(way: str, subject: Subject) -> None:
    def only(token: int) -> Callable[[Any, Scores], Scores]:
        def edit(_: Any, scores: Scores) -> Scores:
            edited = np.full(scores.shape, -50, np.float64)  # is made float32
            edited[:, token] = 50
            return edited  # type: ignore[return-value]

        return edit

    found = subject.found(**WAYS[way], logits_processors=(only(20), only(21)), max_new_tokens=4)
    assert {tuple(row[:3]) for row in found} == {(21, 21, 21)}


def test_an_own_processor_may_edit_in_place(subject: Subject) -> None:
    forbidden = [row[0] for row in subject.plain]

    def own(_: Any, scores: Scores) -> Scores:
        scores[:, forbidden] = -np.inf
        return scores

    found = subject.found(logits_processors=(own,))
    assert found == subject.found(suppress_tokens=forbidden) != subject.plain


@every_way
@pytest.mark.parametrize(
    "wrong",
    [
        lambda scores: scores[:, :-1],
        lambda scores: scores[None],
        lambda scores: scores[0],
        lambda _: None,
        lambda scores: scores.tolist(),
    ],
    ids=["a token too few", "an axis too many", "an axis too few", "nothing", "a list"],
)
def test_a_processor_that_returns_something_else_is_refused(
    wrong: Callable[[Scores], Any], way: str, subject: Subject
) -> None:
    returned: list[Any] = []

    def own(_: Any, scores: Scores) -> Any:
        returned.append(wrong(scores))
        return returned[-1]

    with pytest.raises(InputError, match="a logits processor must return") as caught:
        subject.found(**WAYS[way], logits_processors=(own,))
    shape = getattr(returned[0], "shape", type(returned[0]).__name__)
    assert str(caught.value).endswith(f"scores, not {shape}")


@every_way
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_prefix_allowed_tokens_is_told_the_place_in_the_callers_list(
    batch_size: int | None, way: str, subject: Subject
) -> None:
    """The sources are in no order of length, so that batches of similar ones mix them."""
    asked = set()

    def allowed(source: int, token_ids: Any) -> list[int]:
        asked.add((source, token_ids.dtype, token_ids.ndim, int(token_ids[0])))
        return [100 + source, 200 + source]

    config = replace(subject.model.generation_config, **WAYS[way], prefix_allowed_tokens=allowed)
    found = subject.model.generate_ids(
        subject.ids, config=config, max_new_tokens=4, batch_size=batch_size
    )
    each = config.num_return_sequences
    for place, row in enumerate(found):
        source = place // each
        assert set(row.token_ids[:3]) <= {100 + source, 200 + source}
    start = subject.model.manifest.special_tokens.decoder_start
    assert asked == {(source, np.dtype(np.int64), 1, start) for source in range(3)}


@every_way
@pytest.mark.parametrize(
    "options_for",
    [
        lambda size: {"suppress_tokens": list(range(size))},
        lambda size: {"sequence_bias": dict.fromkeys(range(size), -np.inf)},
        lambda _: {"prefix_allowed_tokens": lambda *_: []},
        lambda _: {"prefix_allowed_tokens": lambda *_: [9], "suppress_tokens": [9]},
        lambda _: {"logits_processors": [lambda _, scores: np.full_like(scores, -np.inf)]},
        lambda _: {"prefix_allowed_tokens": lambda s, t: [8] if len(t) < 3 or s == 0 else []},
    ],
    ids=["suppressed", "biased", "none allowed", "at odds", "an own one", "later, one source"],
)
def test_options_that_forbid_every_token_say_so(
    options_for: Callable[[int], dict[str, Any]], way: str, subject: Subject
) -> None:
    options = options_for(subject.model.manifest.dimensions.vocab_size)
    with pytest.raises(InputError, match=r"no token may follow .* forbid all of them"):
        subject.found(**WAYS[way], **options)
    assert subject.found() == subject.plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoder_prefix", [5, 6]),
        ("suppress_tokens", [5, 6]),
        ("begin_suppress_tokens", [5, 6]),
        ("bad_words_ids", [[5, 6], [7, 8]]),
    ],
)
def test_token_ids_may_be_arrays(name: str, value: Any, subject: Subject) -> None:
    assert subject.found(**{name: np.array(value)}) == subject.found(**{name: value})


@pytest.mark.parametrize("most", [40, 10**12])
def test_a_processor_is_shown_all_tokens_so_far(most: int, subject: Subject) -> None:
    """Fault: room for as many tokens as may come was taken at once, 8 bytes each."""
    limit = subject.model.manifest.dimensions.max_target_length
    if limit is not None and most > limit:
        pytest.skip("the model has fewer positions")
    shown: list[list[int]] = []

    def end_at_30(tokens: NDArray[np.int64], scores: Scores) -> Scores:
        shown.append(tokens[0].tolist())
        scores[:, eos] = np.inf if len(tokens[0]) == 30 else -np.inf
        return scores

    eos = subject.model.manifest.special_tokens.eos[0]
    (found,) = generated(
        subject.model, [ROWS[0]], max_new_tokens=most, logits_processors=[end_at_30]
    )
    assert len(found) == 30 and found[-1] == eos
    start = subject.model.manifest.special_tokens.decoder_start
    assert shown == [[start, *found[:count]] for count in range(30)]
