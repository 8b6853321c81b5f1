"""How far the tokens of two bundles go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Tokens = Sequence[int]


@dataclass(frozen=True)
class Agreement:
    """Of the sequences that two bundles generate from the same sources.

    Attributes:
        identical: share of sequences whose tokens are all the same, 0 to 1.
        prefix: tokens before the first difference, as a share of the longer of the two
            sequences; the mean over the sequences, 0 to 1. After the first difference the
            two decode from different texts, so later tokens say nothing about precision.
    """

    identical: float
    prefix: float


def token_agreement(reference: Sequence[Tokens], other: Sequence[Tokens]) -> Agreement:
    """Compare sequence by sequence; the end token counts as a token.

    Raises:
        ValueError: not the same number of sequences.
    """
    shares = [_prefix(ours, theirs) for ours, theirs in zip(reference, other, strict=True)]
    count = max(1, len(shares))
    return Agreement(sum(share == 1.0 for share in shares) / count, sum(shares) / count)


def _prefix(reference: Tokens, other: Tokens) -> float:
    longer = max(len(reference), len(other))
    if not longer:
        return 1.0
    same = 0
    for ours, theirs in zip(reference, other, strict=False):
        if ours != theirs:
            break
        same += 1
    return same / longer
