"""Agreement counts whole sequences, and tokens up to the first difference."""

from __future__ import annotations

import pytest

from seq2edge.benchmarks.quality.agreement import token_agreement


def test_identical_sequences_and_common_prefixes() -> None:
    reference = [[5, 6, 1], [5, 6, 7, 1], [8, 1], [5, 6]]
    other = [[5, 6, 1], [5, 9, 7, 1], [8, 8, 8, 1], [5, 6, 7, 1]]
    found = token_agreement(reference, other)
    assert found.identical == 1 / 4
    # What agrees again after a difference does not count; what is too long is a difference.
    assert found.prefix == pytest.approx((1 + 1 / 4 + 1 / 4 + 2 / 4) / 4)


def test_a_sequence_is_compared_with_its_own_counterpart() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        token_agreement([[1], [2]], [[1]])
