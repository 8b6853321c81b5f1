"""int8 weights and inputs in fixed ranges: ``QuantizeLinear`` and ``DequantizeLinear``.

ONNX Runtime and TensorRT make an integer GEMM of the two. All three nodes compute in float32,
whatever the rest of the graph does: with float16 scales TensorRT-RTX 1.7.1 writes the integer
sums as float16, where they overflow (docs/design.md, section 7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from ..calibration import Activation
from ..numerics.rounding import quantize_channels
from ..recipe.layers import Layer
from ..recipe.weight_formats import StaticInt8
from .rewrite import initializer, insert_before


def lower_static(
    models: Mapping[str, ir.Model],
    layer: Layer,
    plan: StaticInt8,
    activation: Callable[[str, ir.Value], Activation],
) -> list[ir.Node]:
    """Quantize the layer's weight and what its nodes read.

    Returns:
        The nodes that have to stay in float32.
    """
    weight, scales = quantize_channels(layer.matrix(), 7 if plan.unsigned else 8)
    exact: list[ir.Node] = []
    for use in layer.uses:
        model, node = models[use.graph], use.node
        x = node.inputs[0]
        if x is None:
            raise AssertionError("a MatMul has two inputs")
        stored = [
            initializer(model, f"{layer.name}.int8", weight),
            initializer(model, f"{layer.name}.scales", scales),
        ]
        floats = insert_before(model, node, "DequantizeLinear", stored, {"axis": 1})
        floats.outputs[0].dtype = ir.DataType.FLOAT
        layer.replace_in(node, floats.outputs[0])
        pair = _quantized_input(model, node, x, plan, activation(use.graph, x))
        node.replace_input_with(0, pair[1].outputs[0])
        exact += [*pair, floats, node]
    return exact


def _quantized_input(
    model: ir.Model, node: ir.Node, x: ir.Value, plan: StaticInt8, seen: Activation
) -> tuple[ir.Node, ir.Node]:
    """``x`` to integers and back; one pair for all layers that read it."""
    for use in x.uses():
        if use.node.op_type == "QuantizeLinear":
            (reader,) = use.node.outputs[0].uses()
            return use.node, reader.node
    threshold = seen.threshold(plan.method) or 1.0
    positive = plan.unsigned and seen.minimum >= 0
    scale = np.array(threshold / (255 if positive else 127), np.float32)
    zero = np.array(0 if positive else 128, np.uint8) if plan.unsigned else np.array(0, np.int8)
    name = f"{x.name}.quantized"
    parameters = [
        initializer(model, f"{name}.scale", scale),
        initializer(model, f"{name}.zero_point", zero),
    ]
    there = insert_before(model, node, "QuantizeLinear", [x, *parameters])
    there.outputs[0].dtype = ir.DataType.UINT8 if plan.unsigned else ir.DataType.INT8
    back = insert_before(model, node, "DequantizeLinear", [there.outputs[0], *parameters])
    for made in (there, back):
        made.outputs[0].shape = x.shape
    back.outputs[0].dtype = ir.DataType.FLOAT
    return there, back
