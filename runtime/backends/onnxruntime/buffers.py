"""Arrays in a device's memory, and the pool that keeps them for the next call.

A CUDA graph reads and writes the addresses that it was captured with, so a graph is of use in
later calls only if these get the same arrays. It is never freed before its session is
(onnxruntime 1.31; ``release_captured_graph`` does nothing for CUDA), so there may be only so many.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

#: Bytes at whose multiples arrays begin, as CUDA's own allocations do (cudaMalloc).
_ALIGNMENT = 256

#: TensorProto.BFLOAT16 of onnx.proto; numpy has no such type.
_BFLOAT16 = 16


class DeviceArray:
    """An array of fixed shape and address in the memory of a device.

    bfloat16 is held as the uint16 of the same bits, which numpy can copy, and bound as what it
    is.

    Args:
        ort: the onnxruntime module.
        device: ``cuda`` or ``cpu``.
        shape: of the array.
        dtype: a name that manifests use (``manifest.DTYPE_BITS``).
    """

    def __init__(self, ort: Any, device: str, shape: tuple[int, ...], dtype: str) -> None:
        self._device = device
        self.shape = shape
        self.storage = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
        self._element = _BFLOAT16 if dtype == "bfloat16" else self.storage.type
        self._value = ort.OrtValue.ortvalue_from_shape_and_type(
            list(shape), self.storage.type, device, 0
        )

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.storage.itemsize

    @property
    def address(self) -> int:
        return int(self._value.data_ptr())

    def write(self, array: NDArray[Any]) -> None:
        """Copy a host array of this shape to the device; the address stays."""
        self._value.update_inplace(np.ascontiguousarray(array, self.storage))

    def read(self) -> NDArray[Any]:
        """A copy on the host, of type ``storage``."""
        array: NDArray[Any] = self._value.numpy()
        return array.copy() if self._device == "cpu" else array

    def clear(self) -> None:
        self.write(np.zeros(self.shape, self.storage))

    def bind(self, bind: Callable[..., None], name: str) -> None:
        """``bind`` is ``bind_input`` or ``bind_output`` of an IOBinding."""
        bind(name, self._device, 0, self._element, list(self.shape), self.address)


class PackedInputs:
    """Small inputs of a step in one array of a device, which one copy fills.

    On an H200 a copy of a few bytes takes 9 us, of which a step had five.

    Args:
        ort: the onnxruntime module.
        device: ``cuda`` or ``cpu``.
        inputs: shape and dtype by name.
    """

    def __init__(
        self, ort: Any, device: str, inputs: Mapping[str, tuple[tuple[int, ...], str]]
    ) -> None:
        self._places: dict[str, int] = {}
        size = 0
        for name, (shape, dtype) in inputs.items():
            self._places[name] = size
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            size += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        self._device = device
        self._array = DeviceArray(ort, device, (size,), "uint8")
        self._host = np.zeros(size, np.uint8)
        #: What is to be copied next, by name.
        self.values: dict[str, NDArray[Any]] = {
            name: np.ndarray(shape, dtype, self._host.data, self._places[name])
            for name, (shape, dtype) in inputs.items()
        }

    @property
    def nbytes(self) -> int:
        return self._array.nbytes

    def write(self) -> None:
        """Copy ``values`` to the device; addresses stay."""
        self._array.write(self._host)

    def bind(self, bind: Callable[..., None], name: str) -> None:
        """``bind`` is ``bind_input`` of an IOBinding."""
        value, address = self.values[name], self._array.address + self._places[name]
        bind(name, self._device, 0, value.dtype.type, list(value.shape), address)


@dataclass
class Budget:
    """The rest of a budget, in bytes of device memory and in captured graphs."""

    bytes: int
    graphs: int


class Pooled(Protocol):
    """An item of a :class:`Pool`, which sets ``kept`` before anything is bound."""

    kept: bool

    @property
    def nbytes(self) -> int: ...


Item = TypeVar("Item", bound=Pooled)
Key = TypeVar("Key", bound=Hashable)


class Pool(Generic[Key, Item]):
    """Items by shape, each lent to one owner at a time and kept for the next one.

    What no longer fits into the budget is made for its owner alone.
    """

    def __init__(self, make: Callable[[Key], Item], budget: Budget) -> None:
        self._make = make
        self._budget = budget
        self._free: dict[Key, list[Item]] = {}

    def lend(self, key: Key, owner: object) -> tuple[Item, Callable[[], object]]:
        """An item, and a function that gives it back before ``owner`` is collected."""
        free = self._free.setdefault(key, [])
        item = free.pop() if free else self._new(key)
        lease = weakref.finalize(owner, free.append if item.kept else _drop, item)
        lease.atexit = False
        return item, lease

    def clear(self) -> None:
        """Keep nothing; what is lent stays with its owner."""
        self._free.clear()

    def _new(self, key: Key) -> Item:
        item = self._make(key)
        item.kept = item.nbytes <= self._budget.bytes
        if item.kept:
            self._budget.bytes -= item.nbytes
        return item


def _drop(_item: object) -> None:
    """Its last reference goes with the call."""
