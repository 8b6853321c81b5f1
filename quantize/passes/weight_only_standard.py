"""4 bit weights with a standard operator: ``DequantizeLinear`` before the node.

TensorRT-RTX 1.7.1 keeps these weights in their bits and dequantizes them within the GEMM if
there is an even number of outputs and blocks are at least two of a row (docs/design.md,
section 7). It takes no zero points.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..numerics.rounding import BlockTensors, unpack
from ..recipe.layers import Layer
from ..recipe.weight_formats import WeightOnly
from .rewrite import LayerPass, NodeBuilder


class WeightOnlyStandardPass(LayerPass):
    """Stores a layer's weight as 4 bit values with a scale for each block of inputs."""

    def __init__(self, layer: Layer, weight_format: WeightOnly, tensors: BlockTensors) -> None:
        super().__init__(layer)
        inputs, outputs = layer.matrix_shape
        values = unpack(tensors.packed, weight_format.bits).reshape(outputs, -1)[:, :inputs]
        signed = (values.astype(np.int8) - 8).astype(ml_dtypes.int4)
        turned = not layer.outputs_first
        self._values = signed.T if turned else signed
        self._scales = tensors.scales.T if turned else tensors.scales
        self._name = f"{layer.name}.int{weight_format.bits}"
        self._attributes = {"axis": 0 if turned else 1, "block_size": weight_format.block_size}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = self.nodes(model)
        for node in nodes:
            builder = NodeBuilder(model, node)
            stored = [
                builder.initializer(self._name, self._values),
                builder.initializer(f"{self.layer.name}.scales", self._scales),
            ]
            floats = builder.op(
                "DequantizeLinear",
                stored,
                self._attributes,
                dtype=ir.DataType.FLOAT,
                shape=ir.Shape(self._values.shape),
            )
            self.layer.replace_in(node, floats)
        return ir.passes.PassResult(model, modified=bool(nodes))
