"""Weight-only blocks: ``MatMulNBits`` and, for embeddings, ``GatherBlockQuantized``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from ..numerics.rounding import BlockTensors
from ..recipe.layers import Layer, Use
from ..recipe.weight_formats import BlockWeights
from .rewrite import MICROSOFT, initializer, replace_node

#: int8 arithmetic within the kernel. 8 bit without it was 36 times slower (docs/design.md).
_ACCURACY_LEVEL = 4


#: The packed weight under the shape in which rows are looked up.
_ROWS = ".packed_rows"


def aliases(names: Collection[str]) -> dict[str, str]:
    """Those of ``names`` that hold the same bytes as another of them."""
    pairs = {name: name.removesuffix(_ROWS) + ".packed" for name in names if name.endswith(_ROWS)}
    return {name: other for name, other in pairs.items() if other in names}


def lower_blocks(
    models: Mapping[str, ir.Model], layer: Layer, plan: BlockWeights, tensors: BlockTensors
) -> None:
    """Replace the layer's nodes in all graphs; they share the quantized weight."""
    for use in layer.uses:
        model = models[use.graph]
        if use.node.op_type == "Gather":
            _lower_gather(model, layer, use, tensors, plan)
        else:
            _lower_matmul(model, layer, use, tensors, plan)


def _lower_matmul(
    model: ir.Model,
    layer: Layer,
    use: Use,
    tensors: BlockTensors,
    plan: BlockWeights,
) -> None:
    node = use.node
    in_features, out_features = layer.matrix_shape
    inputs = [
        node.inputs[0],
        initializer(model, f"{layer.name}.packed", tensors.packed),
        initializer(model, f"{layer.name}.scales", tensors.scales),
        None
        if tensors.zero_points is None
        else initializer(model, f"{layer.name}.zero_points", tensors.zero_points),
    ]
    if node.op_type == "Gemm" and len(node.inputs) > 2:
        inputs += [None, node.inputs[2]]  # no group index; the bias
    attributes = {
        "K": in_features,
        "N": out_features,
        "bits": plan.bits,
        "block_size": plan.block_size,
        "accuracy_level": _ACCURACY_LEVEL,
    }
    replace_node(model, node, "MatMulNBits", inputs, attributes, domain=MICROSOFT)


def _lower_gather(
    model: ir.Model, layer: Layer, use: Use, tensors: BlockTensors, plan: BlockWeights
) -> None:
    node = use.node
    # The same bytes under another shape: a row for each token.
    rows = tensors.packed.reshape(len(tensors.packed), -1)
    inputs = [
        initializer(model, f"{layer.name}{_ROWS}", rows),
        node.inputs[1],
        initializer(model, f"{layer.name}.scales", tensors.scales),
    ]
    if tensors.zero_points is not None:
        inputs.append(initializer(model, f"{layer.name}.zero_points", tensors.zero_points))
    attributes = {
        "bits": plan.bits,
        "block_size": plan.block_size,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    replace_node(model, node, "GatherBlockQuantized", inputs, attributes, domain=MICROSOFT)
