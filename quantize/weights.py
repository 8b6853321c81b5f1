"""A bundle's tensors, read from its files when they are used and not mapped.

A mapped file that is cut meanwhile ends the process with SIGBUS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.runtime.errors import BundleError


class ReadTensor(ir.ExternalTensor):
    """An external tensor; each use reads it again, so that none stays in memory."""

    def numpy(self) -> NDArray[Any]:
        kind = self.dtype.numpy()
        data = np.frombuffer(self.tobytes(), np.uint8)
        if self.dtype.bitwidth == 4:  # two of them a byte, the first in the lower half
            data = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: self.size]
        array: NDArray[Any] = data.view(kind).reshape(self.shape.numpy())
        return array

    def __array__(self, dtype: Any = None) -> NDArray[Any]:
        return self.numpy().__array__(dtype)

    def tobytes(self) -> bytes:
        """The bytes as they are stored.

        Raises:
            BundleError: the file is gone, or was cut since the bundle was opened.
        """
        length = self.nbytes
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset or 0)
                data = file.read(length)
        except OSError as error:
            raise BundleError(f"cannot read {self.path}: {error.strerror}") from None
        if len(data) != length:
            raise BundleError(f"{self.path} was cut while it was read; copy the bundle again")
        return data

    def tofile(self, file: BinaryIO) -> None:
        file.write(self.tobytes())


def read_when_used(model: ir.Model) -> None:
    """Make all external tensors of a model :class:`ReadTensor`."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ReadTensor(
                    tensor.location,
                    tensor.offset,
                    tensor.length,
                    tensor.dtype,
                    shape=tensor.shape,
                    name=tensor.name,
                    base_dir=tensor.base_dir,
                )
