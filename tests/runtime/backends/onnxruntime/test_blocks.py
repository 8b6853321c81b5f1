"""Arrays that share a block of memory are as good as arrays of their own."""

from __future__ import annotations

import numpy as np

from seq2edge.runtime.backends.onnxruntime.blocks import copied_into, zeros_in_blocks


def test_arrays_in_blocks_are_zeros_that_do_not_overlap() -> None:
    shapes = {
        "key": ((3, 2, 5, 8), np.dtype(np.float32)),
        "codes": ((3, 1, 7), np.dtype(np.int8)),
        "large": ((5_000_000,), np.dtype(np.float32)),
        "value": ((3, 2, 5, 8), np.dtype(np.float32)),
        "none": ((0, 4), np.dtype(np.float32)),
    }
    arrays = dict(zeros_in_blocks(shapes))
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == shapes
    for number, array in enumerate(arrays.values()):
        assert not array.any()
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0 or not array.size
        array.fill(number + 1)
    for number, array in enumerate(arrays.values()):
        assert (array == number + 1).all()


def test_what_has_no_place_is_left_out() -> None:
    old = np.arange(12, dtype=np.float32).reshape(3, 4)
    new = copied_into(np.zeros((2, 6), np.float32), old)
    assert new.tolist() == [[0, 1, 2, 3, 0, 0], [4, 5, 6, 7, 0, 0]]
