"""``model.bin`` of CTranslate2: named variables, read one at a time.

The file says how large everything in it is. Nothing is believed before it is compared with the
file's own size, so that a damaged or hostile file costs neither memory nor time.

Source: CTranslate2's ``python/ctranslate2/specs/model_spec.py``, which writes the file, and
``src/models/model.cc``, which reads all versions.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError
from ..formats import FloatArray

#: Of the file's layout; models have their revision besides. 2 and older have no aliases.
VERSIONS = range(3, 7)
#: By the number of a type (from version 4 on).
_TYPES: tuple[np.dtype, ...] = tuple(
    np.dtype(kind) for kind in ("<f4", "i1", "<i2", "<i4", "<f2", ml_dtypes.bfloat16)
)
#: By the size of an element (version 3, which knows no others).
_OLD_TYPES = {size: np.dtype(kind) for size, kind in ((4, "<f4"), (2, "<i2"), (1, "i1"))}
_MOST_AXES = 8
_LONGEST_NAME = 1024
#: Of a variable without data: its name, rank, type and size.
_LEAST_BYTES = 2 + 2 + 1 + 1 + 4
#: What int16 models without a scale of their own were multiplied by.
_GLOBAL_INT16_SCALE = 1000.0


@dataclass(frozen=True)
class Variable:
    """Where a variable lies in the file: ``shape`` elements of ``dtype`` from ``start`` on."""

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int


class ModelBin:
    """The variables of a file.

    Attributes:
        path: the file.
        spec: the kind of model, such as ``WhisperSpec``.
        revision: of that kind's names.
        version: of the file's layout.
        variables: by name; aliases are names of the variable that they stand for.

    Raises:
        CheckpointError: the file cannot be read, is truncated, or says what cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                header = _Header(file, path)
                self.version = header.version()
                self.spec, self.revision = header.text("the model's kind"), header.number("I")
                self._variables = header.variables(self.version)
                self._scales = header.aliases(self._variables)
                header.end()
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
        self.variables: Mapping[str, Variable] = MappingProxyType(self._variables)

    def load(self, name: str, start: int = 0, stop: int | None = None) -> FloatArray:
        """Rows ``start`` to ``stop`` of a variable as float32, int8 and int16 times their scale.

        Raises:
            CheckpointError: it is of int32, has no scale or one that does not fit, or the file has
                become shorter.
        """
        variable = self.variables[name]
        array = self._read(variable, start, stop)
        if variable.dtype.kind != "i":
            return array.astype(np.float32)
        if variable.dtype == _TYPES[3]:
            raise CheckpointError(
                f"{self.path}: {name} is int32, as weights of AWQ are, which are not read; convert"
                " the model with another quantization"
            )
        scale = self._scale(name, variable)
        rows = scale[start:stop] if scale.size > 1 else scale
        # A scale of 0 gives what the reader of checkpoints refuses, with the tensor's name.
        with np.errstate(all="ignore"):
            scaled: FloatArray = array.astype(np.float32)
            scaled /= rows.reshape(-1, *[1] * (array.ndim - 1))
        return scaled

    def scalar(self, name: str) -> float:
        """The value of a variable that holds one.

        Raises:
            CheckpointError: it holds several.
        """
        variable = self.variables[name]
        if math.prod(variable.shape) != 1:
            raise CheckpointError(
                f"{self.path}: {name} has shape {list(variable.shape)}, not one value"
            )
        return float(self._read(variable, 0, None).reshape(-1)[0])

    def add_alias(self, alias: str, name: str) -> None:
        """Give a variable another name, if it is there and the other is not."""
        if name in self._variables:
            self._variables.setdefault(alias, self._variables[name])

    def text(self, name: str) -> str:
        """A variable of bytes as the text that it is (tokens of old versions)."""
        data = self._read(self.variables[name], 0, None)
        return data.tobytes().decode("utf-8", errors="replace")

    def _scale(self, name: str, variable: Variable) -> FloatArray:
        scale_name = self._scales.get(name, f"{name}_scale")
        found = self.variables.get(scale_name)
        if found is None:
            if variable.dtype == _TYPES[2]:
                return np.array([_GLOBAL_INT16_SCALE], np.float32)
            raise CheckpointError(f"{self.path}: {name} is int8, and there is no {scale_name}")
        count = math.prod(found.shape)
        rows = variable.shape[0] if variable.shape else 1
        if count not in (1, rows):
            raise CheckpointError(
                f"{self.path}: {scale_name} has {count} values, and {name} {rows} rows"
            )
        return self._read(found, 0, None).astype(np.float32).reshape(-1)

    def _read(self, variable: Variable, start: int, stop: int | None) -> NDArray[Any]:
        shape = variable.shape
        if shape:
            first, last, _ = slice(start, stop).indices(shape[0])
            shape = (last - first, *shape[1:])
            row = math.prod(shape[1:]) * variable.dtype.itemsize
        else:
            first, row = 0, 0
        size = math.prod(shape) * variable.dtype.itemsize
        try:
            with self.path.open("rb") as file:
                file.seek(variable.start + first * row)
                data = file.read(size)
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from None
        if len(data) != size:
            raise CheckpointError(f"{self.path} was changed while it was read")
        return np.frombuffer(data, variable.dtype).reshape(shape)


