"""What all passes have in common: nodes and initializers are made in one way.

Every change of a graph is an ``onnx_ir`` pass, a class with ``call(model) -> PassResult``, one per
file; :func:`apply_passes` runs them in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.runtime.errors import Seq2EdgeError

from ..recipe.layers import Layer, Use

#: ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"
#: Key in ``node.meta``, which is not saved.
_FLOAT32 = "seq2edge.float32"


def keep_float32(value: ir.Value) -> None:
    """Let the node that computes ``value`` stay in float32, whatever the rest computes in."""
    node = value.producer()
    if node is not None:
        node.meta[_FLOAT32] = True


def stays_float32(node: ir.Node) -> bool:
    return bool(node.meta.get(_FLOAT32))


def apply_passes(model: ir.Model, passes: Sequence[ir.passes.InPlacePass]) -> bool:
    """Run ``passes`` on ``model``, one after the other; whether any of them changed it.

    Raises:
        Seq2EdgeError: what a pass raised.
    """
    if not passes:
        return False
    try:
        return ir.passes.Sequential(*passes)(model).modified
    except ir.passes.PassError as error:
        if isinstance(error.__cause__, Seq2EdgeError):
            raise error.__cause__ from None
        raise


class LayerPass(ir.passes.InPlacePass):
    """A change of the nodes that read one layer's weight."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def uses(self, model: ir.Model) -> list[Use]:
        """Those in ``model``; a tied embedding has some in both graphs."""
        return [use for use in self.layer.uses if use.model is model]

    def nodes(self, model: ir.Model) -> list[ir.Node]:
        """The nodes of ``model`` that read the weight."""
        return [use.node for use in self.uses(model)]


@dataclass(frozen=True)
class NodeBuilder:
    """Makes nodes in front of ``node``, and initializers.

    Attributes:
        prefix: new nodes and their outputs are named ``prefix/role`` and have the metadata of
            ``node``; None: names are onnx_ir's own.
    """

    model: ir.Model
    node: ir.Node
    prefix: str | None = None

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        role: str = "",
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """The output of a new node of the standard."""
        (value,) = self.outputs(op_type, inputs, attributes, role=role)
        if dtype is not None:
            value.dtype = dtype
        if shape is not None:
            value.shape = shape
        return value

    def outputs(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        count: int = 1,
        role: str = "",
    ) -> Sequence[ir.Value]:
        """The outputs of a new node."""
        made = ir.node(op_type, inputs, attributes or {}, domain=domain, num_outputs=count)
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        self._graph.insert_before(self.node, made)
        if self.prefix is not None:
            made.name = f"{self.prefix}/{role}"
            made.metadata_props.update(self.node.metadata_props)
            made.outputs[0].name = made.name
        return made.outputs

    def replace(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        role: str = "",
    ) -> None:
        """Put a new node with one output in the place of ``node``, whose output it takes over."""
        (value,) = self.outputs(op_type, inputs, attributes, domain=domain, role=role)
        output = self.node.outputs[0]
        value.name, output.name = output.name, None
        value.type, value.shape = output.type, output.shape
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        self._graph.remove(self.node, safe=True)

    @property
    def _graph(self) -> ir.Graph:
        """The graph that holds the node: the model's, or a branch within it."""
        graph = self.node.graph
        return graph if isinstance(graph, ir.Graph) else self.model.graph

    def initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        """The initializer of that name, made of ``array`` if it is not there yet."""
        graph = self.model.graph
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

    def constant(self, role: str, value: Any, dtype: ir.DataType) -> ir.Value:
        """A small initializer, shared by all that ask for the same role, value and type."""
        array = np.array(value, dtype.numpy())
        spelled = "_".join(str(item) for item in array.reshape(-1).tolist())
        return self.initializer(f"{role}.{spelled}.{dtype.name.lower()}", array)
