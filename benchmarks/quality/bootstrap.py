"""Percentile bootstrap: how much a value would differ on other examples of the same kind.

Examples are drawn with replacement, as many as there are; the middle 95 % of the values of so
many drawn corpora is the interval (Efron and Tibshirani 1993, chapter 13). The draws depend on
the number of examples and the seed alone, so two systems on the same examples are resampled
alike, and the differences of their resampled values are *paired* (Koehn 2004): what is hard or
easy about the drawn examples affects both and cancels.
"""

from __future__ import annotations

import numpy as np

from ..report.statistics import RESAMPLES, Floats
from .metrics import Metric

#: Drawn examples that are held at once: 32 MB.
_DRAWN = 4_000_000


def resampled_values(
    metric: Metric, statistics: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Values [resamples] of corpora drawn from the examples of ``statistics`` [n, k]."""
    count = len(statistics)
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN // count)
    sums = []
    for start in range(0, resamples, rows):
        drawn = random.integers(0, count, (min(rows, resamples - start), count))
        drawn += np.arange(len(drawn))[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        sums.append(times @ statistics)
    return metric.value(np.concatenate(sums))
