"""Nodes of the canonical graphs, read with the certainty that they are of our own form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from ...errors import QuantizationError
from ..rewrite import NodeBuilder


def in_place_of(model: ir.Model, node: ir.Node) -> NodeBuilder:
    """Makes what takes the place of ``node``, under its name."""
    return NodeBuilder(model, node, str(node.name))


def nodes_of(model: ir.Model, op_type: str) -> list[ir.Node]:
    """The standard's nodes of that type, in the graph's order."""
    return [node for node in model.graph if node.op_type == op_type and not node.domain]


def operands(
    node: ir.Node, count: int, attributes: Mapping[str, Any], *, optional: int = 0
) -> list[ir.Value]:
    """The node's ``count`` inputs, once it is known to be of the form that bundles have.

    Args:
        attributes: those that may be there; a value of None allows any.
        optional: how many of the last inputs need not be there.

    Raises:
        QuantizationError: other inputs, outputs or attributes, for which there is no replacement.
    """
    unknown = [
        name
        for name, attribute in node.attributes.items()
        if name not in attributes or attributes[name] not in (None, attribute.value)
    ]
    values = [value for value in node.inputs if value is not None]
    used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    counted = count - optional <= len(values) <= count and len(values) == len(node.inputs)
    if unknown or not counted or len(used) > 1:
        what = f"attribute {unknown[0]}" if unknown else f"{len(values)} inputs"
        raise QuantizationError(
            f"{node.name}: {node.op_type} with {what} is not a form that bundles have; export"
            " the bundle again"
        )
    return values


def dtype_of(value: ir.Value) -> ir.DataType:
    """The value's element type.

    Raises:
        QuantizationError: the graph does not say.
    """
    if value.dtype is None:
        raise QuantizationError(f"the graph does not say of which type {value.name} is")
    return value.dtype
