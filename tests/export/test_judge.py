"""The rule of the comparison, on numbers."""

from __future__ import annotations

import numpy as np
import pytest

from seq2edge.export.judge import FLOOR, MULTIPLE, SPARE, Expected, judge, near_ties

RNG = np.random.default_rng(3)


def expected(positions: int = 200, rounding: float = 1e-6, scale: float = 10.0) -> Expected:
    exact = RNG.uniform(-scale, scale, (positions, 50))
    exact[:, 0] = scale
    return Expected(exact, np.full(positions, rounding))


def test_error_up_to_the_multiple_and_the_floor_passes_at_every_position() -> None:
    right = expected()
    limit = MULTIPLE * 1e-6 + FLOOR * 10
    assert right.allowed == pytest.approx(limit)
    near = judge([(right.exact + 0.99 * limit, right)])
    assert near.ok and near.beyond == 0
    assert near.maximum == pytest.approx(0.99 * limit)
    assert near.mean == pytest.approx(0.99 * limit)
    assert near.pytorch == 1e-6 and near.scale == 10 and near.positions == 200
    far = judge([(right.exact + 1.01 * limit, right)])
    assert not far.ok and far.beyond == 200


@pytest.mark.parametrize("share", [SPARE, 3 * SPARE])
def test_a_few_positions_may_have_the_worst_positions_error(share: float) -> None:
    right = expected()
    rounding = right.rounding.copy()
    rounding[0] = 1e-3  # PyTorch itself is far off at one position
    right = Expected(right.exact, rounding)
    values = right.exact.copy()
    values[10 : 10 + int(share * 200), 3] += 5e-3
    assert judge([(values, right)]).ok == (share == SPARE)
    values = right.exact.copy()
    values[10, 3] += 10e-3  # more than is allowed anywhere
    assert not judge([(values, right)]).ok


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused(wrong: float) -> None:
    right = expected()
    values = right.exact.copy()
    values[7, 7] = wrong
    assert not judge([(values, right)]).ok


def test_layers_are_judged_each_by_its_own_scale() -> None:
    small, large = expected(scale=0.1, rounding=1e-9), expected(scale=1e3, rounding=1e-4)
    both = Expected(
        np.stack([small.exact, large.exact]), np.stack([small.rounding, large.rounding])
    )
    values = both.exact.copy()
    assert judge([(values, both)]).positions == 200
    values[0, 0] += 1e-6  # nothing for the large ones
    assert not judge([(values, both)]).ok


def test_projection_carries_the_runs_errors() -> None:
    exact = RNG.normal(size=(20, 8))
    runs = tuple((exact + RNG.normal(size=exact.shape) * 1e-3).astype(np.float32) for _ in "ab")
    weight = RNG.normal(size=(8, 12)).astype(np.float32)
    bias = RNG.normal(size=12).astype(np.float32)
    found = Expected(exact, np.zeros(20), runs).projected([(weight, bias), (weight, None)], parts=2)
    assert found.exact.shape == (4, 20, 6)
    np.testing.assert_allclose(found.exact[1], (exact @ weight + bias)[:, 6:], rtol=1e-6)
    errors = [np.abs((run - exact) @ weight)[:, 6:].max(-1) for run in runs]
    np.testing.assert_allclose(found.rounding[3], np.max(errors, axis=0), rtol=1e-3)


def test_a_tie_is_where_rounding_may_turn_two_logits_round() -> None:
    exact = np.array([[1.0, 2.0, 2.0 + 1e-5], [1.0, 2.0, 2.1]])
    wide = Expected(exact, np.full(2, 1e-6))
    assert near_ties(exact.astype(np.float32), wide).tolist() == [True, False]
    assert near_ties(exact, Expected(exact, np.full(2, 1e-8))).tolist() == [False, False]
    # What PyTorch did while it decoded counts as well.
    assert near_ties(exact + 0.02, Expected(exact, np.zeros(2))).tolist() == [True, True]
