"""An encoder's attention over long sources, a block of queries of one head at a time.

``Attention`` holds the scores of all heads, [B, H, S, S], and passes over them several times: for
2,048 tokens they are 134 MB in each layer of T5-small, and its relative bias is as much again. Here
a ``Scan`` takes up to 256 queries of a head, whose scores stay in the processor's cache
(:mod:`.block_scan`), and a part of the relative bias (:mod:`.relative_strip`). Padding, which
stands behind a source's tokens, is not computed.

Short sources take the canonical node, in the other branch of an ``If``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import NotLowerableError
from ..rewrite import NodeBuilder
from .block_scan import Blocks, attention_in_blocks
from .branch import Branch
from .relative_strip import producer, relative_biases

_INT64 = ir.DataType.INT64

#: Queries of a block, at most. 128 to 512 of them took the same time over 512 to 2,048 keys.
_ROWS = 256
#: Source positions from which on blocks are faster, with float products and with int8 ones.
LONG, LONG_INTEGERS = 1024, 256
_MASK = "encoder_attention_mask"


class BlockAttentionPass(ir.passes.InPlacePass):
    """Gives each ``Attention`` of an encoder another form for long sources.

    Args:
        integers: the products of blocks are of int8 (:mod:`.block_scan`).

    Raises:
        NotLowerableError: attention or its relative bias is of another form.
    """

    def __init__(self, *, integers: bool) -> None:
        super().__init__()
        self._integers = integers
        self._least = LONG_INTEGERS if integers else LONG

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "Attention"]
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        heads, head_dim = _sizes(nodes)
        biases = relative_biases(nodes)
        mask = next((value for value in model.graph.inputs if value.name == _MASK), None)
        first = nodes[0]
        if biases:  # their nodes come before those that read them
            distances = {bias.distances for bias in biases.values()}
            first = next(node for node in model.graph if node in distances)
        builder = NodeBuilder(model, first)
        measured, axis = (mask, 3) if mask is not None else (nodes[0].inputs[0], 2)
        length = builder.op("Shape", [measured], {"start": axis, "end": axis + 1})
        batch = builder.op("Shape", [measured], {"start": 0, "end": 1})
        none = builder.constant("blocks", [0], _INT64)
        least = builder.constant("number", self._least, _INT64)
        is_long = builder.op("GreaterOrEqual", [builder.op("Squeeze", [length, none]), least])
        if biases:
            kept = builder.op("Where", [is_long, none, length])
            for bias in dict.fromkeys(biases.values()):
                bias.compute_for(model, kept)
        builder = NodeBuilder(model, nodes[0])
        cut = _Cut(builder, length, batch, mask, heads)
        blocks = Blocks(heads, head_dim, length, batch, *cut.compute_if(is_long, head_dim))
        strips = {
            bias: bias.strip(builder, is_long, blocks) for bias in dict.fromkeys(biases.values())
        }
        for node in nodes:
            strip = strips[biases[node]] if node in biases else None
            name = str(node.outputs[0].name)
            canonical = Branch(f"{name}.whole")
            whole = canonical.op("Attention", list(node.inputs), scale=1.0)
            builder = NodeBuilder(model, node)
            branches = {
                "then_branch": attention_in_blocks(
                    builder, node, blocks, strip, integers=self._integers
                ),
                "else_branch": ir.Graph([], [whole], nodes=canonical.nodes, name=f"{name}.whole"),
            }
            builder.replace("If", [is_long], branches)
        return ir.passes.PassResult(model, modified=True)


class _Cut:
    """How the blocks of all layers are cut: the graph of an ``If``, which is of integers."""

    def __init__(
        self,
        builder: NodeBuilder,
        length: ir.Value,
        batch: ir.Value,
        mask: ir.Value | None,
        heads: int,
    ) -> None:
        self._builder, self._graph = builder, Branch("blocks")
        self._length, self._batch, self._mask, self._heads = length, batch, mask, heads

    def compute_if(self, is_long: ir.Value, head_dim: int) -> list[ir.Value]:
        """The values of :class:`.Blocks` from ``rows`` on; of short sources nothing."""
        values = self._values(head_dim)
        short = Branch("no_blocks")
        shapes = [(1,), (1,), (0,), *[(0, 3)] * (len(values) - 3)]
        empty = [
            short.op("Constant", [], value=ir.tensor(np.zeros(shape, np.int64))) for shape in shapes
        ]
        branches = {
            "then_branch": ir.Graph([], values, nodes=self._graph.nodes, name="blocks"),
            "else_branch": ir.Graph([], empty, nodes=short.nodes, name="no_blocks"),
        }
        return list(self._builder.outputs("If", [is_long], branches, count=len(values)))

    def _values(self, head_dim: int) -> list[ir.Value]:
        op, numbers, length = self._op, self._numbers, self._length
        count = op("Div", op("Add", length, numbers(_ROWS - 1)), numbers(_ROWS))
        rows = op("Div", op("Sub", op("Add", length, count), numbers(1)), count)
        padded = op("Mul", rows, count)
        all_blocks = op("Mul", op("Mul", self._batch, numbers(self._heads)), count)
        begin, step = (self._builder.constant("number", value, _INT64) for value in (0, 1))
        number = op("Range", begin, op("Squeeze", all_blocks, numbers(0)), step)
        head = op("Div", number, count)
        source = op("Div", head, numbers(self._heads))
        seen = self._seen(source)
        none = op("Sub", head, head)
        after, size = op("Add", head, numbers(1)), op("Add", none, numbers(head_dim))
        own_head = op("Sub", head, op("Mul", source, numbers(self._heads)))
        block = op("Sub", number, op("Mul", head, count))
        start = op("Sub", padded, op("Mul", block, rows))
        return [
            rows,
            padded,
            head,
            self._columns(head, none, none),
            self._columns(after, size, seen),
            self._columns(after, seen, op("Add", size, numbers(1))),
            self._columns(own_head, none, start),
            self._columns(
                op("Add", own_head, numbers(1)), op("Add", none, rows), op("Add", start, seen)
            ),
        ]

    def _seen(self, source: ir.Value) -> ir.Value:
        """Keys of each block: the tokens of its source."""
        if self._mask is None:
            return self._op("Expand", self._length, self._op("Shape", source))
        ones = self._graph.op("Cast", [self._mask], to=_INT64)
        tokens = self._graph.op("ReduceSum", [ones, self._numbers(1, 2, 3)], keepdims=0)
        return self._op("Gather", tokens, source)

    def _columns(self, *values: ir.Value) -> ir.Value:
        columns = [self._op("Unsqueeze", value, self._numbers(1)) for value in values]
        return self._graph.op("Concat", columns, axis=1)

    def _op(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        return self._graph.op(op_type, inputs)

    def _numbers(self, *values: int) -> ir.Value:
        return self._builder.constant("blocks", list(values), _INT64)


def _sizes(nodes: list[ir.Node]) -> tuple[int, int]:
    """Heads and their size.

    Raises:
        NotLowerableError: what is around attention does not say it, or it has attributes.
    """
    for node in nodes:
        scale = node.attributes.get("scale")
        if scale is None or scale.as_float() != 1.0 or set(node.attributes) != {"scale"}:
            raise NotLowerableError("attention has other attributes than bundles of this version")
    value: ir.Value | None = nodes[0].inputs[2]
    for op_type in ("Split", "Transpose", "Reshape"):
        value = (split := producer(value, op_type)).inputs[0]
    merged = nodes[0]
    for _ in range(2):  # turned, and merged
        merged = next(iter(merged.outputs[0].uses())).node
    sizes = []
    for node in (split, merged):
        shape = node.inputs[1] if node.op_type == "Reshape" else None
        if shape is None or shape.const_value is None:
            raise NotLowerableError("the number of heads is not known")
        sizes.append(int(shape.const_value.numpy()[-1]))
    return sizes[1] // sizes[0], sizes[0]
