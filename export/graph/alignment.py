"""Alignment graph: a whole text at once, to what its tokens attended to and how likely they were.

It has the decoder's own weights and no cache, so a step without word times pays nothing for it.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from .decoder import DecoderLogits, StepInputs
from .layers import Op


class AlignmentGraph(DecoderLogits):
    """``input_ids`` [B, N] and cross-attention's keys and values to two outputs.

    The weights [B, alignment heads, N, S] of the heads that follow the sound, those of each token
    as query; and [B, N] the log-probability of each token's successor, 0 for the last one.
    """

    def forward(self, op: Op, inputs: StepInputs) -> tuple[ir.Value, ir.Value]:
        input_ids = inputs.input_ids
        length = op.Squeeze(op.Shape(input_ids, start=1, end=2), [0])
        position = op.Unsqueeze(op.Range(0, length, 1), [0])  # [1, N]
        before = op.LessOrEqual(op.Unsqueeze(position, [1]), op.Unsqueeze(position, [2]))
        shape = op.Concat(op.Shape(input_ids, start=0, end=1), [1, 1, 1], axis=0)
        inputs = replace(
            inputs,
            position_ids=position,
            cache_position_ids=position,
            # Every token sees itself and those before it; kernels want the batch's masks whole.
            attention_mask=op.Expand(op.Unsqueeze(before, [1]), shape),
        )
        aligned: dict[int, tuple[int, ...]] = {}
        for layer, head in sorted(self.spec.alignment_heads):
            aligned[layer] = (*aligned.get(layer, ()), head)
        logits, outputs = self.logits(op, inputs, aligned)
        weights = [layer.alignment for layer in outputs if layer.alignment is not None]
        logprobs = op.LogSoftmax(op.Slice(logits, [0], [-1], [1]), axis=-1)
        successors = op.Unsqueeze(op.Slice(input_ids, [1], [_END], [1]), [2])
        following = op.Squeeze(op.GatherElements(logprobs, successors, axis=2), [2])
        return op.Concat(*weights, axis=1), op.Pad(following, [0, 0, 0, 1])


#: Beyond any axis.
_END = 2**31 - 1
