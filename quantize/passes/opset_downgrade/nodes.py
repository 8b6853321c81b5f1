"""What the lowerings have in common: nodes under the name of the one that they replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import QuantizationError
from ..rewrite import initializer, insert_before, replace_node


@dataclass(frozen=True)
class Insertion:
    """Puts nodes in front of ``node``; they and their values are named ``name``/role.

    What is known of ``node`` beside its meaning (metadata) goes to the new nodes as well.
    """

    model: ir.Model
    node: ir.Node
    name: str

    def add(
        self,
        role: str,
        op_type: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """The output of a new node."""
        made = insert_before(self.model, self.node, op_type, inputs, attributes)
        self._name(made, role)
        (value,) = made.outputs
        value.name, value.dtype = f"{self.name}/{role}", dtype
        return value

    def finish(
        self,
        role: str,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a last node in the place of ``node``, with its output."""
        self._name(replace_node(self.model, self.node, op_type, inputs, attributes), role)

    def constant(self, role: str, value: Any, dtype: ir.DataType) -> ir.Value:
        """A small initializer, shared by all that ask for the same role, value and type."""
        array = np.array(value, dtype.numpy())
        known = "_".join(str(item) for item in array.reshape(-1).tolist())
        return initializer(self.model, f"{role}.{known}.{dtype.name.lower()}", array)

    def _name(self, made: ir.Node, role: str) -> None:
        made.name = f"{self.name}/{role}"
        made.metadata_props.update(self.node.metadata_props)


def in_place_of(model: ir.Model, node: ir.Node) -> Insertion:
    """What takes the place of ``node`` and its name."""
    return Insertion(model, node, str(node.name))


def nodes_of(model: ir.Model, op_type: str) -> list[ir.Node]:
    """The standard's nodes of that type, in the graph's order."""
    return [node for node in model.graph if node.op_type == op_type and not node.domain]


def operands(node: ir.Node, count: int, attributes: Mapping[str, Any]) -> list[ir.Value]:
    """The node's ``count`` inputs, once it is known to be of the form that bundles have.

    Args:
        attributes: those that may be there; a value of None allows any.

    Raises:
        QuantizationError: other inputs, outputs or attributes, which nothing here lowers.
    """
    unknown = [
        name
        for name, attribute in node.attributes.items()
        if name not in attributes or attributes[name] not in (None, attribute.value)
    ]
    values = [value for value in node.inputs if value is not None]
    used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    if unknown or len(values) != count or len(node.inputs) != count or len(used) > 1:
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
