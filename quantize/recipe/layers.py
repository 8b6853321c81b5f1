"""The layers of a bundle's graphs, by the names of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.runtime.bundle.manifest import WEIGHTS_NAME


class Kind(Enum):
    """What a weight is for. A tied embedding is the head's weight as well."""

    LINEAR = "linear"
    HEAD = "head"
    EMBEDDING = "embedding"
    TIED_EMBEDDING = "tied embedding"


@dataclass(frozen=True)
class Use:
    """One node that reads the weight; ``MatMul`` takes it [in, out], ``Gemm`` [out, in]."""

    graph: str
    model: ir.Model = field(repr=False)
    node: ir.Node

    @property
    def input_name(self) -> str:
        """Name of the value that the node reads beside the weight."""
        value = self.node.inputs[0]
        return str(value.name if value is not None else None)


@dataclass
class Layer:
    """A weight and all nodes that read it, in both graphs.

    ``name`` is the weight's without ``.weight``: ``decoder.layers.0.ffn.up``, ``embedding``.
    """

    name: str
    kind: Kind
    weight: ir.TensorProtocol
    uses: list[Use] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """``encoder``, ``decoder``, or ``shared`` for a weight of both graphs."""
        graphs = {use.graph for use in self.uses}
        return graphs.pop() if len(graphs) == 1 else "shared"

    @property
    def outputs_first(self) -> bool:
        """Whether the weight is [out, in], as embeddings are."""
        return self.kind in (Kind.EMBEDDING, Kind.TIED_EMBEDDING)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        first, second = (int(size) for size in self.weight.shape.numpy())
        return (second, first) if self.outputs_first else (first, second)

    def matrix(self) -> NDArray[np.float32]:
        """The weight as float32 [in, out]."""
        weight: NDArray[np.float32] = self.weight.numpy().astype(np.float32, copy=False)
        return weight.T if self.outputs_first else weight

    def replace_in(self, node: ir.Node, value: ir.Value) -> None:
        """Make ``node`` read ``value`` in place of the weight."""
        for index, old in enumerate(node.inputs):
            if old is not None and old.name == f"{self.name}.weight":
                node.replace_input_with(index, value)


def find_layers(graphs: Mapping[str, ir.Model]) -> list[Layer]:
    """Linear layers, the head and token embeddings, in the order of the graphs.

    Norms, biases and position tables are not among them: they are small, and what is lost
    there is lost for every token.
    """
    layers: dict[str, Layer] = {}
    for graph, model in graphs.items():
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor) or tensor.location != WEIGHTS_NAME:
                continue
            nodes = [usage.node for usage in value.uses()]
            if _is_linear(value, nodes) or _is_token_embedding(name, nodes):
                layer = layers.setdefault(
                    name, Layer(name.removesuffix(".weight"), Kind.LINEAR, tensor)
                )
                layer.uses += [Use(graph, model, node) for node in nodes]
    for layer in layers.values():
        layer.kind = _kind(layer)
    return list(layers.values())


def _is_linear(value: ir.Value, nodes: Iterable[ir.Node]) -> bool:
    return any(node.op_type in ("MatMul", "Gemm") and node.inputs[1] is value for node in nodes)


def _is_token_embedding(name: str, nodes: Iterable[ir.Node]) -> bool:
    gathers = any(node.op_type == "Gather" for node in nodes)
    return gathers and name.rpartition(".")[0].endswith("embedding")


def _kind(layer: Layer) -> Kind:
    operators = {use.node.op_type for use in layer.uses}
    if operators == {"Gather"}:
        return Kind.EMBEDDING
    if "Gather" in operators or "Gemm" in operators:
        return Kind.TIED_EMBEDDING
    return Kind.HEAD if layer.name == "lm_head" else Kind.LINEAR
