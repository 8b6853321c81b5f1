"""Batches of token ids, and their results compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import Generation


def padded(rows: list[list[int]], pad: int = 0, *, left: bool = False) -> NDArray[np.int64]:
    """[B, S] ids, with ``pad`` on the right, or on the left."""
    return padded_with_mask(rows, pad, left=left)[0]


def padded_with_mask(
    rows: list[list[int]], pad: int, *, left: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[B, S] ids and their mask of ones and zeros."""
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), pad), np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        columns = slice(width - len(row), width) if left else slice(len(row))
        ids[index, columns], mask[index, columns] = row, 1
    return ids, mask


def assert_same_generations(results: list[Generation], expected: list[Generation]) -> None:
    """Scores may differ by rounding: padding and neighbours change the order of sums."""
    assert [replace(row, score=None) for row in results] == [
        replace(row, score=None) for row in expected
    ]
    for one, other in zip(results, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-3)
