"""What is kept of the values that were seen: ranges, channels, a histogram, second moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import QuantizationError

BINS = 2048
#: Ways to choose the largest magnitude that int8 still represents.
METHODS = ("minmax", "percentile", "entropy")
PERCENTILE = 99.99
#: int8 has so many magnitudes; entropy compares histograms of that many bins.
_LEVELS = 128
#: A histogram's least width: bins of less do not divide float32 values.
_SMALLEST = 1e-30
#: Counts of a bin that int8 would leave empty where the reference has something.
_NEXT_TO_NOTHING = 1e-4


@dataclass
class ActivationStatistics:
    """What a linear layer's input held, over all tokens.

    Attributes:
        channel_max: [D] float32, largest magnitude of each channel.
        minimum: the least value.
        histogram: [BINS] int64, magnitudes from 0 to ``edge``.
        edge: upper end of the histogram.
        moments: [D, D] float32, the sum over tokens of x x^T; None unless asked for.
        tokens: number of vectors.
    """

    channel_max: NDArray[np.float32]
    histogram: NDArray[np.int64]
    edge: float
    moments: NDArray[np.float32] | None
    minimum: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, width: int, *, moments: bool) -> ActivationStatistics:
        return cls(
            channel_max=np.zeros(width, np.float32),
            histogram=np.zeros(BINS, np.int64),
            edge=0.0,
            moments=np.zeros((width, width), np.float32) if moments else None,
        )

    def scaled(self, factor: NDArray[np.float32]) -> ActivationStatistics:
        """What it would be with each channel times ``factor`` [D]; only ranges are known."""
        largest = self.channel_max * factor
        return ActivationStatistics(
            largest, np.zeros(BINS, np.int64), 0.0, None, self.minimum, self.tokens
        )

    @property
    def largest(self) -> float:
        return float(self.channel_max.max())

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in [..., D] values."""
        rows = values.reshape(-1, values.shape[-1])
        magnitudes = np.abs(rows)
        np.maximum(self.channel_max, magnitudes.max(axis=0), out=self.channel_max)
        self.minimum = min(self.minimum, float(rows.min()))
        self._widen(float(magnitudes.max()))
        if self.edge:
            bins = (magnitudes.ravel() * (BINS / self.edge)).astype(np.int64)
            self.histogram += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
        if self.moments is not None:
            self.moments += rows.T @ rows
        self.tokens += len(rows)

    def _widen(self, largest: float) -> None:
        """Make the histogram reach ``largest``; doubling its width merges pairs of bins."""
        if largest and not self.edge:
            self.edge = max(largest, _SMALLEST)
        while largest > self.edge:
            merged = self.histogram.reshape(-1, 2).sum(axis=1)
            self.histogram = np.concatenate([merged, np.zeros_like(merged)])
            self.edge *= 2

    def threshold(self, method: str) -> float:
        """The magnitude at which int8 saturates; 0 if nothing but zeros was seen.

        ``minmax`` is the largest seen; ``percentile`` leaves 0.01 % of the values above;
        ``entropy`` has the int8 histogram with the least Kullback-Leibler divergence from the
        one that was seen (S. Migacz, "8-bit inference with TensorRT", GTC 2017).

        Raises:
            QuantizationError: an unknown method.
        """
        if method not in METHODS:
            raise QuantizationError(
                f"calibration method {method!r}; there are: {', '.join(METHODS)}"
            )
        if method == "minmax" or not self.edge:
            return self.largest
        if method == "percentile":
            share = np.cumsum(self.histogram) / self.histogram.sum()
            bin_ = int(np.searchsorted(share, PERCENTILE / 100))
            return min(self.largest, self.edge * (bin_ + 1) / BINS)
        return min(self.largest, _entropy_threshold(self.histogram, self.edge))


def _entropy_threshold(histogram: NDArray[np.int64], edge: float) -> float:
    """The upper end of the first n bins whose int8 version diverges least from all of them."""
    counts = histogram.astype(np.float64)
    # Zeros (of ReLU above all) are exact at any threshold and would outweigh the rest.
    counts[0] = counts[1]
    best, chosen = np.inf, BINS
    for bins in range(_LEVELS, BINS + 1):
        seen = counts[:bins].copy()
        starts = np.arange(_LEVELS) * bins // _LEVELS
        occupied = seen > 0
        filled = np.add.reduceat(occupied.astype(np.float64), starts)
        level = np.add.reduceat(seen, starts) / np.maximum(filled, 1)
        widths = np.diff(np.append(starts, bins))
        quantized = np.repeat(level, widths) * occupied
        seen[-1] += counts[bins:].sum()  # what saturates
        if quantized[-1] == 0 < seen[-1]:
            quantized[-1] = _NEXT_TO_NOTHING
            occupied[-1] = True
        # Both over all counts: what saturates is missing from q.
        p, q = seen[occupied] / counts.sum(), quantized[occupied] / counts.sum()
        divergence = float(np.sum(p * np.log(p / q)))
        if divergence < best:
            best, chosen = divergence, bins
    return edge * chosen / BINS
