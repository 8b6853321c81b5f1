"""float16 weights that are cast to float32 where they are read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..errors import QuantizationError
from ..recipe.layers import Layer
from .rewrite import initializer, insert_before

_LARGEST = float(np.finfo(np.float16).max)


def lower_storage(models: Mapping[str, ir.Model], layer: Layer) -> None:
    """Store the layer's weight in half the bytes.

    Raises:
        QuantizationError: a weight too large for float16.
    """
    weight = layer.weight.numpy()
    largest = float(np.abs(weight).max())
    if largest > _LARGEST:
        raise QuantizationError(
            f"{layer.name} holds {largest:.4g}, more than float16 can ({_LARGEST:.4g});"
            f" leave it as it is with --exclude {layer.name}"
        )
    half = weight.astype(np.float16)
    for use in layer.uses:
        model, node = models[use.graph], use.node
        stored = initializer(model, f"{layer.name}.half", half)
        cast = insert_before(model, node, "Cast", [stored], {"to": ir.DataType.FLOAT.value})
        layer.replace_in(node, cast.outputs[0])
