"""float16 weights that are cast to float32 where they are read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..errors import QuantizationError
from ..recipe.layers import Layer
from .rewrite import LayerPass, NodeBuilder

_LARGEST = float(np.finfo(np.float16).max)


class Fp16WeightsPass(LayerPass):
    """Stores a layer's weight in half the bytes.

    Raises:
        QuantizationError: a weight too large for float16.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        weight = layer.weight.numpy()
        largest = float(np.abs(weight).max())
        if largest > _LARGEST:
            raise QuantizationError(
                f"{layer.name} holds {largest:.4g}, more than float16 can ({_LARGEST:.4g});"
                f" leave it as it is with --exclude {layer.name}"
            )
        self._half = weight.astype(np.float16)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = self.nodes(model)
        for node in nodes:
            builder = NodeBuilder(model, node)
            stored = builder.initializer(f"{self.layer.name}.half", self._half)
            floats = builder.op("Cast", [stored], {"to": ir.DataType.FLOAT.value})
            self.layer.replace_in(node, floats)
        return ir.passes.PassResult(model, modified=bool(nodes))
