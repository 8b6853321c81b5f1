"""How BERT's line and its pairs store what the graphs store otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checkpoint import FloatArray
from ..weights import Shape, Transform


@dataclass(frozen=True)
class PositionsOfType0:
    """Positions and token types: the first type is added to every position from ``offset`` on.

    Without an input that says otherwise every token is of that type.
    """

    offset: int
    types: int

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:  # noqa: ARG002
        return [(shape[0] + self.offset, shape[1]), (self.types, shape[1])]

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        positions, types = arrays
        added: FloatArray = positions[self.offset :] + types[0]
        return added


@dataclass(frozen=True)
class Projected:
    """A linear layer after another one: both are one.

    The sources are those of ``inner``, which takes ``width`` inputs, and the weight [width, in]
    of the layer before it.
    """

    inner: Transform
    width: int

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        own = self.inner.source_shapes((self.width, shape[1]), count - 1)
        return [*own, (self.width, shape[0])]

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        *own, before = arrays
        product = before.T.astype(np.float64) @ self.inner.apply(own)
        return product.astype(np.float32)


@dataclass(frozen=True)
class ProjectedBias:
    """The bias that goes with :class:`Projected`.

    The sources are the weights of ``inner``, as many biases, and the bias before it.
    """

    inner: Transform
    width: int

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        own = count // 2
        weights = self.inner.source_shapes((self.width, shape[0]), own)
        return [*weights, *[(shape[0] // own,)] * own, (self.width,)]

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        *own, before = arrays
        weights, biases = own[: len(own) // 2], own[len(own) // 2 :]
        product = before.astype(np.float64) @ self.inner.apply(weights)
        return (product + np.concatenate(biases)).astype(np.float32)
