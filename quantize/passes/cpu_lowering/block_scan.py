"""Attention of one layer in blocks: a ``Scan`` over all blocks of all heads of all sources.

With ``integers`` both products are of int8. Keys lose their mean over the positions, which adds the
same to all scores of a query and so changes no weight, and have a scale for each head, queries one
for each block. Weights are the exponentials of what scores are below their row's largest one, so
that the largest weight is 1 and takes all 255 steps; a column of ones beside the values sums up the
weights as they were rounded. (Weights after a softmax are below half a step each where 2,048 keys
weigh the same.)
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..rewrite import NodeBuilder
from .branch import Branch

_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_INT8, _UINT8 = ir.DataType.INT8, ir.DataType.UINT8

#: Magnitudes of keys and values: without VNNI, x86 adds pairs of products in 16 bits.
_LARGEST = 64
_WEIGHT_STEPS = 255
_SMALLEST_SCALE = 1e-9


@dataclass(frozen=True)
class Blocks:
    """How sources are cut into n blocks.

    Attributes:
        heads, head_dim: H and Dh.
        length, batch: S and B, [1] each.
        rows: R, queries of a block, [1].
        padded: P, queries of all blocks of a head, [1].
        head: of each block, counted over all sources, [n].
        key_start, key_end: of its keys within [B*H, Dh, S], [n, 3].
        value_end: of its values and a column more within [B*H, S, Dh + 1], [n, 3].
        bias_start, bias_end: within the strip [H, R, 2P], [n, 3].
    """

    heads: int
    head_dim: int
    length: ir.Value
    batch: ir.Value
    rows: ir.Value
    padded: ir.Value
    head: ir.Value
    key_start: ir.Value
    key_end: ir.Value
    value_end: ir.Value
    bias_start: ir.Value
    bias_end: ir.Value


def attention_in_blocks(
    builder: NodeBuilder,
    node: ir.Node,
    blocks: Blocks,
    strip: ir.Value | None,
    *,
    integers: bool,
) -> ir.Graph:
    """The branch that computes what ``node`` gives, [B, H, S, Dh]."""
    layer = _Layer(builder, str(node.outputs[0].name), blocks, strip)
    graph, (query, key, value) = layer.graph, node.inputs[:3]
    size = layer.integers(blocks.head_dim)
    extra = graph.op("Sub", [blocks.padded, blocks.length])
    pads = graph.op("Concat", [layer.integers(*[0] * 6), extra, layer.integers(0)], axis=0)
    shape = graph.op("Concat", [layer.integers(-1), blocks.rows, size], axis=0)
    queries = graph.op("Reshape", [graph.op("Pad", [query, pads]), shape])
    by_head = graph.op("Concat", [layer.integers(-1), blocks.length, size], axis=0)
    keys, values = (graph.op("Reshape", [part, by_head]) for part in (key, value))
    attended = (layer.of_integers if integers else layer.of_floats)(queries, keys, values)
    whole = graph.op(
        "Concat", [blocks.batch, layer.integers(blocks.heads), blocks.padded, size], axis=0
    )
    padded = graph.op("Reshape", [attended, whole])
    ends = [layer.integers(0), blocks.length, layer.integers(2)]
    output = graph.op("Slice", [padded, *ends])
    return ir.Graph([], [output], nodes=graph.nodes, name=layer.name)


class _Layer:
    """One layer's nodes: those around the ``Scan``, and those of its body."""

    def __init__(
        self, builder: NodeBuilder, name: str, blocks: Blocks, strip: ir.Value | None
    ) -> None:
        self.name = f"{name}.blocks"
        self.graph, self._body = Branch(self.name), Branch(f"{name}.block")
        self._builder, self._blocks, self._strip = builder, blocks, strip
        self._inputs: list[ir.Value] = []
        self._scanned: list[ir.Value] = []

    def integers(self, *values: int) -> ir.Value:
        return self._builder.constant("blocks", list(values), _INT64)

    def _number(self, value: float, dtype: ir.DataType = _FLOAT) -> ir.Value:
        return self._builder.constant("number", value, dtype)

    def _scan(self, whole: ir.Value, dtype: ir.DataType) -> ir.Value:
        """What the body sees of ``whole``: an element along its first axis."""
        name = f"{self.name}.in{len(self._inputs)}"
        seen = ir.Value(name=name, type=ir.TensorType(dtype))
        self._inputs.append(seen)
        self._scanned.append(whole)
        return seen

    def _close(self, output: ir.Value) -> ir.Value:
        output.type = ir.TensorType(_FLOAT)
        output.shape = ir.Shape([1, f"{self.name}.rows", self._blocks.head_dim])
        body = ir.Graph(self._inputs, [output], nodes=self._body.nodes, name=f"{self.name}.body")
        return self.graph.op("Scan", self._scanned, body=body, num_scan_inputs=len(self._scanned))

    def _part(self, whole: ir.Value, start: ir.Value, end: ir.Value) -> ir.Value:
        return self._body.op("Slice", [whole, start, end])

    def _with_bias(self, scores: ir.Value) -> ir.Value:
        if self._strip is None:
            return scores
        start, end = (
            self._scan(whole, _INT64) for whole in (self._blocks.bias_start, self._blocks.bias_end)
        )
        return self._body.op("Add", [scores, self._part(self._strip, start, end)])

    def of_floats(self, queries: ir.Value, keys: ir.Value, values: ir.Value) -> ir.Value:
        """Of [n, R, Dh] and [B*H, S, Dh] twice: [n, 1, R, Dh]."""
        body, turned = self._body, self.graph.op("Transpose", [keys], perm=[0, 2, 1])
        query = self._scan(queries, _FLOAT)
        start, key_end, value_end = (
            self._scan(whole, _INT64)
            for whole in (self._blocks.key_start, self._blocks.key_end, self._blocks.value_end)
        )
        scores = body.op("MatMul", [query, self._part(turned, start, key_end)])
        weights = body.op("Softmax", [self._with_bias(scores)], axis=-1)
        own = self._part(values, start, value_end)  # an end behind the last column is the last
        return self._close(body.op("MatMul", [weights, own]))

    def of_integers(self, queries: ir.Value, keys: ir.Value, values: ir.Value) -> ir.Value:
        """The same by products of int8."""
        body, graph, blocks = self._body, self.graph, self._blocks
        key, key_scale = self._keys(keys)
        value, value_scales = self._values(values)
        query = self._scan(queries, _FLOAT)
        start, key_end, value_end = (
            self._scan(whole, _INT64)
            for whole in (blocks.key_start, blocks.key_end, blocks.value_end)
        )
        scale, scales = (
            self._scan(graph.op("Gather", [whole, blocks.head], axis=0), _FLOAT)
            for whole in (key_scale, value_scales)
        )
        rounded, step, zero = body.ops("DynamicQuantizeLinear", [query], 3)
        scores = self._with_bias(
            body.op(
                "MatMulIntegerToFloat",
                [rounded, self._part(key, start, key_end), step, scale, zero],
            )
        )
        largest = body.op("ReduceMax", [scores, self.integers(-1)], keepdims=1)
        shares = body.op("Exp", [body.op("Sub", [scores, largest])])
        none = self._number(0, _UINT8)
        weights = body.op("QuantizeLinear", [shares, self._number(1 / _WEIGHT_STEPS), none])
        product = body.op(
            "MatMulIntegerToFloat",
            [weights, self._part(value, start, value_end), self._number(1), scales, none],
        )
        sums, total = body.ops("Split", [product, self.integers(blocks.head_dim, 1)], 2, axis=-1)
        return self._close(body.op("Div", [sums, total]))

    def _keys(self, keys: ir.Value) -> tuple[ir.Value, ir.Value]:
        """[B*H, Dh, S] int8, and a scale for each head [B*H]."""
        graph = self.graph
        mean = graph.op("ReduceMean", [keys, self.integers(1)], keepdims=1)
        centered = graph.op("Sub", [keys, mean])
        rounded, scale = self._rounded(centered, 1, 2)
        scales = graph.op("Reshape", [scale, self.integers(-1)])
        return graph.op("Transpose", [rounded], perm=[0, 2, 1]), scales

    def _values(self, values: ir.Value) -> tuple[ir.Value, ir.Value]:
        """[B*H, S, Dh + 1] int8, and a scale for each column [B*H, Dh + 1]."""
        graph = self.graph
        rounded, scale = self._rounded(values, 1)
        ends = [self.integers(*([0] * 5), 1), self._number(1, _INT8)]
        with_ones = graph.op("Pad", [rounded, *ends])
        rows = graph.op("Reshape", [scale, self.integers(-1, self._blocks.head_dim)])
        return with_ones, graph.op("Pad", [rows, self.integers(0, 0, 0, 1), self._number(1)])

    def _rounded(self, floats: ir.Value, *axes: int) -> tuple[ir.Value, ir.Value]:
        graph = self.graph
        magnitudes = graph.op("Abs", [floats])
        largest = graph.op("ReduceMax", [magnitudes, self.integers(*axes)], keepdims=1)
        scale = graph.op("Mul", [largest, self._number(1 / _LARGEST)])
        scale = graph.op("Max", [scale, self._number(_SMALLEST_SCALE)])
        steps = graph.op("Mul", [floats, graph.op("Reciprocal", [scale])])
        parts = [steps, self._number(1), self._number(0, _INT8)]
        return graph.op("QuantizeLinear", parts), scale
