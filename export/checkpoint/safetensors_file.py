"""safetensors files, read one tensor at a time.

The format is safetensors' (github.com/huggingface/safetensors, README): the length of a header as
8 bytes, the header as JSON, the tensors. The package itself maps a file into memory, where a file
that is cut meanwhile (a download that starts again) ends the process with SIGBUS; here it is an
error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.errors import BundleError

from ..errors import CheckpointError

FloatArray = NDArray[np.float32]
#: Types that are exported; all others are of integers, or of a quantization of their own.
_FLOATS: Mapping[str, Any] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
#: Bytes of the longest header, as in safetensors itself.
_LONGEST_HEADER = 100_000_000
_MOST_DIMENSIONS = 32


@dataclass(frozen=True)
class _Entry:
    """A tensor; ``start`` and ``stop`` are places in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """See :class:`.formats.TensorSource`.

    Raises:
        CheckpointError: it is no such file, or is cut.
    """

    nested = False

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        try:
            self._file = stack.enter_context(path.open("rb"))
            self._entries = dict(_entries(self._file.fileno()))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CheckpointError(
                f"{path} is truncated or not a safetensors file ({reason}); copy it again"
            ) from None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self._entries.items()}

    def load(self, name: str) -> FloatArray:
        entry = self._entries[name]
        if entry.dtype not in _FLOATS:
            raise refuse_integers(self._path, name, entry.dtype)
        array: NDArray[Any] = np.empty(entry.shape, _FLOATS[entry.dtype])
        _read_into(self._file.fileno(), array, entry.start, self._path)
        return array.astype(np.float32, copy=False)


def refuse_integers(path: Path, name: str, dtype: object) -> CheckpointError:
    """The error about a tensor that is none of floating-point numbers."""
    return CheckpointError(
        f"{path}: {name} is {dtype}; only floating-point checkpoints are exported (quantize the"
        " bundle instead)"
    )


def _entries(descriptor: int) -> list[tuple[str, _Entry]]:
    """What the header lists.

    Raises:
        ValueError: what is wrong with it.
    """
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
        raise ValueError("its header does not fit into it")
    try:
        header = parse_json(os.pread(descriptor, length, 8), "its header")
    except BundleError as error:
        raise ValueError(str(error)) from None
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    return [(name, _entry(name, info, 8 + length, size)) for name, info in header.items()]


def _entry(name: str, info: Any, data: int, size: int) -> _Entry:
    values: dict[str, Any] = info if isinstance(info, dict) else {}
    dtype: Any
    shape: Any
    offsets: Any
    dtype, shape, offsets = (values.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets):
        raise ValueError(f"its header does not say where {name} is")
    if len(offsets) != 2 or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"its header does not say where {name} is")
    start, stop = (data + offset for offset in offsets)
    if not start <= stop <= size:
        raise ValueError(f"{name} ends outside")
    if dtype in _FLOATS and prod(shape) * _FLOATS[dtype].itemsize != stop - start:
        raise ValueError(f"{name} has {stop - start} bytes, which do not fit its shape {shape}")
    return _Entry(dtype, tuple(shape), start, stop)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
        for value in values
    )


def _read_into(descriptor: int, array: NDArray[Any], place: int, path: Path) -> None:
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    while view:
        count = os.preadv(descriptor, [view], place)
        if not count:
            raise CheckpointError(f"{path} was cut while it was read; copy it again")
        view, place = view[count:], place + count