def is_model_bin(path: Path) -> bool:
    """Whether a file begins as CTranslate2's do: a small version, then the name of a kind."""
    if not path.is_file():  # a named pipe would never end
        return False
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return False
    if len(start) < 8:
        return False
    version, length = struct.unpack_from("<IH", start)
    name = start[6 : 6 + length]
    return 0 < version < 256 and 1 < length < 64 and name.isascii() and name[-1:] == b"\0"


class _Header:
    """Reads a file from its start; what it takes is there."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = os.fstat(file.fileno()).st_size

    def number(self, kind: str) -> int:
        """An unsigned integer: ``B``, ``H`` or ``I`` of :mod:`struct`."""
        value: int = struct.unpack(f"<{kind}", self._take(struct.calcsize(kind)))[0]
        return value

    def text(self, what: str) -> str:
        length = self.number("H")
        if not 0 < length <= _LONGEST_NAME:
            raise self._damaged(f"{what} of {length} bytes")
        data = self._take(length)
        try:
            text = data[:-1].decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        if not text.isprintable() or not text or data[-1]:
            raise self._damaged(f"{what} that is no text")
        return text

    def version(self) -> int:
        version = self.number("I")
        if version not in VERSIONS:
            raise CheckpointError(
                f"{self._path} is a file of CTranslate2's binary version {version}; versions"
                f" {VERSIONS[0]} to {VERSIONS[-1]} are read: convert the model again with"
                " CTranslate2 4"
            )
        return version

    def variables(self, version: int) -> dict[str, Variable]:
        found: dict[str, Variable] = {}
        for _ in range(self._count("variables", _LEAST_BYTES)):
            name = self.text("a variable's name")
            if name in found:
                raise self._damaged(f"{name} twice")
            rank = self.number("B")
            if rank > _MOST_AXES:
                raise self._damaged(f"{name} with {rank} axes")
            shape = tuple(self.number("I") for _ in range(rank))
            dtype, size = self._type(name, version)
            if math.prod(shape) * dtype.itemsize != size:
                raise self._damaged(f"{name} of shape {list(shape)} ({dtype.name}) in {size} bytes")
            start = self._file.tell()
            if size > self._size - start:
                raise self._truncated()
            self._file.seek(size, os.SEEK_CUR)
            found[name] = Variable(shape, dtype, start)
        return found

    def _type(self, name: str, version: int) -> tuple[np.dtype, int]:
        """The type of a variable's elements, and its bytes."""
        kind, size = self.number("B"), self.number("I")
        if version < 4:
            if kind not in _OLD_TYPES:
                raise self._damaged(f"{name} with elements of {kind} bytes")
            return _OLD_TYPES[kind], size * kind
        if kind >= len(_TYPES):
            raise self._damaged(f"{name} of the unknown type {kind}")
        return _TYPES[kind], size

    def aliases(self, variables: dict[str, Variable]) -> dict[str, str]:
        """Add other names of variables; gives the names of their scales."""
        scales: dict[str, str] = {}
        for _ in range(self._count("aliases", 2 * (2 + 2))):
            alias, name = self.text("an alias"), self.text("a variable's name")
            if alias in variables:
                raise self._damaged(f"{alias} twice")
            if name not in variables:
                raise self._damaged(f"{alias} for {name}, which is not there")
            variables[alias] = variables[name]
            scales[alias] = scales.get(name, f"{name}_scale")
        return scales

    def end(self) -> None:
        rest = self._size - self._file.tell()
        if rest:
            raise self._damaged(f"{rest} bytes after its end")

    def _count(self, what: str, least: int) -> int:
        count = self.number("I")
        if count * least > self._size - self._file.tell():
            raise self._damaged(f"{count} {what} in the {self._size} bytes of the file")
        return count

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise self._truncated()
        return data

    def _truncated(self) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is truncated: it has {self._size} bytes, and says that there are more;"
            " copy it again"
        )

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._path} is damaged: it says {what}; copy it again")
