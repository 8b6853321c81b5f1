"""int8 weights and inputs: ``DynamicQuantizeLinear`` and ``MatMulInteger``.

All standard operators; ONNX Runtime fuses them into one when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..layers import Layer
from ..numerics import BlockTensors, Floats, quantize_channels, unpack
from ..treatments import BlockWeights
from .rewrite import initializer, insert_before, replace_node

#: Magnitudes that 7 bits hold (see numerics.quantize_channels).
_LARGEST = 64


def lower_dynamic(
    models: Mapping[str, ir.Model],
    layer: Layer,
    stored: tuple[BlockWeights, BlockTensors] | None = None,
) -> None:
    """Replace the layer's ``MatMul`` nodes; ``stored``: the weight as it is in the file."""
    weight, scales, blocks = None, None, None
    if stored is None:
        weight, scales = quantize_channels(layer.matrix(), 7)
    else:
        blocks, scales = _relative_blocks(layer, *stored)
    for use in layer.uses:
        model, node = models[use.graph], use.node
        x = node.inputs[0]
        if x is None:
            raise AssertionError("a MatMul has two inputs")
        quantized, scale, zero = _quantized_input(model, node, x)
        values = (
            initializer(model, f"{layer.name}.int8", weight)
            if weight is not None
            else _unpacked(model, node, layer, blocks or {})
        )
        none = initializer(model, "int8_zero_point", np.zeros((), np.int8))
        product = insert_before(model, node, "MatMulInteger", [quantized, values, zero, none])
        floats = _cast(model, node, product.outputs[0], ir.DataType.FLOAT)
        channel_scales = initializer(model, f"{layer.name}.scales", scales)
        both = insert_before(model, node, "Mul", [scale, channel_scales]).outputs[0]
        replace_node(model, node, "Mul", [floats, both])


def _relative_blocks(
    layer: Layer, plan: BlockWeights, tensors: BlockTensors
) -> tuple[dict[str, NDArray[np.generic]], Floats]:
    """Blocks [C, block, N] whose scales are relative to those [N] of the int8 outputs."""
    outputs = layer.matrix_shape[1]
    shape = (outputs, -1, plan.block_size)
    values = unpack(tensors.packed, plan.bits).reshape(shape).transpose(1, 2, 0)
    count = len(values)
    if tensors.zero_points is None:
        zeros = np.full((1, 1, 1), 2 ** (plan.bits - 1), np.uint8)
    else:
        zeros = unpack(tensors.zero_points, plan.bits)[:, :count].T[:, None, :]
    scales = tensors.scales.T[:, None, :]
    centred = values.astype(np.float32) - zeros.astype(np.float32)
    largest = np.abs(centred * scales).max(axis=(0, 1)) / _LARGEST
    channel_scales: Floats = np.where(largest == 0, 1, largest).astype(np.float32)
    blocks = {
        "blocks": values.astype(ml_dtypes.uint4),
        "zero_points": zeros.astype(np.uint8),
        "block_scales": (scales / channel_scales).astype(np.float32),
    }
    return blocks, channel_scales


def _unpacked(
    model: ir.Model, node: ir.Node, layer: Layer, blocks: Mapping[str, NDArray[np.generic]]
) -> ir.Value:
    """Blocks to int8 [K, N]. All of it is constant: ONNX Runtime does it once, at load."""
    values, zeros, scales = (
        initializer(model, f"{layer.name}.{name}", array) for name, array in blocks.items()
    )
    floats = [_cast(model, node, value, ir.DataType.FLOAT) for value in (values, zeros)]
    centred = insert_before(model, node, "Sub", floats).outputs[0]
    scaled = insert_before(model, node, "Mul", [centred, scales]).outputs[0]
    rounded = insert_before(model, node, "Round", [scaled]).outputs[0]
    whole = _cast(model, node, rounded, ir.DataType.INT8)
    inputs, outputs = layer.matrix_shape
    padded = np.array([-1, outputs], np.int64)
    rows = insert_before(
        model, node, "Reshape", [whole, initializer(model, f"{layer.name}.padded", padded)]
    ).outputs[0]
    if len(blocks["blocks"]) * blocks["blocks"].shape[1] == inputs:
        return rows
    ends = [
        initializer(model, f"{layer.name}.{name}", np.array([value], np.int64))
        for name, value in (("first", 0), ("inputs", inputs))
    ]
    return insert_before(model, node, "Slice", [rows, *ends]).outputs[0]


def _cast(model: ir.Model, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return insert_before(model, node, "Cast", [value], {"to": dtype.value}).outputs[0]


def _quantized_input(
    model: ir.Model, node: ir.Node, x: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Values, scale and zero point of ``x``; one quantization for all layers that read it."""
    for use in x.uses():
        if use.node.op_type == "DynamicQuantizeLinear":
            a, b, c = use.node.outputs
            return a, b, c
    a, b, c = insert_before(model, node, "DynamicQuantizeLinear", [x], outputs=3).outputs
    return a, b, c
