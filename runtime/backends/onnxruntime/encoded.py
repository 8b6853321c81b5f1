"""What the encoder gave for a batch of sources, in memory that decoder steps are bound to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError
from ..base import Ids, Mask
from .blocks import copied_into, zeros_in_blocks


class OrtEncoderOutput:
    """Encoder outputs, with the source mask [B, 1, 1, S].

    Args:
        batch_size: B.
        mask: None: nothing of the sources is padding.
        outputs: by name; without an encoder there are none. A key or value may be int8, with its
            scales [B, 1, H*Dh] beside it (:func:`scale_name`).
        owner: what the arrays' memory belongs to, if that is not the arrays themselves.

    Attributes:
        length: S, source positions; 0: there is no encoder.
    """

    def __init__(
        self,
        batch_size: int,
        mask: Mask | None,
        outputs: Mapping[str, NDArray[Any]],
        owner: object = None,
    ) -> None:
        self.batch_size = batch_size
        self.mask = mask
        self.outputs = outputs
        self._owner = owner
        self._writes = 0
        self.length = max((a.shape[2] for a in outputs.values() if a.ndim == 4), default=0)

    @property
    def version(self) -> int:
        """Another one after each :meth:`write`, here or where this is a part of."""
        whole = self._owner
        return self._writes + (whole.version if isinstance(whole, OrtEncoderOutput) else 0)

    def numpy(self, name: str) -> NDArray[Any]:
        """One encoder output, e.g. ``cross_key.0`` [B, H, S, Dh], as floats."""
        array = self.outputs[name]
        scales = self.outputs.get(scale_name(name))
        if scales is None:
            return array.copy()
        batch, heads, _, head_dim = array.shape
        floats: NDArray[np.float32] = array * scales.reshape(batch, heads, 1, head_dim)
        return floats

    @property
    def quantized(self) -> bool:
        """Whether keys and values are int8."""
        return any(scale_name(name) in self.outputs for name in self.outputs)

    def shortest(self) -> int:
        """Positions of the source that has the fewest."""
        if self.mask is None:
            return self.length
        return int(self.mask[:, 0, 0].sum(axis=1).min())

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.outputs.values())

    def replace(self, other: OrtEncoderOutput) -> None:
        """Put other sources of the same shapes in the place of all of these."""
        for name, array in self.outputs.items():
            np.copyto(array, other.outputs[name])
        if self.mask is not None and other.mask is not None:
            np.copyto(self.mask, other.mask)
        self._writes += 1

    def rows(self, rows: Ids) -> OrtEncoderOutput:
        """These rows of the batch, copied."""
        outputs = {name: array[rows] for name, array in self.outputs.items()}
        mask = None if self.mask is None else self.mask[rows]
        return OrtEncoderOutput(len(rows), mask, outputs)

    def part(self, first: int, count: int = 1) -> OrtEncoderOutput:
        """Some rows of the batch, in the same memory."""
        some = slice(first, first + count)
        outputs = {name: array[some] for name, array in self.outputs.items()}
        return OrtEncoderOutput(
            count, None if self.mask is None else self.mask[some], outputs, self
        )

    def write(self, row: int, other: OrtEncoderOutput) -> None:
        """Put the only source of ``other`` into a row, but for padding that has no room."""
        length = min(self.length, other.length)
        for name, array in self.outputs.items():
            new = other.outputs[name][0]
            if array.ndim == 4:  # keys and values [B, H, S, Dh]; their scales are [B, 1, H*Dh]
                array[row, :, :length] = new[:, :length]
            else:
                array[row] = new
        if self.mask is not None and other.mask is not None:
            self.mask[row, ..., :length] = other.mask[0, ..., :length]
            self.mask[row, ..., length:] = False
        self._writes += 1

    def resized(self, batch_size: int, length: int) -> OrtEncoderOutput:
        """A copy with so many rows and positions: zeros, and padding, where these have none."""
        shapes = {}
        for name, old in self.outputs.items():
            shape = (batch_size, *old.shape[1:])
            if old.ndim == 4:
                shape = (batch_size, old.shape[1], length, old.shape[3])
            shapes[name] = shape, old.dtype
        outputs = {
            name: copied_into(new, self.outputs[name]) for name, new in zeros_in_blocks(shapes)
        }
        mask = self.mask
        if mask is not None:
            mask = copied_into(np.zeros((batch_size, 1, 1, length), np.bool_), mask)
        return OrtEncoderOutput(batch_size, mask, outputs)

    def bind(self, binding: Any, rows: int) -> None:
        """Make the first rows of the outputs inputs of a decoder step."""
        for name, whole in self.outputs.items():
            array = whole[:rows]
            bind_array(binding.bind_input, name, array)
            if scale_name(name) in self.outputs:  # the operator gives them back as they are
                bind_array(binding.bind_output, f"present_{name}", array)

    def bind_one(self, binding: Any, name: str) -> None:
        """Make one output an input of another graph.

        Raises:
            BackendError: the encoder gives no such output.
        """
        if name not in self.outputs:
            raise BackendError(f"the encoder does not give {name}, which the graph reads")
        binding.bind_cpu_input(name, self.numpy(name))


def shape_key(source: OrtEncoderOutput, slots: int) -> tuple[int, int, bool, int]:
    """The same for caches of the same shapes over sources of the same shapes."""
    return source.batch_size, source.length, source.mask is None, slots


def scale_name(name: str) -> str:
    """``cross_key.0`` to ``cross_key_scale.0``."""
    kind, _, layer = name.partition(".")
    return f"{kind}_scale.{layer}"


def bind_array(bind: Callable[..., None], name: str, array: NDArray[Any]) -> None:
    """Bind an array by its address; ``bind`` is an IOBinding's bind_input or bind_output."""
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be contiguous to be bound by address")
    address, _ = array.__array_interface__["data"]  # array.ctypes takes three times as long
    bind(name, "cpu", 0, array.dtype.type, array.shape, address)
