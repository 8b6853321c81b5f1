"""Summaries of samples, and whether two sets of them differ.

Times have long tails and no known distribution, so nothing here assumes one: medians with
percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13), and the rank test of Mann
and Whitney (1947) with its normal approximation, corrected for ties and continuity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1000
CONFIDENCE = 0.95
#: Below so many samples a side the normal approximation of the rank test is not to be trusted.
FEWEST_SAMPLES = 8


@dataclass(frozen=True)
class Interval:
    """The ends of a confidence interval, in the unit of the value."""

    low: float
    high: float


def percentile_interval(values: Floats) -> Interval:
    """The interval that holds the middle 95 % of ``values`` [resamples]."""
    outside = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [outside, 100 - outside])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Measurement:
    """Samples of one quantity, and what is said of them.

    Attributes:
        unit: of the samples, such as ``ms``.
        samples: one per call or round, in the order in which they were taken.
        p50: the median.
        interval: of the median, 95 %.
        p90, p99, max: as usual; with few samples ``p99`` is next to ``max``.
    """

    unit: str
    samples: tuple[float, ...]
    p50: float
    interval: Interval
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float], unit: str = "ms") -> Measurement:
        """Summarize one sample at least."""
        values = np.asarray(samples, np.float64)
        p50, p90, p99 = (float(value) for value in np.percentile(values, [50, 90, 99]))
        return cls(
            unit=unit,
            samples=tuple(values.tolist()),
            p50=p50,
            interval=percentile_interval(_medians(values, np.random.default_rng(0))),
            p90=p90,
            p99=p99,
            max=float(values.max()),
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Measurement:
        """The summary is made anew: only samples are believed."""
        return cls.of([float(sample) for sample in value["samples"]], str(value["unit"]))


def ratio_interval(
    a: Sequence[float], b: Sequence[float], *, paired: bool = False
) -> tuple[float, Interval]:
    """The median of ``b`` over that of ``a``, with a bootstrap interval of the ratio.

    ``paired``: sample k of both was taken in one round, so that what slowed the round down is in
    both and cancels.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    seeds = (0, 0) if paired and len(first) == len(second) else (0, 1)
    below, above = (
        _medians(values, np.random.default_rng(seed))
        for values, seed in zip((first, second), seeds, strict=True)
    )
    return float(np.median(second) / np.median(first)), percentile_interval(above / below)


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p-value that samples of ``a`` and of ``b`` come from one distribution."""
    both = np.concatenate([a, b]).astype(np.float64)
    n, m = len(a), len(b)
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    # Equal values share the mean of the ranks that they take.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    ties = float(((counts**3) - counts).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - ties)
    if variance == 0:  # all values are one
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the same order."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _medians(values: Floats, random: np.random.Generator) -> Floats:
    """Medians [resamples] of samples drawn with replacement."""
    drawn = random.integers(0, len(values), (RESAMPLES, len(values)))
    medians: Floats = np.median(values[drawn], axis=1)
    return medians
