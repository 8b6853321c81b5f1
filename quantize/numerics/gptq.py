"""GPTQ: round a layer's weights so that its output changes least over some text.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022): inputs are rounded one after the other, and each one's error is taken up
by those not yet rounded, weighted by the inverse of the second moments of the layer's input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..recipe.weight_formats import WeightOnly
from .rounding import BlockTensors, Floats, pack, quantize_blocks, unpack

#: Added to the moments' diagonal, as a share of its mean (the paper's 1 %).
_DAMPING = 0.01


def gptq_blocks(weight: Floats, moments: NDArray[Any], weight_format: WeightOnly) -> BlockTensors:
    """Quantize [K, N] in blocks along K, given the sum over tokens of x x^T [K, K].

    A block's scales are those of rounding to nearest what is left of it when its turn comes.
    """
    inputs, outputs = weight.shape
    rest = weight.astype(np.float32).copy()
    upper = _inverse_root(moments)
    # An input that was never seen has no say, and no error to pass on.
    rest[np.diag(moments) == 0] = 0
    size, top = weight_format.block_size, 2**weight_format.bits - 1
    count = -(-inputs // size)
    values = np.zeros((count * size, outputs), np.uint8)
    scales = np.zeros((outputs, count), np.float32)
    zeros = np.zeros((outputs, count), np.uint8)
    nearest = replace(weight_format, algorithm="rtn")
    for block in range(count):
        start, stop = block * size, min((block + 1) * size, inputs)
        grid = quantize_blocks(rest[start:stop], nearest)
        scale = scales[:, block] = grid.scales[:, 0]
        zeros[:, block] = (
            (top + 1) // 2
            if grid.zero_points is None
            else unpack(grid.zero_points, weight_format.bits)[:, 0]
        )
        zero = zeros[:, block].astype(np.float32)
        step = np.where(scale == 0, 1, scale)
        errors = np.zeros((stop - start, outputs), np.float32)
        for row in range(start, stop):
            chosen = np.clip(np.round(rest[row] / step) + zero, 0, top)
            values[row] = chosen
            error = (rest[row] - (chosen - zero) * scale) / upper[row, row]
            rest[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], error)
            errors[row - start] = error
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    blocks = values.T.reshape(outputs, count, size)
    return BlockTensors(
        packed=pack(blocks, weight_format.bits),
        scales=scales,
        zero_points=None if weight_format.symmetric else pack(zeros, weight_format.bits),
    )


def _inverse_root(moments: NDArray[Any]) -> Floats:
    """The upper Cholesky factor of the damped moments' inverse."""
    damped = moments.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)  # a view
    diagonal[diagonal == 0] = 1
    diagonal += _DAMPING * diagonal.mean()
    root: Floats = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    return root
