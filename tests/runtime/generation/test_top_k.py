"""The arithmetic of a step's scores, against numpy's sort and float64 sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seq2edge.runtime.numerics import best_continuations, log_softmax, logsumexp, top_k

#: Rows are searched in so many groups, where they have more columns than k * GROUPS.
GROUPS = 64
Scores = NDArray[np.float32]


@st.composite
def scores_and_k(draw: st.DrawFn) -> tuple[Scores, int]:
    """Scores [R, V] with ties and -inf, V near a multiple of GROUPS, and a k."""
    k = draw(st.integers(1, 9))
    multiple = draw(st.integers(0, 12))
    size = max(k, GROUPS * multiple + draw(st.sampled_from([-1, 0, 1, 2, GROUPS - 1])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 4)), size)
    kind = draw(st.sampled_from(["normal", "few values", "constant", "rising", "falling"]))
    if kind == "normal":
        values = rng.normal(0, draw(st.sampled_from([1e-3, 1.0, 30.0])), shape)
    elif kind == "few values":
        values = rng.integers(-3, 4, shape).astype(np.float64)
    elif kind == "constant":
        values = np.full(shape, rng.normal())
    else:
        values = np.tile(np.arange(size) * (1.0 if kind == "rising" else -1.0), (shape[0], 1))
    share = draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    values[rng.random(shape) < share] = -np.inf
    return values.astype(np.float32), k


@settings(deadline=None, max_examples=300)
@given(scores_and_k())
def test_top_k_are_the_largest_values_in_falling_order(case: tuple[Scores, int]) -> None:
    scores, k = case
    before = scores.copy()
    values, places = top_k(scores, k)
    assert values.shape == places.shape == (len(scores), k)
    np.testing.assert_array_equal(values, -np.sort(-scores, axis=1)[:, :k])
    np.testing.assert_array_equal(scores, before)


@settings(deadline=None, max_examples=300)
@given(scores_and_k())
def test_top_k_places_hold_their_values_and_are_all_different(case: tuple[Scores, int]) -> None:
    scores, k = case
    values, places = top_k(scores, k)
    np.testing.assert_array_equal(np.take_along_axis(scores, places, axis=1), values)
    assert all(len(set(row)) == k for row in places.tolist())


@settings(deadline=None, max_examples=300)
@given(scores_and_k())
def test_equal_values_stand_in_the_order_of_their_places(case: tuple[Scores, int]) -> None:
    values, places = top_k(*case)
    equal = values[:, 1:] == values[:, :-1]
    assert (places[:, 1:] > places[:, :-1])[equal].all()


@pytest.mark.parametrize("size", [64 * 4, 64 * 5 - 1, 64 * 5, 64 * 5 + 1, 64 * 6 - 1, 32128])
def test_the_best_is_found_at_every_place(size: int) -> None:
    for place in {0, 1, size // 64 - 1, size // 64, size // 2, size - 2, size - 1}:
        scores = np.zeros((2, size), np.float32)
        scores[0, place] = 1
        scores[1] = -np.inf
        scores[1, place] = -5
        values, places = top_k(scores, 4)
        assert places[:, 0].tolist() == [place, place]
        assert values[:, 0].tolist() == [1, -5]


@settings(deadline=None, max_examples=200)
@given(scores_and_k(), st.sampled_from([0.0, 1e4, -1e4]))
def test_logarithms_are_those_of_float64(case: tuple[Scores, int], shift: float) -> None:
    scores = (case[0] + np.float32(shift))[np.isfinite(case[0]).any(axis=1)]
    before = scores.copy()
    exact = scores.astype(np.float64)
    peak = exact.max(axis=1, keepdims=True)
    normalizer = peak + np.log(np.exp(exact - peak).sum(axis=1, keepdims=True))
    found, logs = logsumexp(scores), log_softmax(scores)
    assert found.dtype == logs.dtype == np.float32
    # A float32 of such a size is rounded by up to 6e-8 of it, and a few times.
    np.testing.assert_allclose(found, normalizer[:, 0], rtol=2e-7, atol=1e-5)
    np.testing.assert_allclose(
        logs, exact - normalizer, rtol=2e-7, atol=1e-5 + 2e-7 * np.abs(normalizer).max(initial=0)
    )
    np.testing.assert_array_equal(scores, before)


def test_a_row_that_allows_nothing_has_no_normalizer_and_no_warning() -> None:
    scores = np.full((2, 100), -np.inf, np.float32)
    scores[1, 7] = 3
    with np.errstate(all="raise"):
        assert logsumexp(scores).tolist() == [-np.inf, 3]


@settings(deadline=None, max_examples=100)
@given(scores_and_k())
def test_probabilities_of_a_row_add_up_to_one(case: tuple[Scores, int]) -> None:
    scores = case[0][np.isfinite(case[0]).any(axis=1)]
    total = np.exp(log_softmax(scores).astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(total, 1, atol=1e-4)


@pytest.mark.parametrize("size", [3, 64, 71, 700, 5003])
@pytest.mark.parametrize(("beams", "k"), [(1, 2), (4, 8), (5, 3)])
def test_the_best_continuations_are_those_of_all_sums(size: int, beams: int, k: int) -> None:
    rng = np.random.default_rng(size + beams)
    scores = rng.standard_normal((3, beams, size)).astype(np.float32)
    normalizer = rng.standard_normal((3, beams)).astype(np.float32)
    before = rng.standard_normal((3, beams))
    before[1, beams // 2 + 1 :] = -np.inf  # beams that only fill a place
    k = min(k, size)
    sums = (scores - normalizer[..., None]).astype(np.float64) + before[..., None]
    expected = np.argsort(-sums.reshape(3, -1), axis=1, kind="stable")[:, :k]
    values, parents, tokens = best_continuations(scores, normalizer, before, k)
    assert (parents * size + tokens == expected).all()
    assert (values == np.take_along_axis(sums.reshape(3, -1), expected, axis=1)).all()
