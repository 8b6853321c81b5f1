"""Intervals are as wide as theory says, repeatable, and paired for two systems."""

from __future__ import annotations

import numpy as np
import pytest

from seq2edge.benchmarks.quality import bootstrap
from seq2edge.benchmarks.quality.bootstrap import resampled_values
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.benchmarks.report.statistics import percentile_interval

EXACT = load_metric("exact")


def answers(right: np.ndarray) -> np.ndarray:
    return np.stack([right.astype(float), np.ones(len(right))], axis=1)


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    count, share = 400, 0.25
    values = resampled_values(EXACT, answers(np.arange(count) < share * count), resamples=4000)
    interval = percentile_interval(values)
    half = 1.96 * 100 * np.sqrt(share * (1 - share) / count)
    assert interval.low == pytest.approx(25 - half, abs=0.6)
    assert interval.high == pytest.approx(25 + half, abs=0.6)


def test_draws_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = answers(np.arange(50) % 3 == 0)
    values = resampled_values(EXACT, statistics)
    assert len(values) == 1000
    assert np.array_equal(values, resampled_values(EXACT, statistics))
    assert not np.array_equal(values, resampled_values(EXACT, statistics, seed=1))
    monkeypatch.setattr(bootstrap, "_DRAWN", 333)
    assert np.array_equal(values, resampled_values(EXACT, statistics))


def test_differences_of_two_systems_are_paired() -> None:
    right = np.random.default_rng(0).random(300) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:15]] = True  # right wherever the other one is, and 15 times more
    one, other = (resampled_values(EXACT, answers(found)) for found in (right, better))
    interval = percentile_interval(other - one)
    assert 2 < interval.low < 5 < interval.high < 9
    unpaired = percentile_interval(resampled_values(EXACT, answers(better), seed=1) - one)
    assert unpaired.low < 0  # of independent draws the same difference could be chance


def test_one_example_has_an_interval_of_no_width() -> None:
    interval = percentile_interval(resampled_values(EXACT, answers(np.array([True]))))
    assert (interval.low, interval.high) == (100, 100)
