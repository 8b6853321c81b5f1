"""The hypotheses of a batch as rows of a larger batch, for a concatenating KV cache.

Where the decoder knows no slots and no mask of its own, hypotheses cannot share a cache: each
has a row, and choosing other parents copies rows. What decodes with :class:`.SlotKVCache` decodes
with this as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import numerics
from ..backends import ConcatCache
from ..backends.base import Ids, Proposals


class ConcatKVCache:
    """``width`` hypotheses for each source of a batch, all of one length.

    Args:
        cache: an empty cache, a row for each source.
        batch_size: B, the number of sources.
        prompt: tokens that all hypotheses start with; they are run once per source.
        width: W, hypotheses per source.
        logits: whether they are needed; else the most probable tokens are.
        logsumexp: whether ``logsumexp`` is needed.

    Attributes:
        next_token_ids, logits, logsumexp: as of :class:`.SlotKVCache`; ``next_token_ids`` is empty
            where there are logits.
    """

    next_token_ids: Ids
    logits: NDArray[np.float32] | None
    logsumexp: NDArray[np.float32] | None
    proposals: Proposals | None = None
    best_token_ids: Ids | None = None

    def __init__(
        self,
        cache: ConcatCache,
        batch_size: int,
        prompt: list[int],
        *,
        width: int,
        logits: bool,
        logsumexp: bool = False,
    ) -> None:
        self._cache = cache
        self._width = width
        self._reads_logits = logits
        self._wants_logsumexp = logsumexp
        #: Rows per source: one until the hypotheses part.
        self._rows = 1
        self._run(np.tile(np.array(prompt, np.int64), (batch_size, 1)), batch_size)

    def forward(self, tokens: Ids, parents: Ids | None = None) -> None:
        """Append ``tokens`` [B, W] to the hypotheses ``parents`` [B, W]; None: each its own."""
        sources = np.arange(len(tokens))[:, None]
        if self._rows != self._width:  # whatever the parents, they are all the prompt
            self._cache.index_select(np.repeat(sources, self._width))
            self._rows = self._width
        elif parents is not None and (parents != np.arange(self._width)).any():
            self._cache.reorder((sources * self._width + parents).ravel())
        self._run(tokens.reshape(-1, 1), len(tokens))

    def release(self) -> None:
        """Nothing: it is freed."""

    def complete_logits(self) -> None:
        """Nothing: they are those of all tokens."""

    def select_batch(self, sources: Ids) -> None:
        """Go on with these sources only; ``next_token_ids`` and ``logits`` shrink with them."""
        self._cache.index_select((sources[:, None] * self._rows + np.arange(self._rows)).ravel())
        self.next_token_ids = self.next_token_ids[sources]
        if self.logits is not None:
            self.logits = self.logits[sources]
        if self.logsumexp is not None:
            self.logsumexp = self.logsumexp[sources]

    def _run(self, tokens: Ids, sources: int) -> None:
        logits = self._cache.forward(tokens)
        shape = (sources, self._rows)
        self.logsumexp = None
        if self._wants_logsumexp:
            self.logsumexp = numerics.logsumexp(logits).reshape(shape)
        if self._reads_logits:
            self.next_token_ids = np.zeros((sources, 0), np.int64)
            self.logits = logits.reshape(*shape, -1)
        else:
            self.next_token_ids = logits.argmax(axis=1).astype(np.int64).reshape(shape)
            self.logits = None
