"""When each token of a text was spoken, from the cross-attention of the alignment heads.

The attention weights are made comparable over the tokens and smoothed, and dynamic time warping
finds the monotonic way through them that has most of the weight: as in openai-whisper's timing.py
and transformers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]

#: The median of 7 neighbours by exchanges of pairs; what ends in place 3. Sorting windows of a
#: whole recording took ten times as long. Source: Devillard 1998, "Fast median search".
_MEDIAN_OF_7 = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)
_WIDTH = 7


def token_ends(weights: Weights) -> NDArray[np.int64]:
    """The encoder position at which each token ends and the next one begins.

    Args:
        weights: [heads, tokens, positions], the attention of each token as the decoder's input,
            with which its successor is predicted.

    Returns:
        [tokens] positions, which do not fall.
    """
    spread = weights.std(axis=1, keepdims=True)
    normalized = (weights - weights.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-10)
    matrix = np.zeros(weights.shape[1:], np.float32)
    for head in normalized:
        matrix += median_filter(head)
    matrix /= len(weights)
    return first_columns(-matrix.astype(np.float64))


def median_filter(rows: Weights) -> Weights:
    """The median of each 7 neighbours along rows [R, N], which are reflected at their ends.

    Rows that are too short for that stay as they are.
    """
    half = _WIDTH // 2
    if rows.shape[1] <= half:
        return rows
    padded = np.pad(rows, ((0, 0), (half, half)), mode="reflect")
    count = rows.shape[1]
    parts = [padded[:, start : start + count].copy() for start in range(_WIDTH)]
    for low, high in _MEDIAN_OF_7:
        lower = np.minimum(parts[low], parts[high])
        np.maximum(parts[low], parts[high], out=parts[high])
        parts[low] = lower
    return parts[half]


def first_columns(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Dynamic time warping: where the cheapest way through ``costs`` [R, C] enters each row.

    The way begins in the first row and column, ends in the last ones, and goes on by a row, by a
    column, or by both.
    """
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    for row in range(rows):
        # total[j] = costs[j] + min(before[j], total[j - 1]) has no loop as a running minimum.
        before = np.minimum(total[row, :-1], total[row, 1:])
        sums = np.cumsum(costs[row])
        from_left = np.minimum.accumulate(before - np.concatenate(([0.0], sums[:-1])))
        total[row + 1, 1:] = sums + from_left
    found = np.zeros(rows, np.int64)
    row, column = rows, columns
    while row > 0:
        found[row - 1] = column - 1
        both, up, left = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        if both < up and both < left:
            row, column = row - 1, column - 1
        elif up < both and up < left:
            row -= 1
        elif column > 1:
            column -= 1
        else:  # the first column has nothing on its left
            row -= 1
    return found
