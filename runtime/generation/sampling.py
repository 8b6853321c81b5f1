"""Drawing the next token from its distribution (:mod:`.warpers`), with one uniform number.

A token is found where a uniform number falls in the cumulative distribution, so rounding
differences between batches change a draw only if the number lies within rounding of a
token's edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Ids
from ..numerics import Scores
from .config import GenerationConfig


class Sampler:
    """Chooses tokens for rows, each of which has a random stream of its own.

    Args:
        config: the seed, and how many samples there are of a source.
        sources: the token ids of each source; with the seed and the sample's number they
            make its stream, so a source's samples do not depend on its batch.
    """

    def __init__(self, config: GenerationConfig, sources: Sequence[Sequence[int]]) -> None:
        self._config = config
        # The beams of a source are drawn together.
        samples = 1 if config.num_beams > 1 else config.num_return_sequences
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

    def draw_candidates(self, totals: NDArray[np.float64], count: int, stream: int) -> Ids:
        """Up to ``count`` places of scores [N], each drawn with its softmax; the best one first.

        They are drawn without replacement, by the largest of the scores with Gumbel noise: Kool et
        al. 2019, "Stochastic Beams and Where to Find Them", section 2.
        """
        places = np.flatnonzero(totals > -np.inf)
        keys = totals[places] + self._gumbel(places, stream)
        places = places[np.argsort(-keys, kind="stable")[:count]]
        chosen: Ids = places[np.argsort(-totals[places], kind="stable")]
        return chosen

    def _gumbel(self, places: Ids, stream: int) -> NDArray[np.float64]:
        return self._streams[stream].gumbel(size=len(places))
