"""``RMSNormalization`` to what it computes: ``x / sqrt(mean(x^2) + epsilon) * weight``.

Everything but the last product is in the type that ``stash_type`` names, float32 as a rule:
squares of float16 overflow from 256 on. The nodes are those that ONNX Runtime fuses to one
kernel of its own when it loads the graph (``SimplifiedLayerNormalization``).
"""

from __future__ import annotations

import onnx_ir as ir

from ..rewrite import NodeBuilder
from .nodes import dtype_of, in_place_of, nodes_of, operands

#: The values and the weight.
_INPUTS = 2
_ATTRIBUTES = {"axis": -1, "epsilon": None, "stash_type": None}
#: The standard's defaults.
_EPSILON, _STASH = 1e-5, ir.DataType.FLOAT


class RMSNormalizationPass(ir.passes.InPlacePass):
    """Replaces every ``RMSNormalization``.

    Raises:
        QuantizationError: one with inputs or attributes that bundles do not have.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = nodes_of(model, "RMSNormalization")
        for node in nodes:
            x, weight = operands(node, _INPUTS, _ATTRIBUTES)
            _replace(in_place_of(model, node), x, weight)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _replace(builder: NodeBuilder, x: ir.Value, weight: ir.Value) -> None:
    given = builder.node.attributes
    inner = ir.DataType(given["stash_type"].as_int()) if "stash_type" in given else _STASH
    epsilon = given["epsilon"].as_float() if "epsilon" in given else _EPSILON
    outer = dtype_of(weight)
    if dtype_of(x) != inner:
        x = builder.op("Cast", [x], {"to": inner.value}, role="exact", dtype=inner)
    exponent = builder.constant("exponent", 2, inner)
    square = builder.op("Pow", [x, exponent], role="squares", dtype=inner)
    last = builder.constant("axes", [-1], ir.DataType.INT64)
    keep = {"keepdims": 1}
    mean = builder.op("ReduceMean", [square, last], keep, role="mean", dtype=inner)
    small = builder.constant("epsilon", epsilon, inner)
    shifted = builder.op("Add", [mean, small], role="shifted", dtype=inner)
    root = builder.op("Sqrt", [shifted], role="root", dtype=inner)
    normal = builder.op("Div", [x, root], role="normalized", dtype=inner)
    if inner != outer:
        normal = builder.op("Cast", [normal], {"to": outer.value}, role="rounded", dtype=outer)
    builder.replace("Mul", [normal, weight], role="weighted")
