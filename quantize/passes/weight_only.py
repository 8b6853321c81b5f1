"""Weight-only blocks: ``MatMulNBits`` and, for embeddings, ``GatherBlockQuantized``."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..numerics.rounding import BlockTensors
from ..recipe.layers import Layer
from ..recipe.weight_formats import WeightOnly
from .rewrite import MICROSOFT, LayerPass, NodeBuilder

#: int8 arithmetic within the kernel. 8 bit without it was 36 times slower (docs/design.md).
_ACCURACY_LEVEL = 4


#: The packed weight under the shape in which rows are looked up.
_ROWS = ".packed_rows"


def aliases(names: Collection[str]) -> dict[str, str]:
    """Those of ``names`` that hold the same bytes as another of them."""
    pairs = {name: name.removesuffix(_ROWS) + ".packed" for name in names if name.endswith(_ROWS)}
    return {name: other for name, other in pairs.items() if other in names}


class WeightOnlyPass(LayerPass):
    """Replaces a layer's nodes by ONNX Runtime's own, which share the quantized weight."""

    def __init__(self, layer: Layer, weight_format: WeightOnly, tensors: BlockTensors) -> None:
        super().__init__(layer)
        self._format = weight_format
        self._tensors = tensors

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = self.nodes(model)
        for node in nodes:
            builder = NodeBuilder(model, node)
            if node.op_type == "Gather":
                self._replace_gather(builder)
            else:
                self._replace_product(builder)
        return ir.passes.PassResult(model, modified=bool(nodes))

    def _replace_product(self, builder: NodeBuilder) -> None:
        node, name, tensors = builder.node, self.layer.name, self._tensors
        in_features, out_features = self.layer.matrix_shape
        inputs = [
            node.inputs[0],
            builder.initializer(f"{name}.packed", tensors.packed),
            builder.initializer(f"{name}.scales", tensors.scales),
            None
            if tensors.zero_points is None
            else builder.initializer(f"{name}.zero_points", tensors.zero_points),
        ]
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            inputs += [None, node.inputs[2]]  # no group index; the bias
        attributes = {
            "K": in_features,
            "N": out_features,
            "bits": self._format.bits,
            "block_size": self._format.block_size,
            "accuracy_level": _ACCURACY_LEVEL,
        }
        builder.replace("MatMulNBits", inputs, attributes, domain=MICROSOFT)

    def _replace_gather(self, builder: NodeBuilder) -> None:
        name, tensors = self.layer.name, self._tensors
        # The same bytes under another shape: a row for each token.
        rows = tensors.packed.reshape(len(tensors.packed), -1)
        inputs = [
            builder.initializer(f"{name}{_ROWS}", rows),
            builder.node.inputs[1],
            builder.initializer(f"{name}.scales", tensors.scales),
        ]
        if tensors.zero_points is not None:
            inputs.append(builder.initializer(f"{name}.zero_points", tensors.zero_points))
        attributes = {
            "bits": self._format.bits,
            "block_size": self._format.block_size,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        builder.replace("GatherBlockQuantized", inputs, attributes, domain=MICROSOFT)
