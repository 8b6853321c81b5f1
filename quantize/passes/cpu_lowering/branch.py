"""Nodes of a branch of an ``If``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from ..rewrite import MICROSOFT

_MICROSOFTS = frozenset(
    ("MatMulNBits", "GatherBlockQuantized", "GroupQueryAttention", "MatMulIntegerToFloat")
)


class Branch:
    """The nodes of a branch, whose values have other names than those of the graph around it.

    Args:
        name: what those names start with; other branches have other ones.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.nodes: list[ir.Node] = []

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value | None], count: int, **attributes: Any
    ) -> Sequence[ir.Value]:
        """The outputs of a new node."""
        domain = MICROSOFT if op_type in _MICROSOFTS else ""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=count)
        for number, value in enumerate(node.outputs):
            value.name = f"{self._name}/{len(self.nodes)}.{number}"
        self.nodes.append(node)
        return node.outputs

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """The only output of a new node."""
        (value,) = self.ops(op_type, inputs, 1, **attributes)
        return value
