"""int8 weights and inputs in fixed ranges: ``QuantizeLinear`` and ``DequantizeLinear``.

ONNX Runtime and TensorRT make an integer GEMM of the two. All three nodes compute in float32,
whatever the rest of the graph does: with float16 scales TensorRT-RTX 1.7.1 writes the integer
sums as float16, where they overflow (docs/design.md, section 7).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..calibration import ActivationStatistics
from ..calibration.capture import Key
from ..errors import QuantizationError
from ..numerics.rounding import quantize_channels
from ..recipe.layers import Layer
from ..recipe.weight_formats import QDQ
from .rewrite import LayerPass, NodeBuilder, keep_float32


class QDQPass(LayerPass):
    """Quantizes a layer's weight and what its nodes read.

    Args:
        inputs: statistics of what linear layers read.

    Raises:
        QuantizationError: there are none of this layer's.
    """

    def __init__(
        self, layer: Layer, weight_format: QDQ, inputs: Mapping[Key, ActivationStatistics]
    ) -> None:
        super().__init__(layer)
        self._format = weight_format
        self._inputs = inputs
        self._weight, self._scales = quantize_channels(
            layer.matrix(), 7 if weight_format.unsigned else 8
        )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        uses = self.uses(model)
        for use in uses:
            node = use.node
            builder = NodeBuilder(model, node)
            x = node.inputs[0]
            if x is None:
                raise AssertionError("a MatMul has two inputs")
            stored = [
                builder.initializer(f"{self.layer.name}.int8", self._weight),
                builder.initializer(f"{self.layer.name}.scales", self._scales),
            ]
            floats = builder.op("DequantizeLinear", stored, {"axis": 1}, dtype=ir.DataType.FLOAT)
            self.layer.replace_in(node, floats)
            pair = self._quantized_input(builder, use.graph, x)
            node.replace_input_with(0, pair[1])
            for computed in (*pair, floats, *node.outputs):
                keep_float32(computed)
        return ir.passes.PassResult(model, modified=bool(uses))

    def _quantized_input(
        self, builder: NodeBuilder, graph: str, x: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """``x`` as integers, and back in float32; one pair for all layers that read it."""
        for usage in x.uses():
            if usage.node.op_type == "QuantizeLinear":
                (reader,) = usage.node.outputs[0].uses()
                return usage.node.outputs[0], reader.node.outputs[0]
        activation, unsigned = self._inputs.get((graph, str(x.name))), self._format.unsigned
        if activation is None:
            raise QuantizationError(f"the calibration says nothing about {self.layer.name}'s input")
        threshold = activation.threshold(self._format.method) or 1.0
        positive = unsigned and activation.minimum >= 0
        scale = np.array(threshold / (255 if positive else 127), np.float32)
        zero = np.array(0 if positive else 128, np.uint8) if unsigned else np.array(0, np.int8)
        name = f"{x.name}.quantized"
        parameters = [
            builder.initializer(f"{name}.scale", scale),
            builder.initializer(f"{name}.zero_point", zero),
        ]
        integer = ir.DataType.UINT8 if unsigned else ir.DataType.INT8
        quantized = builder.op("QuantizeLinear", [x, *parameters], dtype=integer)
        restored = builder.op("DequantizeLinear", [quantized, *parameters], dtype=ir.DataType.FLOAT)
        quantized.shape = restored.shape = x.shape
        return quantized, restored
