"""What edits next-token scores: the interfaces that options, constraints and processors share."""

from __future__ import annotations

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
    """

    token_ids: Ids
    sources: Ids


class Processor(Protocol):
    """Edits ``scores`` [R, V] in place, or returns others."""

    def __call__(self, rows: Rows, scores: Scores, /) -> Scores: ...


#: From the length of the decoder prompt (with prefix and forced BOS) to a fresh processor.
MakeProcessor = Callable[[int], Processor]
