"""How PyTorch's transformer layers store what the graphs store otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint import FloatArray
from ..weights import Shape


@dataclass(frozen=True)
class Projections:
    """Some of the three that ``nn.MultiheadAttention`` keeps in one ``in_proj`` tensor.

    Query, key and value (0, 1, 2) lie one below the other, weights as [out, in]; those from
    ``first`` to before ``last`` are taken.
    """

    first: int
    last: int

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        outputs = 3 * shape[-1] // (self.last - self.first)
        return [(outputs, *shape[:-1])] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        size = len(arrays[0]) // 3
        return arrays[0][self.first * size : self.last * size].T


@dataclass(frozen=True)
class FirstPositions:
    """The first ``length`` rows of a table that is stored as [L, D], [1, L, D] or [L, 1, D]."""

    stored: Shape
    length: int

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:  # noqa: ARG002
        return [self.stored] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        return arrays[0].reshape(-1, self.stored[-1])[: self.length]
