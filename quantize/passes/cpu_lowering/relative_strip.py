"""An encoder's relative bias as a strip, of which each block of queries reads another part.

It depends on the distance of a key from its query only: [H, S, S] holds 2S - 1 different numbers a
head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...errors import NotLowerableError
from ..rewrite import NodeBuilder
from .block_scan import Blocks
from .branch import Branch

_INT64 = ir.DataType.INT64
#: From the rows of the table that are looked up back to the distances.
_TO_DISTANCES = ("Add", "Max", "Min", "Sub")


class RelativeBias:
    """The nodes that make one: ``Where(mask, Transpose(Gather(table, rows)), -3e4)``.

    Attributes:
        distances: the first of them.

    Raises:
        NotLowerableError: they are others.
    """

    def __init__(self, where: ir.Node) -> None:
        self._where = where
        gather = producer(producer(where.inputs[1], "Transpose").inputs[0], "Gather")
        table, node, place = gather.inputs[0], gather, 1
        if table is None or table.const_value is None:
            raise NotLowerableError("the relative bias is not looked up")
        for op_type in _TO_DISTANCES:
            node, place = producer(node.inputs[place], op_type), 0
        self.distances = node
        self._table = table
        rows, self._heads = (int(size) for size in table.const_value.shape.numpy())
        self._largest = (rows - 1) // 2

    def compute_for(self, model: ir.Model, kept: ir.Value) -> None:
        """Let the whole bias be computed for the first ``kept`` [1] positions only."""
        for node, place, axis in (
            (self.distances, 0, 1),
            (self.distances, 1, 2),
            (self._where, 0, 3),
        ):
            builder = NodeBuilder(model, node)
            ends = [builder.constant("blocks", [0], _INT64), kept]
            axes = builder.constant("blocks", [axis], _INT64)
            part = builder.op("Slice", [node.inputs[place], *ends, axes])
            node.replace_input_with(place, part)

    def strip(self, builder: NodeBuilder, is_long: ir.Value, blocks: Blocks) -> ir.Value:
        """[H, R, 2P] where P are the padded positions; of a short source nothing.

        Element m of row r is the bias of a key that is m - P - r after its query. A row of 2P + 1
        elements is laid end to end R times, and that is cut into rows of 2P: each begins one
        element before the end of the row above.
        """
        graph, none = Branch(f"{self._name}.strip"), Branch(f"{self._name}.no_strip")

        def op(op_type: str, *inputs: ir.Value) -> ir.Value:
            return graph.op(op_type, inputs)

        def numbers(*values: int) -> ir.Value:
            return builder.constant("blocks", list(values), _INT64)

        def joined(*sizes: ir.Value) -> ir.Value:
            return graph.op("Concat", sizes, axis=0)

        begin, step = (builder.constant("number", value, _INT64) for value in (0, 1))
        width = op("Mul", blocks.padded, numbers(2))
        longer = op("Add", width, numbers(1))
        after = op("Range", begin, op("Squeeze", longer, numbers(0)), step)
        # Rows of the table are by how far a key is before its query.
        before = op("Min", op("Sub", blocks.padded, after), numbers(self._largest))
        row = op("Add", op("Max", before, numbers(-self._largest)), numbers(self._largest))
        by_head = graph.op("Transpose", [op("Gather", self._table, row)], perm=[1, 0])
        heads = numbers(self._heads)
        repeated = op(
            "Expand", op("Unsqueeze", by_head, numbers(1)), joined(heads, blocks.rows, longer)
        )
        flat = op("Reshape", repeated, numbers(self._heads, -1))
        cut = op("Slice", flat, numbers(0), op("Mul", width, blocks.rows), numbers(1))
        strip = op("Reshape", cut, joined(heads, blocks.rows, width))
        nothing = none.op("Constant", [], value=ir.tensor(np.zeros((0,), np.float32)))
        branches = {
            "then_branch": ir.Graph([], [strip], nodes=graph.nodes, name=f"{self._name}.strip"),
            "else_branch": ir.Graph([], [nothing], nodes=none.nodes, name="no_strip"),
        }
        return builder.op("If", [is_long], branches)

    @property
    def _name(self) -> str:
        return str(self._where.outputs[0].name)


def relative_biases(nodes: Sequence[ir.Node]) -> dict[ir.Node, RelativeBias]:
    """The relative bias of each ``Attention`` that has one; layers may share it.

    Raises:
        NotLowerableError: what is added to scores has another form.
    """
    made: dict[ir.Node, RelativeBias] = {}
    found = {}
    for node in nodes:
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        maker = None if mask is None else mask.producer()
        if maker is None or maker.op_type == "Expand":  # a mask only, or none
            continue
        if maker.op_type != "Where":
            raise NotLowerableError(f"the mask of attention is made by {maker.op_type}")
        found[node] = made[maker] = made.get(maker) or RelativeBias(maker)
    return found


def producer(value: ir.Value | None, op_type: str) -> ir.Node:
    """The node that makes ``value``.

    Raises:
        NotLowerableError: it is another one.
    """
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type:
        found = "nothing" if node is None else node.op_type
        raise NotLowerableError(f"{found} stands where {op_type} was expected")
    return node
