"""int8 weights and inputs: ``DynamicQuantizeLinear`` and ``MatMulInteger``.

All standard operators; ONNX Runtime fuses them into one when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..numerics.rounding import BlockTensors, Floats, block_values, quantize_channels, unpack
from ..recipe.layers import Layer
from ..recipe.weight_formats import BlockWeights
from .rewrite import initializer, insert_before, replace_node

#: Magnitudes that 7 bits hold (see numerics.quantize_channels).
_LARGEST = 64


def lower_dynamic(
    models: Mapping[str, ir.Model],
    layer: Layer,
    stored: tuple[BlockWeights, BlockTensors] | None = None,
) -> None:
    """Replace the layer's ``MatMul`` nodes; ``stored``: the weight as it is in the file."""
    if stored is None:
        weight, scales = quantize_channels(layer.matrix(), 7)
    else:
        weight, scales = None, _channel_scales(*stored)
    if weight is not None and layer.outputs_first:
        weight = weight.T
    for use in layer.uses:
        model, node = models[use.graph], use.node
        factors = initializer(model, f"{layer.name}.channel_scales", scales)
        if weight is not None:
            values = initializer(model, f"{layer.name}.int8", weight)
        elif stored is not None:
            values = _unpacked(model, node, layer.name, stored, scales)
        if node.op_type == "Gather":
            _lower_gather(model, node, values, factors)
            continue
        if layer.outputs_first:  # constant: ONNX Runtime turns it once, at load
            values = insert_before(model, node, "Transpose", [values], {"perm": [1, 0]}).outputs[0]
        _lower_product(model, node, values, factors)


def _lower_product(model: ir.Model, node: ir.Node, values: ir.Value, factors: ir.Value) -> None:
    """``MatMul`` or ``Gemm`` to an integer product and its scales."""
    x = node.inputs[0]
    if x is None:
        raise AssertionError("a product has two inputs")
    quantized, scale, zero = _quantized_input(model, node, x)
    none = initializer(model, "int8_zero_point", np.zeros((), np.int8))
    product = insert_before(model, node, "MatMulInteger", [quantized, values, zero, none])
    floats = _floats(model, node, product.outputs[0])
    both = insert_before(model, node, "Mul", [scale, factors]).outputs[0]
    if len(node.inputs) > 2:
        scaled = insert_before(model, node, "Mul", [floats, both]).outputs[0]
        replace_node(model, node, "Add", [scaled, node.inputs[2]])
    else:
        replace_node(model, node, "Mul", [floats, both])


def _lower_gather(model: ir.Model, node: ir.Node, values: ir.Value, factors: ir.Value) -> None:
    """Look up int8 rows and their scales."""
    ids = node.inputs[1]
    rows = insert_before(model, node, "Gather", [values, ids], {"axis": 0}).outputs[0]
    scales = insert_before(model, node, "Gather", [factors, ids], {"axis": 0}).outputs[0]
    last = initializer(model, "last_axis", np.array([-1], np.int64))
    column = insert_before(model, node, "Unsqueeze", [scales, last]).outputs[0]
    replace_node(model, node, "Mul", [_floats(model, node, rows), column])


def _channel_scales(plan: BlockWeights, tensors: BlockTensors) -> Floats:
    """[N], so that 7 bits hold the blocks' values (see numerics.quantize_channels)."""
    largest = np.abs(block_values(tensors, plan.bits)).max(axis=(1, 2)) / _LARGEST
    scales: Floats = np.where(largest == 0, 1, largest).astype(np.float32)
    return scales


def _unpacked(
    model: ir.Model,
    node: ir.Node,
    name: str,
    stored: tuple[BlockWeights, BlockTensors],
    scales: Floats,
) -> ir.Value:
    """Blocks to int8 [K, N]. All of it is constant: ONNX Runtime does it once, at load.

    It keeps what each node makes until it has folded all of them, so the nodes are few: one
    makes floats, one divides by each block's scale relative to its output's and rounds.
    """
    plan, tensors = stored
    count, outputs = tensors.scales.shape[1], len(tensors.packed)
    values = unpack(tensors.packed, plan.bits).reshape(outputs, -1).T
    steps = np.where(tensors.scales == 0, 1, tensors.scales)
    relative: Floats = (scales[:, None] / steps).T.astype(np.float32)
    if tensors.zero_points is None:
        signed = (values.astype(np.int8) - 2 ** (plan.bits - 1)).astype(ml_dtypes.int4)
        floats = _floats(model, node, initializer(model, f"{name}.int4", signed))
        return _rounded(model, node, name, floats, relative, (0, plan.block_size))
    blocks = values.reshape(count, plan.block_size, outputs).astype(ml_dtypes.uint4)
    zeros = unpack(tensors.zero_points, plan.bits)[:, :count].T[:, None]
    both = [
        _floats(model, node, initializer(model, f"{name}.{key}", array))
        for key, array in (("uint4", blocks), ("zero_points", zeros))
    ]
    floats = insert_before(model, node, "Sub", both).outputs[0]
    whole = _rounded(model, node, name, floats, relative[:, None], (1, plan.block_size))
    rows = initializer(model, f"rows.{outputs}", np.array([-1, outputs], np.int64))
    return insert_before(model, node, "Reshape", [whole, rows]).outputs[0]


def _rounded(
    model: ir.Model,
    node: ir.Node,
    name: str,
    floats: ir.Value,
    scales: Floats,
    blocks: tuple[int, int],
) -> ir.Value:
    """``floats`` over a scale for each block along the axis, as int8."""
    axis, block_size = blocks
    parameters = [
        initializer(model, f"{name}.relative_scales", scales),
        initializer(model, f"{name}.no_zero_points", np.zeros(scales.shape, np.int8)),
    ]
    attributes = {"axis": axis, "block_size": block_size}
    whole = insert_before(model, node, "QuantizeLinear", [floats, *parameters], attributes)
    return whole.outputs[0]


def _floats(model: ir.Model, node: ir.Node, value: ir.Value) -> ir.Value:
    return insert_before(model, node, "Cast", [value], {"to": ir.DataType.FLOAT.value}).outputs[0]


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
