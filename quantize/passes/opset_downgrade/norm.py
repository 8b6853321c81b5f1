"""``RMSNormalization`` to what it computes: ``x / sqrt(mean(x^2) + epsilon) * weight``.

Everything but the last product is in the type that ``stash_type`` names, float32 as a rule:
squares of float16 overflow from 256 on. The nodes are those that ONNX Runtime fuses to one
kernel of its own when it loads the graph (``SimplifiedLayerNormalization``).
"""

from __future__ import annotations

import onnx_ir as ir

from .nodes import dtype_of, in_place_of, nodes_of, operands

#: The values and the weight.
_INPUTS = 2
_ATTRIBUTES = {"axis": -1, "epsilon": None, "stash_type": None}
#: The standard's defaults.
_EPSILON, _STASH = 1e-5, ir.DataType.FLOAT


def lower_norms(model: ir.Model) -> int:
    """Replace every ``RMSNormalization``; gives how many there were.

    Raises:
        QuantizationError: one with inputs or attributes that bundles do not have.
    """
    nodes = nodes_of(model, "RMSNormalization")
    for node in nodes:
        x, weight = operands(node, _INPUTS, _ATTRIBUTES)
        _lower(model, node, x, weight)
    return len(nodes)


def _lower(model: ir.Model, node: ir.Node, x: ir.Value, weight: ir.Value) -> None:
    there = in_place_of(model, node)
    given = node.attributes
    inner = ir.DataType(given["stash_type"].as_int()) if "stash_type" in given else _STASH
    epsilon = given["epsilon"].as_float() if "epsilon" in given else _EPSILON
    outer = dtype_of(weight)
    if dtype_of(x) != inner:
        x = there.add("exact", "Cast", [x], inner, {"to": inner.value})
    square = there.add("squares", "Pow", [x, there.constant("exponent", 2, inner)], inner)
    last = there.constant("axes", [-1], ir.DataType.INT64)
    mean = there.add("mean", "ReduceMean", [square, last], inner, {"keepdims": 1})
    shifted = there.add("shifted", "Add", [mean, there.constant("epsilon", epsilon, inner)], inner)
    root = there.add("root", "Sqrt", [shifted], inner)
    normal = there.add("normalized", "Div", [x, root], inner)
    if inner != outer:
        normal = there.add("rounded", "Cast", [normal], outer, {"to": outer.value})
    there.finish("weighted", "Mul", [normal, weight])
