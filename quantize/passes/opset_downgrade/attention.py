"""``Attention`` to two products and a softmax.

``softmax(Q K^T * scale + mask) V``, in the order of the ONNX standard's own function body: the
scores in the operands' type, the softmax in float32 where ``softmax_precision`` says so.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from seq2edge.export.graph.layers import MASKED_SCORE

from ...errors import QuantizationError
from ..rewrite import NodeBuilder
from .nodes import dtype_of, in_place_of, nodes_of, operands

_BOOL, _FLOAT = ir.DataType.BOOL, ir.DataType.FLOAT
#: q, k, v, and a mask where something is hidden.
_INPUTS, _OPTIONAL = 4, 1
_ATTRIBUTES = {"scale": None, "softmax_precision": _FLOAT.value}


class AttentionPass(ir.passes.InPlacePass):
    """Replaces every ``Attention``.

    Raises:
        QuantizationError: one with inputs or attributes that bundles do not have.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        masks: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        nodes = nodes_of(model, "Attention")
        for node in nodes:
            q, k, v, *rest = operands(node, _INPUTS, _ATTRIBUTES, optional=_OPTIONAL)
            mask = rest[0] if rest else None
            builder = in_place_of(model, node)
            dtype = dtype_of(q)
            if mask is not None and mask.dtype == _BOOL:
                if (mask, dtype) not in masks:
                    masks[mask, dtype] = _additive(builder, mask, dtype)
                mask = masks[mask, dtype]
            weights = _weights(builder, _scores(builder, q, k, dtype), mask, dtype)
            builder.replace("MatMul", [weights, v], role="output")
        return ir.passes.PassResult(model, modified=bool(nodes))


def _scores(builder: NodeBuilder, q: ir.Value, k: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Q K^T * scale [B, H, Q, T]. The query is scaled first: it is the smallest of the three,
    and in float16 a product that is scaled afterwards may have overflowed by then."""
    scale = _scale(builder.node, q)
    if scale != 1:
        factor = builder.constant("attention_scale", scale, dtype)
        q = builder.op("Mul", [q, factor], role="scaled_query", dtype=dtype)
    turned = {"perm": [0, 1, 3, 2]}
    columns = builder.op("Transpose", [k], turned, role="transposed_key", dtype=dtype)
    return builder.op("MatMul", [q, columns], role="scores", dtype=dtype)


def _weights(
    builder: NodeBuilder, scores: ir.Value, mask: ir.Value | None, dtype: ir.DataType
) -> ir.Value:
    last = {"axis": -1}
    if mask is not None:
        scores = builder.op("Add", [scores, mask], role="masked_scores", dtype=dtype)
    exact = "softmax_precision" in builder.node.attributes and dtype != _FLOAT
    if not exact:
        return builder.op("Softmax", [scores], last, role="weights", dtype=dtype)
    to_float, back = {"to": _FLOAT.value}, {"to": dtype.value}
    scores = builder.op("Cast", [scores], to_float, role="exact_scores", dtype=_FLOAT)
    weights = builder.op("Softmax", [scores], last, role="exact_weights", dtype=_FLOAT)
    return builder.op("Cast", [weights], back, role="weights", dtype=dtype)


def _additive(builder: NodeBuilder, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A bool mask as scores to add, 0 or ``MASKED_SCORE``: made once, and every layer adds it.

    Where the mask was expanded over the queries, what was expanded is enough: ``Add``
    broadcasts.
    """
    producer = mask.producer()
    if producer is not None and producer.op_type == "Expand" and producer.inputs[0] is not None:
        mask = producer.inputs[0]
    seen, hidden = (builder.constant("mask", score, dtype) for score in (0, MASKED_SCORE))
    shared = NodeBuilder(builder.model, builder.node, f"{mask.name}.{dtype.name.lower()}")
    return shared.op("Where", [mask, seen, hidden], role="scores", dtype=dtype)


def _scale(node: ir.Node, q: ir.Value) -> float:
    if "scale" in node.attributes:
        return float(node.attributes["scale"].as_float())
    size = q.shape[-1] if q.shape is not None else None
    if not isinstance(size, int):
        raise QuantizationError(f"{node.name} has neither a scale nor a known head size")
    return 1 / math.sqrt(size)
