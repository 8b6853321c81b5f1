"""How a parameter of the graphs is made of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .checkpoint import FloatArray

Shape = tuple[int, ...]


class Transform(Protocol):
    """How a parameter is made of checkpoint tensors."""

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        """Shapes that the ``count`` sources must have for a parameter of ``shape``."""
        ...

    def apply(self, arrays: list[FloatArray]) -> FloatArray: ...


@dataclass(frozen=True)
class Copy:
    """The tensor as it is; several are joined end to end along their only axis (biases)."""

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        return [(shape[0] // count, *shape[1:])] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@dataclass(frozen=True)
class Transpose:
    """PyTorch's linear weight [out, in] to [in, out]; several are joined along ``out``."""

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        return [(shape[1] // count, shape[0])] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        return np.concatenate([array.T for array in arrays], axis=1)


@dataclass(frozen=True)
class DropRows:
    """The table without its first rows (BART keeps two unused ones before position 0)."""

    count: int

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        return [(shape[0] + self.count, shape[1])] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        return arrays[0][self.count :]


@dataclass(frozen=True)
class Flatten:
    """[1, N] to [N]."""

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        return [(1, shape[0])] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        return arrays[0].reshape(-1)


@dataclass(frozen=True)
class Expand:
    """A table computed from a [rows, width] tensor; ``function`` gives the new rows."""

    rows: int
    function: Callable[[FloatArray], FloatArray] = field(compare=False)

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        return [(self.rows, shape[1])] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        return self.function(arrays[0])


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


@dataclass(frozen=True)
class Piece:
    """A part of a linear layer that is several side by side, as query, key and value often are.

    Of ``parts`` equal ones along the outputs, those from ``first`` to before ``last`` are taken.
    ``present``: the layer has the tensor; zeros stand for a bias that it lacks.
    """

    first: int = 0
    last: int = 1
    parts: int = 1
    present: bool = True


@dataclass(frozen=True)
class Pieces:
    """Parts of several linear layers, joined along their outputs; a source for each present one.

    Weights are stored as [out, in], biases as [out].
    """

    pieces: tuple[Piece, ...]

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:  # noqa: ARG002
        outputs = shape[-1] // sum(piece.last - piece.first for piece in self.pieces)
        return [(piece.parts * outputs, *shape[:-1]) for piece in self.pieces if piece.present]

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        remaining = iter(arrays)
        stored = [next(remaining) if piece.present else None for piece in self.pieces]
        outputs = next(
            len(array) // piece.parts
            for array, piece in zip(stored, self.pieces, strict=True)
            if array is not None
        )
        taken = [
            np.zeros(outputs * (piece.last - piece.first), np.float32)
            if array is None
            else array[piece.first * outputs : piece.last * outputs]
            for array, piece in zip(stored, self.pieces, strict=True)
        ]
        return np.concatenate(taken).T


@dataclass(frozen=True)
class Raised:
    """The tensor and a constant (norms that store their weight less 1)."""

    constant: float

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        return [shape] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        return arrays[0] + np.float32(self.constant)


@dataclass(frozen=True)
class PositionRows:
    """Rows of a table that is stored as [L, D], [1, L, D] or [L, 1, D], times a factor.

    ``length`` rows are taken, after the first ``offset``.
    """

    stored: Shape
    length: int
    offset: int = 0
    scale: float = 1.0

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:  # noqa: ARG002
        return [self.stored] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        rows = arrays[0].reshape(-1, self.stored[-1])[self.offset : self.offset + self.length]
        return rows if self.scale == 1.0 else rows * np.float32(self.scale)


@dataclass(frozen=True)
class PairsToHalves:
    """Query, key and value side by side, where rotary positions turn dimensions 2i and 2i + 1.

    In queries and keys the even ones of the first ``width`` dimensions of a head come before the
    odd ones, as the graphs turn them; products of queries and keys stay what they are. Weights are
    stored as [out, in], biases as [out].
    """

    heads: int
    width: int

    def source_shapes(self, shape: Shape, count: int) -> list[Shape]:
        return [(shape[-1] // count, *shape[:-1])] * count

    def apply(self, arrays: list[FloatArray]) -> FloatArray:
        *turned, value = arrays
        size = len(value) // self.heads
        turns = np.arange(self.width)
        order = np.concatenate([turns[::2], turns[1::2], np.arange(self.width, size)])
        rows = (np.arange(self.heads)[:, None] * size + order).reshape(-1)
        return np.concatenate([*(array[rows] for array in turned), value]).T
