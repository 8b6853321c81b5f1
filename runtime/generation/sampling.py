"""Drawing the next token: temperature, top-k, top-p and min-p, then one uniform number.

A token is found where a uniform number falls in the cumulative distribution, so rounding
differences between batches change a draw only if the number lies within rounding of a
token's edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backends.base import Ids
from ..numerics import Scores, top_k
from .config import GenerationConfig


class Sampler:
    """Chooses tokens for rows, each of which has a random stream of its own.

    Args:
        config: temperature, top_k, top_p, min_p and seed.
        sources: the token ids of each source; with the seed and the sample's number they
            make its stream, so a source's samples do not depend on its batch.
    """

    def __init__(self, config: GenerationConfig, sources: Sequence[Sequence[int]]) -> None:
        self._config = config
        samples = config.num_return_sequences
        if config.seed is None:
            seeds = np.random.SeedSequence().spawn(len(sources) * samples)
            streams = [np.random.default_rng(seed) for seed in seeds]
        else:
            streams = [
                np.random.default_rng([config.seed, number, *source])
                for source in sources
                for number in range(samples)
            ]
        self._streams = streams

    def warp(self, scores: Scores) -> Scores:
        """Scores [R, V] of the distribution that is drawn from; -inf where nothing is."""
        config = self._config
        if config.temperature != 1.0:
            scores = scores / np.float32(config.temperature)
        if 0 < config.top_k < scores.shape[1]:
            least = top_k(scores, config.top_k)[0][:, -1:]
            scores = np.where(scores < least, -np.inf, scores)
        if config.top_p < 1.0:
            scores = _nucleus(scores, config.top_p)
        if config.min_p is not None:
            least = scores.max(axis=1, keepdims=True) + np.log(np.float32(max(config.min_p, 1e-38)))
            scores = np.where(scores < least, -np.inf, scores)
        return scores

    def draw(self, scores: Scores, rows: Ids) -> Ids:
        """Tokens [R] from warped scores [R, V]; ``rows`` [R] names each one's stream."""
        drawn = np.empty(len(rows), np.int64)
        for index, (row, stream) in enumerate(zip(scores, rows, strict=True)):
            places = np.flatnonzero(row > -np.inf)
            if not places.size:  # a sequence that has ended
                drawn[index] = 0
                continue
            values = row[places].astype(np.float64)
            cumulative = np.exp(values - values.max()).cumsum()
            # random() is below 1, but its product with the sum may round up to the sum.
            place = cumulative.searchsorted(
                self._streams[stream].random() * cumulative[-1], side="right"
            )
            drawn[index] = places[min(place, len(places) - 1)]
        return drawn


def _nucleus(scores: Scores, mass: float) -> Scores:
    """Keep a token if those more probable than it have less than ``mass`` together.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    kept = np.full_like(scores, -np.inf)
    for row, out in zip(scores, kept, strict=True):
        places = np.flatnonzero(row > -np.inf)
        places = places[np.argsort(-row[places], kind="stable")]
        probabilities = np.exp(row[places].astype(np.float64) - row[places[0]])
        before = probabilities.cumsum() - probabilities
        chosen = places[: max(1, int(np.sum(before < mass * probabilities.sum())))]
        out[chosen] = row[chosen]
    return kept
