"""What edits next-token scores: the interfaces that options, constraints and processors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Ids
from ..numerics import Scores

#: Edits next-token scores: (token_ids [rows, length] int64 with the decoder start token,
#: scores [rows, V] float32) -> scores [rows, V] float32. It may edit ``scores`` in place.
LogitsProcessor = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]

#: (index of the source, tokens of one hypothesis [length] int64) -> tokens that may follow.
PrefixAllowedTokens = Callable[[int, NDArray[np.int64]], Sequence[int]]

#: What is added to the score of a token that completes a sequence: by the sequence (or its only
#: token), or as pairs of both, as JSON has it.
SequenceBias = (
    Mapping[tuple[int, ...], float] | Mapping[int, float] | Sequence[tuple[Sequence[int], float]]
)


@dataclass(frozen=True)
class Rows:
    """Hypotheses whose next token is to be chosen.

    Attributes:
        token_ids: [R, L] int64, tokens so far, the decoder start token included.
        sources: [R] int64, which source of the batch each belongs to.
        unscored_logsumexp: [R] float32, log(sum(exp(scores))) of those tokens that are -inf in the
            scores because the step did not look at them; None: it looked at all. A processor that
            lets none of them come makes it -inf.
    """

    token_ids: Ids
    sources: Ids
    unscored_logsumexp: Scores | None = None


class Processor(Protocol):
    """Edits ``scores`` [R, V] in place, or returns others."""

    def __call__(self, rows: Rows, scores: Scores, /) -> Scores: ...


class BanProcessor(ABC):
    """A processor all of whose work is to let tokens not come: it makes their scores -inf.

    So it may be given scores of the most probable tokens only, the others being -inf (and of the
    last ones of the vocabulary, see :class:`seq2edge.runtime.backends.base.Proposals`).
    """

    @abstractmethod
    def __call__(self, rows: Rows, scores: Scores, /) -> Scores:
        """Edits ``scores`` [R, V] in place."""


#: From the length of the decoder prompt (with prefix and forced BOS) to a fresh processor.
MakeProcessor = Callable[[int], Processor]
