"""Self-attention caches: slots that hypotheses share, and one that concatenates."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Ids, Proposals


class StepOutputs(Protocol):
    """What a step gave for W hypotheses of each of B sources.

    Attributes:
        next_token_ids: [B, W] int64, the most probable next token of each hypothesis; [B, 1] after
            the prompt, which the hypotheses share.
        logits: [B, W, V] float32 ([B, 1, V] after the prompt), or None where they are not needed.
        logsumexp: [B, W] float32 ([B, 1]), log(sum(exp(logits))), or None.
        proposals: the tokens that ``logits`` are of, where the last step gave only the best; None:
            all tokens.
        best_token_ids: [B, W, N] int64, where ``logits`` [B, W, N] are those of the most probable
            tokens alone; None: of all.
    """

    next_token_ids: Ids
    logits: NDArray[np.float32] | None
    logsumexp: NDArray[np.float32] | None
    proposals: Proposals | None
    best_token_ids: Ids | None

    def complete_logits(self) -> None:
        """Let ``logits`` hold those of all tokens, where the last step gave only the best."""
        ...


class KVCache(StepOutputs, Protocol):
    """W hypotheses for each source of a batch, all of one length, with their keys and values."""

    def forward(self, tokens: Ids, parents: Ids | None = None) -> None:
        """Append ``tokens`` [B, W] to the hypotheses ``parents`` [B, W]; None: each its own."""
        ...

    def select_batch(self, sources: Ids) -> None:
        """Go on with these sources only; the outputs shrink with them."""
        ...

    def release(self) -> None:
        """Let another call have the memory; this is not used any more."""
        ...
