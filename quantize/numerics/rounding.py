"""Weights to integers and scales, with ONNX Runtime's own quantizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import QuantizationError
from ..recipe.options import BLOCK_SIZES
from ..recipe.weight_formats import WeightOnly

Floats = NDArray[np.float32]

#: Shares of a block's range that its scale may cover; what is beyond is clipped.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)

#: float16's smallest normal number: a smaller scale might be 0 in it.
_SMALLEST_SCALE = np.float32(2.0**-14)


@dataclass(frozen=True)
class BlockTensors:
    """A weight [K, N] as ``MatMulNBits`` takes it; C blocks a column.

    Attributes:
        packed: [N, C, bytes a block] uint8; two 4 bit values a byte, the lower one first.
        scales: [N, C] float32.
        zero_points: [N, C * bits / 8 rounded up] uint8, packed alike; None: the middle
            (8 or 128).
    """

    packed: NDArray[np.uint8]
    scales: Floats
    zero_points: NDArray[np.uint8] | None


def fitting_block(inputs: int, weight_format: WeightOnly, *, whole: bool) -> int:
    """The block size, at most the format's, that stores ``inputs`` in the fewest bytes.

    Blocks that do not divide ``inputs`` pad it. ``whole`` allows none that pads (a table whose
    rows are looked up has no padding); 0 if there is none.
    """

    def stored(block: int) -> tuple[int, int]:
        blocks = -(-inputs // block)
        return blocks * (block * weight_format.bits // 8 + 4), -block

    sizes = [block for block in BLOCK_SIZES if block <= weight_format.block_size]
    return min((b for b in sizes if not (whole and inputs % b)), key=stored, default=0)


def quantize_blocks(weight: Floats, weight_format: WeightOnly) -> BlockTensors:
    """Quantize [K, N] in blocks along K; a last block that is not full is padded with zeros."""
    if weight_format.algorithm == "k-quant":
        return _k_quant(weight, weight_format)
    if weight_format.standard and weight_format.symmetric and weight_format.bits == 4:
        return _nearest_positive(weight, weight_format)
    return _nearest(weight, weight_format)


def _nearest_positive(weight: Floats, weight_format: WeightOnly) -> BlockTensors:
    """Scales above 0, which are all that TensorRT's parser takes; the best of a few a block.

    ONNX Runtime's quantizer makes -8 of the weight of largest magnitude, so that a scale is
    negative where that weight is positive; here it becomes 7 then, or less than a clipped one
    loses is won by the finer scale.
    """
    inputs, outputs = weight.shape
    block = weight_format.block_size
    count = -(-inputs // block)
    columns = np.pad(weight.T, ((0, 0), (0, count * block - inputs)))
    columns = columns.reshape(outputs, count, block)
    whole = np.maximum(columns.max(axis=-1) / 7, -columns.min(axis=-1) / 8)
    best = np.full(whole.shape, np.inf, np.float32)
    scales = np.ones_like(whole)
    values = np.zeros(columns.shape, np.int8)
    for share in _SHARES:
        tried = np.maximum(whole * np.float32(share), _SMALLEST_SCALE)
        rounded = np.clip(np.round(columns / tried[..., None]), -8, 7)
        errors = np.square(rounded * tried[..., None] - columns).sum(axis=-1)
        better = errors < best
        best = np.where(better, errors, best)
        scales = np.where(better, tried, scales)
        values = np.where(better[..., None], rounded.astype(np.int8), values)
    return BlockTensors(pack(values + 8, weight_format.bits), scales.astype(np.float32), None)


def _nearest(weight: Floats, weight_format: WeightOnly) -> BlockTensors:
    quantize = _kernel(weight_format.bits)
    inputs, outputs = weight.shape
    block, per_byte = weight_format.block_size, 8 // weight_format.bits
    count = -(-inputs // block)
    packed = np.zeros((outputs, count, block // per_byte), np.uint8)
    scales = np.zeros((outputs, count), np.float32)
    zero_points = np.zeros((outputs, -(-count // per_byte)), np.uint8)
    # The kernel reads whole blocks of rows in C order; np.pad keeps Fortran's if it finds it.
    padded = np.ascontiguousarray(np.pad(weight, ((0, count * block - inputs), (0, 0))))
    quantize(packed, padded, scales, zero_points, block, outputs, inputs, weight_format.symmetric)
    return BlockTensors(packed, scales, None if weight_format.symmetric else zero_points)


def _kernel(bits: int) -> Callable[..., None]:
    """ONNX Runtime's own rounding to blocks.

    Raises:
        QuantizationError: the installed onnxruntime is too old to have it.
    """
    from onnxruntime.capi import _pybind_state as native

    kernel: Callable[..., None] | None = getattr(native, f"quantize_matmul_{bits}bits", None)
    if kernel is None:
        from onnxruntime import __version__ as installed

        raise QuantizationError(
            f"weights of {bits} bits in blocks need onnxruntime 1.22 or newer, and {installed} is"
            " installed: pip install --upgrade onnxruntime"
        )
    return kernel


def _k_quant(weight: Floats, weight_format: WeightOnly) -> BlockTensors:
    """ONNX Runtime's search for each block, where it is nearer than rounding to nearest.

    Its zero point is rounded after the search and stays within the block's bits, which loses
    blocks of equal values or of one sign.
    """
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    inputs, outputs = weight.shape
    block = weight_format.block_size
    count = -(-inputs // block)
    columns = np.pad(weight.T, ((0, 0), (0, count * block - inputs)))
    with np.errstate(invalid="ignore", divide="ignore"):  # a block of equal values
        values, scales, zero_points = quant_tensor_k_quant_cpu(columns, weight_format.bits, block)
    searched = BlockTensors(
        packed=pack(values.reshape(outputs, count, block), weight_format.bits),
        scales=scales.reshape(outputs, count).astype(np.float32),
        zero_points=pack(zero_points.reshape(outputs, count), weight_format.bits),
    )
    nearest = _nearest(weight, replace(weight_format, symmetric=False))
    expected = columns.reshape(outputs, count, block)
    errors = [
        np.square(block_values(tensors, weight_format.bits) - expected).sum(axis=-1)
        for tensors in (searched, nearest)
    ]
    better = ~(errors[0] <= errors[1])  # not a number is not better
    zeros = [
        _zeros(tensors, weight_format.bits).astype(np.uint8) for tensors in (searched, nearest)
    ]
    return BlockTensors(
        packed=np.where(better[..., None], nearest.packed, searched.packed),
        scales=np.where(better, nearest.scales, searched.scales),
        zero_points=pack(np.where(better, zeros[1], zeros[0]), weight_format.bits),
    )


def block_values(tensors: BlockTensors, bits: int) -> Floats:
    """What the blocks stand for: [N, C, block] float32."""
    count = tensors.scales.shape[1]
    values = unpack(tensors.packed, bits).reshape(len(tensors.scales), count, -1)
    centred = values.astype(np.float32) - _zeros(tensors, bits)[..., None]
    restored: Floats = centred * tensors.scales[..., None]
    return restored


def _zeros(tensors: BlockTensors, bits: int) -> Floats:
    """Zero points [N, C]."""
    if tensors.zero_points is None:
        return np.full(tensors.scales.shape, 2 ** (bits - 1), np.float32)
    count = tensors.scales.shape[1]
    zeros: Floats = unpack(tensors.zero_points, bits)[:, :count].astype(np.float32)
    return zeros


def pack(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Values of ``bits`` bits, packed into bytes along the last axis."""
    whole = values.astype(np.uint8)
    if bits == 8:
        return whole
    odd = whole.shape[-1] % 2
    whole = np.pad(whole, [(0, 0)] * (whole.ndim - 1) + [(0, odd)])
    packed: NDArray[np.uint8] = np.bitwise_or(whole[..., ::2], np.left_shift(whole[..., 1::2], 4))
    return packed


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of :func:`pack`; an odd last axis has come back even, with a zero more."""
    if bits == 8:
        return packed
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(*packed.shape[:-1], -1)


def quantize_channels(weight: Floats, bits: int = 8) -> tuple[NDArray[np.int8], Floats]:
    """[K, N] to int8 with one scale for each of the N outputs, symmetric.

    Seven bits are for uint8 inputs on x86 without VNNI: pairs of uint8 x int8 products are
    summed in 16 bits there, and two of 255 x 127 do not fit (onnxruntime's docs call it
    reduce_range).
    """
    largest = 127 if bits == 8 else 64
    scales = np.abs(weight).max(axis=0) / largest
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    return np.clip(np.round(weight / scales), -largest, largest).astype(np.int8), scales
