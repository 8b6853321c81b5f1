"""8 bit weights with a scale for each output: ``DequantizeLinear`` before the node.

TensorRT-RTX 1.7.1 keeps these weights in their bits and dequantizes them within the GEMM if
there is an even number of outputs (docs/design.md, section 7).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..numerics.rounding import quantize_channels
from ..recipe.layers import Layer
from .rewrite import LayerPass, NodeBuilder


class PerChannelPass(LayerPass):
    """Stores a layer's weight as int8; an odd number of outputs gets one of zeros more."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        values, scales = quantize_channels(layer.matrix())
        self._odd = len(scales) % 2
        values = np.pad(values, ((0, 0), (0, self._odd)))
        self._scales = np.pad(scales, (0, self._odd), constant_values=1)
        self._values = values.T if layer.outputs_first else values

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = self.nodes(model)
        for node in nodes:
            if self._odd and node.op_type != "Gather":
                _drop_last_output(NodeBuilder(model, node))
        for node in nodes:
            builder = NodeBuilder(model, node)
            stored = [
                builder.initializer(f"{self.layer.name}.int8", self._values),
                builder.initializer(f"{self.layer.name}.scales", self._scales),
            ]
            floats = builder.op(
                "DequantizeLinear",
                stored,
                {"axis": 0 if self.layer.outputs_first else 1},
                dtype=ir.DataType.FLOAT,
                shape=ir.Shape(self._values.shape),
            )
            self.layer.replace_in(node, floats)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _drop_last_output(builder: NodeBuilder) -> None:
    """Give those who read the node's output [.., N + 1] its first N columns.

    The node's bias gets a zero more.
    """
    node = builder.node
    whole = node.outputs[0]
    if len(node.inputs) > 2 and (bias := node.inputs[2]) is not None:
        if bias.const_value is None:
            raise AssertionError("a head's bias is a weight")
        padded = np.pad(bias.const_value.numpy(), (0, 1))
        node.replace_input_with(2, builder.initializer(f"{bias.name}.padded", padded))
    bounds = [
        builder.initializer(name, np.array([value], np.int64))
        for name, value in (("first_output", 0), ("last_output", -1), ("output_axis", -1))
    ]
    # After the node, not before it: its readers are moved first, then it reads the whole.
    cut = ir.node("Slice", [None, *bounds])
    columns = cut.outputs[0]
    columns.type, columns.shape, whole.shape = whole.type, whole.shape, None
    if whole.is_graph_output():  # the runtime asks for the name
        columns.name, whole.name = whole.name, f"{whole.name}.padded"
    whole.replace_all_uses_with(columns, replace_graph_outputs=True)
    cut.replace_input_with(0, whole)
    builder.model.graph.insert_after(node, cut)
