"""Positions: learned tables added to tokens, and T5's relative bias added to scores.

The relative bias is a lookup by distance: the checkpoint's table of buckets is expanded to
one row a distance when it is exported (:func:`expand_relative_bias`), so the graph clips a
difference and gathers, and the logarithm of the bucket rule never runs on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import nn

from ..spec import RelativeBias, RotaryPositions
from .layers import MASKED_SCORE, Op, Table


def relative_bias_rows(spec: RelativeBias, bidirectional: bool) -> int:
    """Rows of the expanded table: distances -max..max, or 0..max for a causal stack."""
    return (2 * spec.max_distance if bidirectional else spec.max_distance) + 1


def expand_relative_bias(
    table: NDArray[np.float32], max_distance: int, bidirectional: bool
) -> NDArray[np.float32]:
    """One row a distance (query minus key), from one row a bucket [buckets, H].

    Source: Raffel et al. 2020, section 2.1; the rule in float32, as the reference does it,
    so that a distance on a bucket's edge falls on the same side.
    """
    buckets = table.shape[0]
    if bidirectional:
        distance = np.arange(-max_distance, max_distance + 1)
        half = buckets // 2
        # Keys to the right of the query (a negative distance) use the upper half.
        return table[
            np.where(distance < 0, half, 0) + _bucket(np.abs(distance), half, max_distance)
        ]
    return table[_bucket(np.arange(max_distance + 1), buckets, max_distance)]


def _bucket(distance: NDArray[np.int64], buckets: int, max_distance: int) -> NDArray[np.int64]:
    exact = buckets // 2
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    scale = np.float32(math.log(max_distance / exact))
    far = exact + (np.log(ratio) / scale * np.float32(buckets - exact)).astype(np.int64)
    return np.where(distance < exact, distance, np.minimum(far, buckets - 1))


class DistanceBias(nn.Module):
    """Attention bias by distance, already joined with the mask.

    Takes ``distance`` (query position minus key position) [B, Q, T], or [1, Q, T] where it is
    the same for all sequences, and a bool mask that broadcasts to [B, 1, Q, T]; gives
    [B, H, Q, T] with ``MASKED_SCORE`` where the mask is False.
    """

    def __init__(self, spec: RelativeBias, heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.max_distance = spec.max_distance
        self.bidirectional = bidirectional
        self.table = Table(relative_bias_rows(spec, bidirectional), heads)

    def forward(self, op: Op, distance: ir.Value, mask: ir.Value) -> ir.Value:
        # Integers have no in-graph constant promotion for Min/Max, hence int64 lists.
        row = op.Min(distance, op.Constant(value_ints=[self.max_distance]))
        if self.bidirectional:
            row = op.Max(row, op.Constant(value_ints=[-self.max_distance]))
            row = op.Add(row, op.Constant(value_ints=[self.max_distance]))
        else:
            row = op.Max(row, op.Constant(value_ints=[0]))
        bias = op.Transpose(self.table(op, row), perm=[0, 3, 1, 2])
        return op.Where(mask, bias, op.CastLike(MASKED_SCORE, bias))


@dataclass(frozen=True)
class Rotation:
    """Factors [B, 1, Q, Dh] of each dimension and of the one that it goes with."""

    own: ir.Value
    other: ir.Value
    width: int
    head_dim: int


def rotation(op: Op, spec: RotaryPositions, head_dim: int, positions: ir.Value) -> Rotation:
    """For tokens at ``positions`` [B, Q], once for all layers.

    A dimension that stays is turned by 0. The second half of a pair is turned the other way, which
    is what changes the sign of its sine.
    """
    half = spec.width // 2
    frequencies = np.zeros(head_dim)
    frequencies[half : spec.width] = spec.theta ** (-np.arange(0, spec.width, 2) / spec.divisor)
    frequencies[:half] = -frequencies[half : spec.width]
    turns = op.Constant(value=ir.tensor(frequencies.astype(np.float32)))
    angles = op.Mul(op.Cast(op.Unsqueeze(positions, [1, 3]), to=ir.DataType.FLOAT), turns)
    return Rotation(op.Cos(angles), op.Sin(angles), spec.width, head_dim)


def rotate(op: Op, x: ir.Value, by: Rotation) -> ir.Value:
    """Queries or keys [B, H, Q, Dh], turned."""
    half, rest = by.width // 2, by.head_dim - by.width
    sizes = [half, half, rest] if rest else [half, half]
    first, second, *others = op.Split(x, sizes, axis=3, _outputs=len(sizes))
    other = op.Concat(second, first, *others, axis=3)
    return op.Add(op.Mul(x, by.own), op.Mul(other, by.other))
