"""Weights of few bits with standard operators: ``DequantizeLinear`` before the node.

TensorRT-RTX 1.7.1 keeps these weights in their bits and dequantizes them within the GEMM if
there is an even number of outputs, 4 bit blocks are at least two of a row, and 8 bit weights
have one scale for each output (docs/design.md, section 7). It takes no zero points.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..numerics.rounding import BlockTensors, Floats, quantize_channels, unpack
from ..recipe.layers import Layer
from ..recipe.weight_formats import BlockWeights
from .rewrite import initializer, insert_before


def lower_standard_blocks(
    models: Mapping[str, ir.Model], layer: Layer, plan: BlockWeights, tensors: BlockTensors
) -> None:
    """4 bit values, a scale for each block of inputs."""
    inputs, outputs = layer.matrix_shape
    values = unpack(tensors.packed, plan.bits).reshape(outputs, -1)[:, :inputs]
    signed = (values.astype(np.int8) - 8).astype(ml_dtypes.int4)
    scales = tensors.scales
    if not layer.outputs_first:
        signed, scales = signed.T, scales.T
    axis = 1 if layer.outputs_first else 0
    _dequantize(models, layer, f"int{plan.bits}", signed, scales, (axis, plan.block_size))


def lower_channels(models: Mapping[str, ir.Model], layer: Layer) -> None:
    """8 bit values, a scale for each output; an odd number of outputs gets one of zeros more."""
    values, scales = quantize_channels(layer.matrix())
    odd = len(scales) % 2
    values = np.pad(values, ((0, 0), (0, odd)))
    scales = np.pad(scales, (0, odd), constant_values=1)
    if layer.outputs_first:
        values = values.T
    for use in layer.uses:
        if odd and use.node.op_type != "Gather":
            _drop_last_output(models[use.graph], use.node)
    _dequantize(models, layer, "int8", values, scales, (0 if layer.outputs_first else 1, 0))


def _dequantize(
    models: Mapping[str, ir.Model],
    layer: Layer,
    dtype: str,
    values: NDArray[np.generic],
    scales: Floats,
    blocks: tuple[int, int],
) -> None:
    axis, block_size = blocks
    attributes = {"axis": axis, **({"block_size": block_size} if block_size else {})}
    for use in layer.uses:
        model, node = models[use.graph], use.node
        stored = [
            initializer(model, f"{layer.name}.{dtype}", values),
            initializer(model, f"{layer.name}.scales", scales),
        ]
        floats = insert_before(model, node, "DequantizeLinear", stored, attributes).outputs[0]
        floats.dtype, floats.shape = ir.DataType.FLOAT, ir.Shape(values.shape)
        layer.replace_in(node, floats)


def _drop_last_output(model: ir.Model, node: ir.Node) -> None:
    """Give those who read ``node`` [.., N + 1] its first N columns; its bias gets a zero more."""
    whole = node.outputs[0]
    if len(node.inputs) > 2 and (bias := node.inputs[2]) is not None:
        if bias.const_value is None:
            raise AssertionError("a head's bias is a weight")
        padded = np.pad(bias.const_value.numpy(), (0, 1))
        node.replace_input_with(2, initializer(model, f"{bias.name}.padded", padded))
    bounds = [
        initializer(model, name, np.array([value], np.int64))
        for name, value in (("first_output", 0), ("last_output", -1), ("output_axis", -1))
    ]
    cut = ir.node("Slice", [None, *bounds])
    columns = cut.outputs[0]
    columns.type, columns.shape, whole.shape = whole.type, whole.shape, None
    if whole.is_graph_output():  # the name is known to the runtime
        columns.name, whole.name = whole.name, f"{whole.name}.padded"
    whole.replace_all_uses_with(columns, replace_graph_outputs=True)
    cut.replace_input_with(0, whole)
    model.graph.insert_after(node, cut)
