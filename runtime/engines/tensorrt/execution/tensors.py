"""Tensors of a graph in one block of memory each: on the device, or on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....manifest import DTYPE_BITS, TensorSpec
from ..cuda import Buffer, Cuda, aligned, host_bytes


@dataclass(frozen=True)
class Placed:
    """A tensor at an address."""

    address: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Place:
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class Layout:
    """Where tensors are within a block of ``size`` bytes."""

    places: Mapping[str, _Place]
    size: int

    @classmethod
    def of(cls, specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> Layout:
        """One after the other, each at an address that TensorRT takes.

        ``sizes`` are those of the named dimensions.
        """
        places = {}
        end = 0
        for spec in specs:
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
            places[spec.name] = _Place(end, shape, spec.dtype)
            end = aligned(end + places[spec.name].nbytes)
        return cls(places, end)

    def of_batch(self, batch: int) -> Layout:
        """The same tensors with another number of rows."""
        specs = [TensorSpec(n, p.dtype, (batch, *p.shape[1:])) for n, p in self.places.items()]
        return Layout.of(specs, {})


class Block:
    """Tensors on the device, in ``memory`` that has room for them."""

    def __init__(self, layout: Layout, memory: Buffer) -> None:
        self.layout = layout
        self._memory = memory

    @property
    def address(self) -> int:
        return self._memory.address

    @property
    def size(self) -> int:
        return self.layout.size

    def tensors(self) -> dict[str, Placed]:
        """Each by its name."""
        return {
            name: Placed(self.address + place.offset, place.shape)
            for name, place in self.layout.places.items()
        }

    def copy_rows(self, rows: Iterable[int], into: Block, cuda: Cuda, stream: Any) -> None:
        """Copy these rows of each tensor's first axis ``into`` a block that has so many."""
        chosen = [int(row) for row in rows]
        for name, place in self.layout.places.items():
            size = place.nbytes // place.shape[0]
            source, to = self.address + place.offset, into.address + into.layout.places[name].offset
            for number, row in enumerate(chosen):
                cuda.copy(to + number * size, source + row * size, size, stream)


class Mirror(Block):
    """Tensors on the device and, as ``host``, in page-locked memory."""

    host: Mapping[str, NDArray[Any]]

    def __init__(self, layout: Layout, memory: Buffer, pinned: Buffer) -> None:
        super().__init__(layout, memory)
        self._pinned = pinned
        bytes_ = host_bytes(pinned)
        self.host = {
            name: bytes_[place.offset : place.offset + place.nbytes]
            .view(place.dtype)
            .reshape(place.shape)
            for name, place in layout.places.items()
        }

    def reshaped(self, layout: Layout) -> Mirror:
        """The same memory, for tensors of other shapes that need no more of it."""
        return Mirror(layout, self._memory, self._pinned)

    def upload(self, cuda: Cuda, stream: Any) -> None:
        cuda.upload(self.address, self._pinned.address, self.size, stream)

    def download(self, cuda: Cuda, stream: Any) -> None:
        cuda.download(self._pinned.address, self.address, self.size, stream)

    def download_only(self, name: str, cuda: Cuda, stream: Any) -> None:
        """One tensor of them."""
        place = self.layout.places[name]
        host = self._pinned.address + place.offset
        cuda.download(host, self.address + place.offset, place.nbytes, stream)


def fill(mirror: Mirror, values: Mapping[str, NDArray[Any]]) -> None:
    """Write into the host's side; the device's side is written by ``upload``."""
    for name, value in values.items():
        np.copyto(mirror.host[name], value)
