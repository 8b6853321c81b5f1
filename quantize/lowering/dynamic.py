"""int8 weights and inputs: ``DynamicQuantizeLinear`` and ``MatMulInteger``.

All standard operators; ONNX Runtime fuses them into one when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..layers import Layer
from ..numerics import quantize_channels
from .rewrite import initializer, insert_before, replace_node


def lower_dynamic(models: Mapping[str, ir.Model], layer: Layer) -> None:
    """Replace the layer's ``MatMul`` nodes."""
    weight, scales = quantize_channels(layer.matrix(), 7)
    for use in layer.uses:
        model, node = models[use.graph], use.node
        x = node.inputs[0]
        if x is None:
            raise AssertionError("a MatMul has two inputs")
        quantized, scale, zero = _quantized_input(model, node, x)
        product = insert_before(
            model,
            node,
            "MatMulInteger",
            [
                quantized,
                initializer(model, f"{layer.name}.int8", weight),
                zero,
                initializer(model, "int8_zero_point", np.zeros((), np.int8)),
            ],
        ).outputs[0]
        floats = insert_before(
            model, node, "Cast", [product], {"to": ir.DataType.FLOAT.value}
        ).outputs[0]
        channel_scales = initializer(model, f"{layer.name}.scales", scales)
        both = insert_before(model, node, "Mul", [scale, channel_scales]).outputs[0]
        replace_node(model, node, "Mul", [floats, both])


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
