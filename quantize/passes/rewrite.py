"""What the transformations have in common: new initializers, and one node for another."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

#: ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


def initializer(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """The initializer of that name, made of ``array`` if it is not there yet."""
    graph = model.graph
    if name not in graph.initializers:
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def replace_node(
    model: ir.Model,
    old: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
) -> ir.Node:
    """Put another operator with one output in the place of ``old``."""
    new = insert_before(model, old, op_type, inputs, attributes, domain=domain)
    output = old.outputs[0]
    new.outputs[0].name, output.name = output.name, None
    new.outputs[0].type, new.outputs[0].shape = output.type, output.shape
    output.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    _graph_of(model, old).remove(old, safe=True)
    return new


def insert_before(
    model: ir.Model,
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    outputs: int = 1,
) -> ir.Node:
    """A new node in front of ``node``."""
    new = ir.node(op_type, inputs, attributes or {}, domain=domain, num_outputs=outputs)
    if domain:
        model.opset_imports.setdefault(domain, 1)
    _graph_of(model, node).insert_before(node, new)
    return new


def _graph_of(model: ir.Model, node: ir.Node) -> ir.Graph:
    """The graph that holds ``node``: the model's, or a branch within it."""
    return node.graph if isinstance(node.graph, ir.Graph) else model.graph


def remove_unused_initializers(model: ir.Model) -> None:
    """Drop weights that no node reads any more."""
    for graph in (model.graph, *model.graph.subgraphs()):
        _remove_unused(graph.initializers)


def _remove_unused(initializers: MutableMapping[str, ir.Value]) -> None:
    for name in [name for name, value in initializers.items() if not value.uses()]:
        del initializers[name]
