"""int8 weights and inputs: ``DynamicQuantizeLinear`` and ``MatMulInteger``.

All standard operators; ONNX Runtime fuses them into one when it loads the graph.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..numerics.rounding import BlockTensors, Floats, block_values, quantize_channels, unpack
from ..recipe.layers import Layer
from ..recipe.weight_formats import WeightOnly
from .rewrite import LayerPass, NodeBuilder

#: Magnitudes that 7 bits hold (see numerics.quantize_channels).
_LARGEST = 64


class DynamicQuantPass(LayerPass):
    """Makes a layer's products integer products, of inputs that are quantized as they come.

    Args:
        stored: the weight as it is in the file, to become int8 when it is loaded; None: int8.
    """

    def __init__(self, layer: Layer, stored: tuple[WeightOnly, BlockTensors] | None = None) -> None:
        super().__init__(layer)
        self._stored = stored
        if stored is None:
            weight, self._scales = quantize_channels(layer.matrix(), 7)
            self._weight = weight.T if layer.outputs_first else weight
        else:
            self._scales = _channel_scales(*stored)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes, name = self.nodes(model), self.layer.name
        for node in nodes:
            builder = NodeBuilder(model, node)
            factors = builder.initializer(f"{name}.channel_scales", self._scales)
            if self._stored is None:
                values = builder.initializer(f"{name}.int8", self._weight)
            else:
                values = _unpacked(builder, name, self._stored, self._scales)
            if node.op_type == "Gather":
                _replace_gather(builder, values, factors)
                continue
            if self.layer.outputs_first:  # constant: ONNX Runtime turns it once, at load
                values = builder.op("Transpose", [values], {"perm": [1, 0]})
            _replace_product(builder, values, factors)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _replace_product(builder: NodeBuilder, values: ir.Value, factors: ir.Value) -> None:
    """``MatMul`` or ``Gemm`` to an integer product and its scales."""
    node = builder.node
    x = node.inputs[0]
    if x is None:
        raise AssertionError("a product has two inputs")
    quantized, scale, zero = _quantized_input(builder, x)
    none = builder.initializer("int8_zero_point", np.zeros((), np.int8))
    product = builder.op("MatMulInteger", [quantized, values, zero, none])
    floats = _floats(builder, product)
    both = builder.op("Mul", [scale, factors])
    if len(node.inputs) > 2:
        scaled = builder.op("Mul", [floats, both])
        builder.replace("Add", [scaled, node.inputs[2]])
    else:
        builder.replace("Mul", [floats, both])


def _replace_gather(builder: NodeBuilder, values: ir.Value, factors: ir.Value) -> None:
    """Observer up int8 rows and their scales."""
    ids = builder.node.inputs[1]
    rows = builder.op("Gather", [values, ids], {"axis": 0})
    scales = builder.op("Gather", [factors, ids], {"axis": 0})
    last = builder.initializer("last_axis", np.array([-1], np.int64))
    column = builder.op("Unsqueeze", [scales, last])
    builder.replace("Mul", [_floats(builder, rows), column])


def _channel_scales(weight_format: WeightOnly, tensors: BlockTensors) -> Floats:
    """[N], so that 7 bits hold the blocks' values (see numerics.quantize_channels)."""
    largest = np.abs(block_values(tensors, weight_format.bits)).max(axis=(1, 2)) / _LARGEST
    scales: Floats = np.where(largest == 0, 1, largest).astype(np.float32)
    return scales


def _unpacked(
    builder: NodeBuilder, name: str, stored: tuple[WeightOnly, BlockTensors], scales: Floats
) -> ir.Value:
    """Blocks to int8 [K, N]. All of it is constant: ONNX Runtime does it once, at load.

    It keeps what each node makes until it has folded all of them, so the nodes are few: one
    makes floats, one divides by each block's scale relative to its output's and rounds.
    """
    weight_format, tensors = stored
    bits, size = weight_format.bits, weight_format.block_size
    count, outputs = tensors.scales.shape[1], len(tensors.packed)
    values = unpack(tensors.packed, bits).reshape(outputs, -1).T
    steps = np.where(tensors.scales == 0, 1, tensors.scales)
    relative: Floats = (scales[:, None] / steps).T.astype(np.float32)
    if tensors.zero_points is None:
        signed = (values.astype(np.int8) - 2 ** (bits - 1)).astype(ml_dtypes.int4)
        floats = _floats(builder, builder.initializer(f"{name}.int4", signed))
        return _rounded(builder, name, floats, relative, (0, size))
    blocks = values.reshape(count, size, outputs).astype(ml_dtypes.uint4)
    zeros = unpack(tensors.zero_points, bits)[:, :count].T[:, None]
    both = [
        _floats(builder, builder.initializer(f"{name}.{key}", array))
        for key, array in (("uint4", blocks), ("zero_points", zeros))
    ]
    floats = builder.op("Sub", both)
    whole = _rounded(builder, name, floats, relative[:, None], (1, size))
    rows = builder.initializer(f"rows.{outputs}", np.array([-1, outputs], np.int64))
    return builder.op("Reshape", [whole, rows])


def _rounded(
    builder: NodeBuilder, name: str, floats: ir.Value, scales: Floats, blocks: tuple[int, int]
) -> ir.Value:
    """``floats`` over a scale for each block along the axis, as int8."""
    axis, block_size = blocks
    parameters = [
        builder.initializer(f"{name}.relative_scales", scales),
        builder.initializer(f"{name}.no_zero_points", np.zeros(scales.shape, np.int8)),
    ]
    attributes = {"axis": axis, "block_size": block_size}
    return builder.op("QuantizeLinear", [floats, *parameters], attributes)


def _floats(builder: NodeBuilder, value: ir.Value) -> ir.Value:
    return builder.op("Cast", [value], {"to": ir.DataType.FLOAT.value})


def _quantized_input(builder: NodeBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Values, scale and zero point of ``x``; one quantization for all layers that read it."""
    for use in x.uses():
        if use.node.op_type == "DynamicQuantizeLinear":
            values, scale, zero = use.node.outputs
            return values, scale, zero
    values, scale, zero = builder.outputs("DynamicQuantizeLinear", [x], count=3)
    return values, scale, zero
