"""Tensors of a graph in one block of memory each: on the device, or on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....bundle.manifest import DTYPE_BITS, TensorSpec
from ...limits import Limits
from ..cuda import Buffer, Device, aligned, host_bytes


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

    def narrowed(self, batch: int) -> Layout:
        """The first rows of each tensor, where they are."""
        places = {
            name: replace(place, shape=(batch, *place.shape[1:]))
            for name, place in self.places.items()
        }
        return Layout(places, self.size)

    def spans(self) -> list[tuple[int, int]]:
        """Start and size of all that the tensors take, neighbours together."""
        found: list[tuple[int, int]] = []
        for place in self.places.values():
            start, size = found[-1] if found else (0, 0)
            if found and aligned(start + size) == place.offset:
                found[-1] = (start, place.offset + place.nbytes - start)
            else:
                found.append((place.offset, place.nbytes))
        return found


class Block:
    """Tensors on the device, in ``memory`` that has room for them."""

    def __init__(self, layout: Layout, memory: Buffer) -> None:
        if layout.size > memory.size:
            raise AssertionError("limits are checked before a call runs")
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

    def reshaped(self, layout: Layout) -> Block:
        """The same memory, for tensors of other shapes that need no more of it."""
        return Block(layout, self._memory)

    def keep_rows(self, rows: Sequence[int], device: Device) -> Block:
        """These rows of each tensor, moved to its first ones; ``rows`` ascend.

        A row moves to the place of one that was moved before or that goes, so that no memory
        is needed beside the block's own.
        """
        for place in self.layout.places.values():
            size = place.nbytes // place.shape[0]
            start = self.address + place.offset
            for number, row in enumerate(rows):
                if row != number:
                    device.cuda.copy(start + number * size, start + row * size, size, device.stream)
        return self.reshaped(self.layout.narrowed(len(rows)))

    def compact(self, slots: Sequence[Sequence[int]], device: Device) -> None:
        """Move ``slots`` [B][n] of tensors [B, H, T, D] to slots 0..n-1; each row ascends.

        A slot moves to the place of one that was moved before or that goes, as in
        :meth:`keep_rows`.
        """
        for place in self.layout.places.values():
            batch, heads, count, _ = place.shape
            size = place.nbytes // (batch * heads * count)
            for head in range(batch * heads):
                start = self.address + place.offset + head * count * size
                for number, slot in enumerate(slots[head // heads]):
                    if slot != number:
                        to, source = start + number * size, start + slot * size
                        device.cuda.copy(to, source, size, device.stream)


class Mirror(Block):
    """Tensors on the device and, as ``host``, in page-locked memory."""

    host: Mapping[str, NDArray[Any]]

    def __init__(self, layout: Layout, memory: Buffer, pinned: Buffer) -> None:
        super().__init__(layout, memory)
        self._pinned = pinned
        self.host = _arrays(layout, pinned)

    def reshaped(self, layout: Layout) -> Mirror:
        return Mirror(layout, self._memory, self._pinned)

    def upload(self, device: Device) -> None:
        device.cuda.upload(self.address, self._pinned.address, self.size, device.stream)

    def download(self, device: Device) -> None:
        device.cuda.download(self._pinned.address, self.address, self.size, device.stream)


class Results:
    """Some of a block's tensors, copied to page-locked memory when they are downloaded."""

    host: Mapping[str, NDArray[Any]]

    def __init__(self, block: Block, names: Sequence[str], pinned: Callable[[int], Buffer]) -> None:
        places = block.layout.places
        specs = [TensorSpec(name, places[name].dtype, places[name].shape) for name in names]
        self._layout = Layout.of(specs, {})
        self._block = block
        self._pinned = pinned(self._layout.size)
        self.host = _arrays(self._layout, self._pinned)

    def download(self, device: Device) -> None:
        for name, place in self._layout.places.items():
            source = self._block.address + self._block.layout.places[name].offset
            to = self._pinned.address + place.offset
            device.cuda.download(to, source, place.nbytes, device.stream)


def _arrays(layout: Layout, pinned: Buffer) -> dict[str, NDArray[Any]]:
    """Page-locked memory as arrays; good for as long as it is held."""
    bytes_ = host_bytes(pinned)
    return {
        name: bytes_[place.offset : place.offset + place.nbytes]
        .view(place.dtype)
        .reshape(place.shape)
        for name, place in layout.places.items()
    }


def largest_sizes(limits: Limits) -> dict[str, int]:
    """The named dimensions of the largest tensors that an engine takes."""
    return {
        "batch": limits.max_batch,
        "source": limits.max_source_length,
        "queries": limits.max_num_tokens,
        "slots": limits.max_target_length,
    }


def fill(mirror: Mirror, values: Mapping[str, NDArray[Any]]) -> None:
    """Write into the host's side; the device's side is written by ``upload``."""
    for name, value in values.items():
        np.copyto(mirror.host[name], value)
