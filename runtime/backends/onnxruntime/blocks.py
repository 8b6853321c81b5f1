"""Arrays that lie together, so that the system can give them large pages.

A step of a batch reads tens of megabytes of keys and values, in arrays of two. numpy asks for pages
of 2 MB where it allocates 4 MB or more; an array that is smaller gets pages of 4 KB, which cost
a step of 16 sources some 5 % of its time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of a block, where there is as much to put into it. Not all in one: while a cache grows, the old
#: arrays and a new block are there at once.
_BLOCK_BYTES = 16_000_000
#: What an array's address is a multiple of, less than a cache line's.
_ALIGNMENT = 64


def zeros_in_blocks(
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays of zeros by name, in the order of ``shapes``, which says each one's shape and type.

    Each block of memory is allocated when its first array is asked for.
    """
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (shape, dtype) in shapes.items()}
    padded = {name: -(-size // _ALIGNMENT) * _ALIGNMENT for name, size in sizes.items()}
    names = list(shapes)
    while names:
        count, total = 0, 0
        while count < len(names) and total < _BLOCK_BYTES:
            total += padded[names[count]]
            count += 1
        block = np.zeros(total + _ALIGNMENT, np.uint8)
        at = -block.ctypes.data % _ALIGNMENT
        for name in names[:count]:
            shape, dtype = shapes[name]
            yield name, block[at : at + sizes[name]].view(dtype).reshape(shape)
            at += padded[name]
        names = names[count:]


def copied_into(new: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    """``new`` with what of ``old`` has a place in it."""
    kept = tuple(slice(min(sizes)) for sizes in zip(old.shape, new.shape, strict=True))
    new[kept] = old[kept]
    return new
