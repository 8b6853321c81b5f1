"""``TensorScatter`` to ``ScatterND``.

Both write Q slots of a cache [B, H, T, Dh], starting at ``write_indices`` [B]. ``ScatterND`` is
told every (sequence, head, slot) [B, H, Q, 3]: eleven nodes, once a step for all layers.
ONNX Runtime's kernel copies the cache first unless its output is bound to the memory of its
input, as :mod:`seq2edge.runtime.backends.onnxruntime` binds it; then only the slots are written.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import QuantizationError
from ..rewrite import NodeBuilder
from .nodes import dtype_of, in_place_of, nodes_of, operands

_BOOL, _INT64 = ir.DataType.BOOL, ir.DataType.INT64
#: The cache, what is written into it, and where.
_INPUTS = 3
_ATTRIBUTES = {"axis": 2, "mode": "linear"}


class TensorScatterPass(ir.passes.InPlacePass):
    """Replaces every ``TensorScatter``.

    Raises:
        QuantizationError: one with inputs or attributes that bundles do not have.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        indices: dict[tuple[ir.Value, int], ir.Value] = {}
        nodes = nodes_of(model, "TensorScatter")
        for node in nodes:
            cache, update, start = operands(node, _INPUTS, _ATTRIBUTES)
            if "axis" not in node.attributes:
                raise QuantizationError(f"{node.name} does not write along the axis of slots")
            builder = in_place_of(model, node)
            key = start, _heads(cache)
            if key not in indices:
                indices[key] = _indices(builder, update, *key)
            builder.replace("ScatterND", [cache, indices[key], update], role="written")
        return ir.passes.PassResult(model, modified=bool(nodes))


def _indices(outer: NodeBuilder, update: ir.Value, start: ir.Value, heads: int) -> ir.Value:
    """(sequence, head, slot) of each row of ``update`` [B, H, Q, Dh]: [B, H, Q, 3]."""
    builder = NodeBuilder(outer.model, outer.node, f"{start.name}.places")
    whole = builder.constant("axes", [1, 2, 3], _INT64)
    last = builder.constant("axes", [1], _INT64)
    sizes = builder.op("Shape", [update], role="sizes", dtype=_INT64)
    rows = _count(builder, sizes, 0)
    sequences = builder.op("Unsqueeze", [rows, whole], role="sequences", dtype=_INT64)
    tokens = _count(builder, sizes, 2)
    queries = builder.op("Unsqueeze", [tokens, last], role="queries", dtype=_INT64)
    starts = builder.op("Unsqueeze", [start, whole], role="starts", dtype=_INT64)
    slots = builder.op("Add", [starts, queries], role="slots", dtype=_INT64)
    # Each Where puts one number into the triples; broadcasting gives them their shape.
    number = builder.constant("heads", np.arange(heads).reshape(heads, 1, 1), _INT64)
    is_head = builder.constant("is_head", [False, True, False], _BOOL)
    is_slot = builder.constant("is_slot", [False, False, True], _BOOL)
    pairs = builder.op("Where", [is_head, number, sequences], role="rows", dtype=_INT64)
    return builder.op("Where", [is_slot, slots, pairs], role="triples", dtype=_INT64)


def _count(builder: NodeBuilder, sizes: ir.Value, axis: int) -> ir.Value:
    """0, 1, ... as far as the size of that axis."""
    index, zero, one = (builder.constant("index", number, _INT64) for number in (axis, 0, 1))
    size = builder.op("Gather", [sizes, index], {"axis": 0}, role=f"size_{axis}", dtype=_INT64)
    return builder.op("Range", [zero, size, one], role=f"count_{axis}", dtype=_INT64)


def _heads(cache: ir.Value) -> int:
    dtype_of(cache)
    heads = cache.shape[1] if cache.shape is not None else None
    if not isinstance(heads, int):
        raise QuantizationError(f"the graph does not say how many heads {cache.name} has")
    return heads
