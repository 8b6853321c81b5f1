"""What generation asks of a source, be it text, sound or a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


class Source(Protocol):
    """One source, checked and ready for the encoder."""

    def __len__(self) -> int:
        """Positions that the encoder reads: sources of similar length share a batch."""
        ...

    def tokens(self) -> list[int]:
        """Its token ids, which some options read; none where it has no tokens."""
        ...

    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Inputs of the encoder by name, without a batch axis, e.g. ``input_ids`` [S]."""
        ...


def collate(sources: Sequence[Source], pad: int) -> dict[str, NDArray[Any]]:
    """Encoder inputs of a batch: each array padded at the end of its axes, on a new first axis.

    ``input_ids`` are padded with the token ``pad``, all other arrays with 0.

    Raises:
        InputError: ``audio`` of several lengths, of which the encoder would hear the padding.
    """
    rows = [source.inputs() for source in sources]
    if len(rows) == 1:
        return {name: array[None].copy() for name, array in rows[0].items()}
    batch = {}
    for name, first in rows[0].items():
        arrays = [row[name] for row in rows]
        if name == "audio" and len({array.shape for array in arrays}) > 1:
            raise InputError(
                "audio of different lengths cannot share a batch, as this encoder has no mask of"
                " its source; transcribe one after the other (batch_size=1)"
            )
        shape = np.max([array.shape for array in arrays], axis=0)
        fill = pad if name == "input_ids" else 0
        batch[name] = np.full((len(rows), *shape), fill, first.dtype)
        for row, array in zip(batch[name], arrays, strict=True):
            row[tuple(map(slice, array.shape))] = array
    return batch
