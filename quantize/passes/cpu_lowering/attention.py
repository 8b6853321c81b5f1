"""``Attention`` to ONNX Runtime's own operators, which need no reshaping around them.

Self-attention becomes ``GroupQueryAttention`` on the packed query, key and value: it writes the
new slots into the cache, which is bound as its past and as its present, and reads the filled slots
only. It is causal, which holds for tree steps: token i stands in slot ``write_indices + i`` and
sees no later one. Cross-attention becomes ``MultiHeadAttention``.

Source: the operators' documentation (ONNX Runtime, docs/ContribOperators.md). ``query_seqlens``,
without which steps of several tokens for several sequences are refused, is there from 1.32 on.
"""

from __future__ import annotations

import onnx_ir as ir

from ...errors import NotLowerableError
from ..attention_pattern import AttentionPattern, check_head, find_attention, remove, take_place
from ..rewrite import MICROSOFT, NodeBuilder
from .cross_int8 import lower_to_int8
from .graph_inputs import graph_input


class AttentionLoweringPass(ir.passes.InPlacePass):
    """Replaces every ``Attention`` of a decoder.

    Args:
        quantized_source: cross-attention reads int8 keys and values (:mod:`.cross_int8`).

    Raises:
        NotLowerableError: a head size that the kernel does not take, or a graph of another form.
    """

    def __init__(self, *, quantized_source: bool = False) -> None:
        super().__init__()
        self._quantized_source = quantized_source

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = find_attention(model)
        for pattern in found:
            if pattern.writes_cache:
                _lower_self_attention(model, pattern)
            elif self._quantized_source:
                lower_to_int8(model, pattern)
            else:
                _lower_cross_attention(model, pattern)
        return ir.passes.PassResult(model, modified=bool(found))


def _lower_self_attention(model: ir.Model, pattern: AttentionPattern) -> None:
    check_head(pattern)
    writes = [_scatter(pattern.node.inputs[place]) for place in (1, 2)]
    inputs: list[ir.Value | None] = [
        pattern.projected,
        None,  # key and value are in the first input
        None,
        *(write.inputs[0] for write in writes),
        graph_input(model, "seqlens_k"),
        graph_input(model, "total_sequence_length"),
        None,  # no rotary embedding: cosines, sines, positions
        None,
        None,
        _self_attention_bias(model, pattern),
        None,  # no sinks, no scales of a quantized cache
        None,
        None,
        None,
        None,
        graph_input(model, "query_seqlens"),
    ]
    attributes = {
        "num_heads": pattern.heads,
        "kv_num_heads": pattern.heads,
        "scale": 1.0,
        "do_rotary": 0,
    }
    builder = NodeBuilder(model, pattern.merged)
    outputs = builder.outputs("GroupQueryAttention", inputs, attributes, domain=MICROSOFT, count=3)
    take_place(pattern.merged.outputs[0], outputs[0])
    for write, present in zip(writes, outputs[1:], strict=True):
        take_place(write.outputs[0], present)
    remove(model, pattern, writes)


def _lower_cross_attention(model: ir.Model, pattern: AttentionPattern) -> None:
    key, value = pattern.node.inputs[1:3]
    bias = None if pattern.mask is None else graph_input(model, "encoder_attention_bias")
    inputs = [pattern.projected, key, value, None, None, bias]
    builder = NodeBuilder(model, pattern.merged)
    (merged,) = builder.outputs(
        "MultiHeadAttention",
        inputs if bias is not None else inputs[:3],
        {"num_heads": pattern.heads, "scale": 1.0},
        domain=MICROSOFT,
    )
    take_place(pattern.merged.outputs[0], merged)
    remove(model, pattern)


def _self_attention_bias(model: ir.Model, pattern: AttentionPattern) -> ir.Value:
    """The mask as scores, with the relative bias where there is one."""
    mask, seen = pattern.mask, graph_input(model, "attention_bias")
    if mask is None:
        raise NotLowerableError("self-attention has no mask")
    if mask.name == "attention_mask":
        return seen
    node = mask.producer()
    if node is None or node.op_type not in ("Where", "Add"):
        raise NotLowerableError("the mask of self-attention is of another form")
    if node.op_type == "Where":  # the first layer that reads it; the others find the sum
        relative = node.inputs[1]
        (total,) = NodeBuilder(model, node).outputs("Add", [relative, seen])
        total.type, total.shape = mask.type, mask.shape
        mask.replace_all_uses_with(total)
        model.graph.remove(node, safe=True)
        return total
    return mask


def _scatter(value: ir.Value | None) -> ir.Node:
    node = None if value is None else value.producer()
    if node is None or node.op_type != "TensorScatter" or not node.outputs[0].is_graph_output():
        raise NotLowerableError("the cache is not written by TensorScatter")
    return node
