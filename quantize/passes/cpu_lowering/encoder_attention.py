"""Attention of an encoder that sees all of its source, without scores that lie in memory whole.

``MultiHeadAttention`` goes through the scores a block at a time, as long as nothing is added to
them. The standard's ``Attention`` holds [B, H, S, S] of them: 72 MB over the 1500 positions of
30 s of speech with 8 heads, in every layer.

Source: the operator's documentation (ONNX Runtime, docs/ContribOperators.md).
"""

from __future__ import annotations

import onnx_ir as ir

from ...errors import NotLowerableError
from ..attention_pattern import AttentionPattern, find_attention, remove, take_place
from ..rewrite import MICROSOFT, NodeBuilder


class EncoderAttentionPass(ir.passes.InPlacePass):
    """Replaces ``Attention`` without a mask over one projection [B, S, 3*H*Dh].

    Encoders of another form stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        try:
            found = find_attention(model)
        except NotLowerableError:
            return ir.passes.PassResult(model, modified=False)
        blocks = [pattern for pattern in found if _sees_all(pattern)]
        for pattern in blocks:
            _replace(model, pattern)
        return ir.passes.PassResult(model, modified=bool(blocks))


def _sees_all(pattern: AttentionPattern) -> bool:
    """Whether nothing is added to scores, and query, key and value are thirds of one product."""
    inputs = pattern.node.inputs
    parts = inputs[0].producer() if inputs[0] is not None else None
    return (
        len(inputs) == 3
        and parts is not None
        and parts.op_type == "Split"
        and len(parts.inputs) == 1
        and tuple(parts.outputs) == tuple(inputs)
    )


def _replace(model: ir.Model, pattern: AttentionPattern) -> None:
    builder = NodeBuilder(model, pattern.merged)
    parts = builder.outputs("Split", [pattern.projected], {"axis": 2, "num_outputs": 3}, count=3)
    (merged,) = builder.outputs(
        "MultiHeadAttention",
        list(parts),
        {"num_heads": pattern.heads, "scale": 1.0},
        domain=MICROSOFT,
    )
    take_place(pattern.merged.outputs[0], merged)
    remove(model, pattern)
