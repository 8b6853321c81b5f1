"""``Attention`` to two products and a softmax.

``softmax(Q K^T * scale + mask) V``, in the order of the ONNX standard's own function body: the
scores in the operands' type, the softmax in float32 where ``softmax_precision`` says so.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from seq2edge.export.graph.layers import MASKED_SCORE

from ...errors import QuantizationError
from .nodes import Insertion, dtype_of, in_place_of, nodes_of, operands

_BOOL, _FLOAT = ir.DataType.BOOL, ir.DataType.FLOAT
#: q, k, v, mask.
_INPUTS = 4
_ATTRIBUTES = {"scale": None, "softmax_precision": _FLOAT.value}


def lower_attention(model: ir.Model) -> int:
    """Replace every ``Attention``; gives how many there were.

    Raises:
        QuantizationError: one with inputs or attributes that bundles do not have.
    """
    masks: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    nodes = nodes_of(model, "Attention")
    for node in nodes:
        q, k, v, mask = operands(node, _INPUTS, _ATTRIBUTES)
        there = in_place_of(model, node)
        dtype = dtype_of(q)
        if mask.dtype == _BOOL:
            if (mask, dtype) not in masks:
                masks[mask, dtype] = _additive(there, mask, dtype)
            mask = masks[mask, dtype]
        weights = _weights(there, _scores(there, q, k, dtype), mask, dtype)
        there.finish("output", "MatMul", [weights, v])
    return len(nodes)


def _scores(there: Insertion, q: ir.Value, k: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Q K^T * scale [B, H, Q, T]. The query is scaled first: it is the smallest of the three,
    and in float16 a product that is scaled afterwards may have overflowed by then."""
    scale = _scale(there.node, q)
    if scale != 1:
        factor = there.constant("attention_scale", scale, dtype)
        q = there.add("scaled_query", "Mul", [q, factor], dtype)
    columns = there.add("transposed_key", "Transpose", [k], dtype, {"perm": [0, 1, 3, 2]})
    return there.add("scores", "MatMul", [q, columns], dtype)


def _weights(there: Insertion, scores: ir.Value, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
    scores = there.add("masked_scores", "Add", [scores, mask], dtype)
    exact = "softmax_precision" in there.node.attributes and dtype != _FLOAT
    if not exact:
        return there.add("weights", "Softmax", [scores], dtype, {"axis": -1})
    scores = there.add("exact_scores", "Cast", [scores], _FLOAT, {"to": _FLOAT.value})
    weights = there.add("exact_weights", "Softmax", [scores], _FLOAT, {"axis": -1})
    return there.add("weights", "Cast", [weights], dtype, {"to": dtype.value})


def _additive(there: Insertion, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A bool mask as scores to add, 0 or ``MASKED_SCORE``: made once, and every layer adds it.

    Where the mask was expanded over the queries, what was expanded is enough: ``Add``
    broadcasts.
    """
    producer = mask.producer()
    if producer is not None and producer.op_type == "Expand" and producer.inputs[0] is not None:
        mask = producer.inputs[0]
    seen, hidden = (there.constant("mask", score, dtype) for score in (0, MASKED_SCORE))
    shared = Insertion(there.model, there.node, f"{mask.name}.{dtype.name.lower()}")
    return shared.add("scores", "Where", [mask, seen, hidden], dtype)


def _scale(node: ir.Node, q: ir.Value) -> float:
    if "scale" in node.attributes:
        return float(node.attributes["scale"].as_float())
    size = q.shape[-1] if q.shape is not None else None
    if not isinstance(size, int):
        raise QuantizationError(f"{node.name} has neither a scale nor a known head size")
    return 1 / math.sqrt(size)
