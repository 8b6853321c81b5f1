"""Several tokens of several sources over int8 keys and values.

``GroupQueryAttention`` (ONNX Runtime 1.32) takes one token of each source there, with any number of
query heads to a head of keys. So the tokens of a step are put into heads: [B, Q, H*Dh] becomes one
token with H groups of Q heads, and back. The number of heads is an attribute, so there is a node
for each of a few numbers of tokens, which fewer are padded to, in the branches of an ``If`` (0.7 us
each). The host says which (``runtime/backends/onnxruntime/lowered.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from seq2edge.runtime.backends.onnxruntime.lowered import QUERY_GROUPS

from ..attention_pattern import AttentionPattern
from ..rewrite import NodeBuilder
from .branch import Branch
from .graph_inputs import graph_input

_INT64 = ir.DataType.INT64
_ATTRIBUTES = {
    "scale": 1.0,
    "causal": 0,
    "do_rotary": 0,
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}


def grouped_attention(
    builder: NodeBuilder,
    pattern: AttentionPattern,
    query: ir.Value,
    keys: Sequence[ir.Value | None],
) -> Sequence[ir.Value]:
    """Attention of ``query`` [B, Q, H*Dh], and the keys and values that the operator gives back.

    Args:
        builder: makes nodes in the main graph.
        pattern: says how many heads there are.
        query: with the scale of the keys in it.
        keys: all inputs of ``GroupQueryAttention`` after the query.
    """
    few, many = QUERY_GROUPS
    wide = graph_input(builder.model, "many_queries")
    grouped = Branch(f"{pattern.node.name}.grouped")
    outputs = grouped.ops(
        "If",
        [wide],
        3,
        then_branch=_as_heads(builder, pattern, query, keys, many),
        else_branch=_as_heads(builder, pattern, query, keys, few),
    )
    return builder.outputs(
        "If",
        [graph_input(builder.model, "group_queries")],
        {
            "then_branch": ir.Graph([], outputs, nodes=grouped.nodes, name="grouped"),
            "else_branch": _as_tokens(pattern, query, keys),
        },
        count=3,
    )


def _as_tokens(
    pattern: AttentionPattern, query: ir.Value, keys: Sequence[ir.Value | None]
) -> ir.Graph:
    graph = Branch(f"{pattern.node.name}.tokens")
    outputs = _attention(graph, query, keys, pattern.heads, pattern.heads)
    return ir.Graph([], outputs, nodes=graph.nodes, name="tokens")


def _as_heads(
    builder: NodeBuilder,
    pattern: AttentionPattern,
    query: ir.Value,
    keys: Sequence[ir.Value | None],
    count: int,
) -> ir.Graph:
    heads, size = pattern.heads, pattern.head_dim
    graph = Branch(f"{pattern.node.name}.heads{count}")

    def shaped(value: ir.Value, shape: Sequence[int]) -> ir.Value:
        return graph.op("Reshape", [value, builder.constant("shape", shape, _INT64)])

    def turned(value: ir.Value) -> ir.Value:
        return graph.op("Transpose", [value], perm=[0, 2, 1, 3])

    padded = graph.op("Pad", [query, graph_input(builder.model, "query_padding")])
    by_head = turned(shaped(padded, [0, count, heads, size]))
    one_token = shaped(by_head, [0, 1, heads * count * size])
    attended, *presents = _attention(graph, one_token, keys, heads * count, heads)
    by_token = turned(shaped(attended, [0, heads, count, size]))
    joined = shaped(by_token, [0, count, heads * size])
    first, axis = (builder.constant(name, [n], _INT64) for name, n in (("first", 0), ("axis", 1)))
    taken = graph.op("Slice", [joined, first, graph_input(builder.model, "query_count"), axis])
    return ir.Graph([], [taken, *presents], nodes=graph.nodes, name=f"heads{count}")


def _attention(
    graph: Branch,
    query: ir.Value,
    keys: Sequence[ir.Value | None],
    heads: int,
    key_heads: int,
) -> Sequence[ir.Value]:
    attributes: dict[str, Any] = {**_ATTRIBUTES, "num_heads": heads, "kv_num_heads": key_heads}
    return graph.ops("GroupQueryAttention", [query, *keys], 3, **attributes)
