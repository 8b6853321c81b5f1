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
from .nodes import Insertion, dtype_of, in_place_of, nodes_of, operands

_BOOL, _INT64 = ir.DataType.BOOL, ir.DataType.INT64
#: The cache, what is written into it, and where.
_INPUTS = 3
_ATTRIBUTES = {"axis": 2, "mode": "linear"}


def lower_scatter(model: ir.Model) -> int:
    """Replace every ``TensorScatter``; gives how many there were.

    Raises:
        QuantizationError: one with inputs or attributes that bundles do not have.
    """
    places: dict[tuple[ir.Value, int], ir.Value] = {}
    nodes = nodes_of(model, "TensorScatter")
    for node in nodes:
        cache, update, start = operands(node, _INPUTS, _ATTRIBUTES)
        if "axis" not in node.attributes:
            raise QuantizationError(f"{node.name} does not write along the axis of slots")
        there = in_place_of(model, node)
        key = start, _heads(cache)
        if key not in places:
            places[key] = _places(there, update, *key)
        there.finish("written", "ScatterND", [cache, places[key], update])
    return len(nodes)


def _places(node: Insertion, update: ir.Value, start: ir.Value, heads: int) -> ir.Value:
    """(sequence, head, slot) of each row of ``update`` [B, H, Q, Dh]: [B, H, Q, 3]."""
    there = Insertion(node.model, node.node, f"{start.name}.places")
    whole = there.constant("axes", [1, 2, 3], _INT64)
    last = there.constant("axes", [1], _INT64)
    sizes = there.add("sizes", "Shape", [update], _INT64)
    sequences = there.add("sequences", "Unsqueeze", [_count(there, sizes, 0), whole], _INT64)
    queries = there.add("queries", "Unsqueeze", [_count(there, sizes, 2), last], _INT64)
    starts = there.add("starts", "Unsqueeze", [start, whole], _INT64)
    slots = there.add("slots", "Add", [starts, queries], _INT64)
    # Each Where puts one number into the triples; broadcasting gives them their shape.
    number = there.constant("heads", np.arange(heads).reshape(heads, 1, 1), _INT64)
    is_head = there.constant("is_head", [False, True, False], _BOOL)
    is_slot = there.constant("is_slot", [False, False, True], _BOOL)
    rows = there.add("rows", "Where", [is_head, number, sequences], _INT64)
    return there.add("triples", "Where", [is_slot, slots, rows], _INT64)


def _count(there: Insertion, sizes: ir.Value, axis: int) -> ir.Value:
    """0, 1, ... as far as the size of that axis."""
    index, zero, one = (there.constant("index", number, _INT64) for number in (axis, 0, 1))
    size = there.add(f"size_{axis}", "Gather", [sizes, index], _INT64, {"axis": 0})
    return there.add(f"count_{axis}", "Range", [zero, size, one], _INT64)


def _heads(cache: ir.Value) -> int:
    dtype_of(cache)
    heads = cache.shape[1] if cache.shape is not None else None
    if not isinstance(heads, int):
        raise QuantizationError(f"the graph does not say how many heads {cache.name} has")
    return heads
