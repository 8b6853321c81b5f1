"""Tensors of a graph in one block of memory each: on the device, or on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....bundle.manifest import DTYPE_BITS, TensorSpec
from ..cuda import Buffer, Device, aligned, host_bytes


@dataclass(frozen=True)
class Placed:
    """A tensor at an address."""

    address: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Extent:
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class BlockLayout:
    """Where tensors are within a block of ``size`` bytes."""

    extents: Mapping[str, _Extent]
    size: int

    @classmethod
    def of(cls, specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> BlockLayout:
        """One after the other, each at an address that TensorRT takes.

        ``sizes`` are those of the named dimensions.
        """
        extents = {}
        end = 0
        for spec in specs:
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
            extents[spec.name] = _Extent(end, shape, spec.dtype)
            end = aligned(end + extents[spec.name].nbytes)
        return cls(extents, end)

    def narrowed(self, batch: int) -> BlockLayout:
        """The first rows of each tensor, where they are."""
        extents = {
            name: replace(extent, shape=(batch, *extent.shape[1:]))
            for name, extent in self.extents.items()
        }
        return BlockLayout(extents, self.size)

    def spans(self) -> list[tuple[int, int]]:
        """Start and size of all that the tensors take, neighbours together."""
        spans: list[tuple[int, int]] = []
        for extent in self.extents.values():
            start, size = spans[-1] if spans else (0, 0)
            if spans and aligned(start + size) == extent.offset:
                spans[-1] = (start, extent.offset + extent.nbytes - start)
            else:
                spans.append((extent.offset, extent.nbytes))
        return spans


class Block:
    """Tensors on the device, in ``memory`` that has room for them."""

    def __init__(self, layout: BlockLayout, memory: Buffer) -> None:
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
            name: Placed(self.address + extent.offset, extent.shape)
            for name, extent in self.layout.extents.items()
        }

    def reshaped(self, layout: BlockLayout) -> Block:
        """The same memory, for tensors of other shapes that need no more of it."""
        return Block(layout, self._memory)

    def keep_rows(self, rows: Sequence[int], device: Device) -> Block:
        """These rows of each tensor, moved to its first ones; ``rows`` ascend.

        A row moves to the place of one that was moved before or that goes, so that no memory
        is needed beside the block's own.
        """
        for extent in self.layout.extents.values():
            size = extent.nbytes // extent.shape[0]
            start = self.address + extent.offset
            for number, row in enumerate(rows):
                if row != number:
                    device.cuda.copy(start + number * size, start + row * size, size, device.stream)
        return self.reshaped(self.layout.narrowed(len(rows)))

    def compact(self, slots: Sequence[Sequence[int]], device: Device) -> None:
        """Move ``slots`` [B][n] of tensors [B, H, T, D] to slots 0..n-1; each row ascends.

        A slot moves to the place of one that was moved before or that goes, as in
        :meth:`keep_rows`.
        """
        for extent in self.layout.extents.values():
            batch, heads, count, _ = extent.shape
            size = extent.nbytes // (batch * heads * count)
            for head in range(batch * heads):
                start = self.address + extent.offset + head * count * size
                for number, slot in enumerate(slots[head // heads]):
                    if slot != number:
                        to, source = start + number * size, start + slot * size
                        device.cuda.copy(to, source, size, device.stream)


class Mirror(Block):
    """Tensors on the device and, as ``host``, in page-locked memory."""

    host: Mapping[str, NDArray[Any]]

    def __init__(self, layout: BlockLayout, memory: Buffer, pinned: Buffer) -> None:
        super().__init__(layout, memory)
        self._pinned = pinned
        self.host = _arrays(layout, pinned)

    def reshaped(self, layout: BlockLayout) -> Mirror:
        return Mirror(layout, self._memory, self._pinned)

    def upload(self, device: Device) -> None:
        device.cuda.upload(self.address, self._pinned.address, self.size, device.stream)

    def download(self, device: Device) -> None:
        device.cuda.download(self._pinned.address, self.address, self.size, device.stream)


class Results:
    """Some of a block's tensors, copied to page-locked memory when they are downloaded."""

    host: Mapping[str, NDArray[Any]]

    def __init__(self, block: Block, names: Sequence[str], pinned: Callable[[int], Buffer]) -> None:
        extents = block.layout.extents
        specs = [TensorSpec(name, extents[name].dtype, extents[name].shape) for name in names]
        self._layout = BlockLayout.of(specs, {})
        self._block = block
        self._pinned = pinned(self._layout.size)
        self.host = _arrays(self._layout, self._pinned)

    def download(self, device: Device) -> None:
        for name, extent in self._layout.extents.items():
            source = self._block.address + self._block.layout.extents[name].offset
            to = self._pinned.address + extent.offset
            device.cuda.download(to, source, extent.nbytes, device.stream)


def _arrays(layout: BlockLayout, pinned: Buffer) -> dict[str, NDArray[Any]]:
    """Page-locked memory as arrays; good for as long as it is held."""
    bytes_ = host_bytes(pinned)
    return {
        name: bytes_[extent.offset : extent.offset + extent.nbytes]
        .view(extent.dtype)
        .reshape(extent.shape)
        for name, extent in layout.extents.items()
    }


def fill(mirror: Mirror, values: Mapping[str, NDArray[Any]]) -> None:
    """Write into the host's side; the device's side is written by ``upload``."""
    for name, value in values.items():
        np.copyto(mirror.host[name], value)
