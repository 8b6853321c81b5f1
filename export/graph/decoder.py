"""Decoder graph: the tree step (docs/design.md, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import nn

from ..spec import Activation, ModelSpec, NormPlacement, StackSpec
from .layers import (
    FeedForward,
    Linear,
    Norm,
    Op,
    Table,
    activate,
    mask_per_query,
    merge_heads,
    split_heads,
)
from .stack import Stack


@dataclass
class LayerInputs:
    """Inputs of one decoder layer besides the hidden states."""

    mask: ir.Value  # [B, 1|H, Q, T], bool or additive
    write_indices: ir.Value  # [B]
    past: tuple[ir.Value, ir.Value]  # [B, H, T, Dh] each
    cross: CrossInputs | None  # None: no cross-attention


@dataclass
class CrossInputs:
    mask: ir.Value  # [B, 1, Q, S] bool
    key: ir.Value  # [B, H, S, Dh]
    value: ir.Value  # [B, H, S, Dh]


class CachedSelfAttention(nn.Module):
    """Writes the new tokens' keys and values into the cache, then reads the whole cache."""

    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        width = spec.width(stack)
        self.heads, self.head_dim = stack.heads, stack.head_dim
        self.qkv = Linear(width, 3 * stack.inner_dim, spec.attention_has_bias)
        self.out = Linear(stack.inner_dim, width, spec.attention_has_bias)

    def forward(
        self, op: Op, x: ir.Value, inputs: LayerInputs
    ) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
        q, k, v = split_heads(op, self.qkv(op, x), 3, self.heads, self.head_dim)
        key = op.TensorScatter(inputs.past[0], k, inputs.write_indices, axis=2)
        value = op.TensorScatter(inputs.past[1], v, inputs.write_indices, axis=2)
        y = op.Attention(q, key, value, inputs.mask, scale=1.0)
        return self.out(op, merge_heads(op, y, self.heads * self.head_dim)), (key, value)


class CrossAttention(nn.Module):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        width = spec.width(stack)
        self.heads, self.head_dim = stack.heads, stack.head_dim
        self.query = Linear(width, stack.inner_dim, spec.attention_has_bias)
        self.out = Linear(stack.inner_dim, width, spec.attention_has_bias)

    def forward(self, op: Op, x: ir.Value, cross: CrossInputs) -> ir.Value:
        (q,) = split_heads(op, self.query(op, x), 1, self.heads, self.head_dim)
        y = op.Attention(q, cross.key, cross.value, cross.mask, scale=1.0)
        return self.out(op, merge_heads(op, y, self.heads * self.head_dim))


class DecoderLayer(nn.Module):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        width, norm = spec.width(stack), spec.norm_of(stack)
        self.pre_norm = spec.placement_of(stack) is NormPlacement.PRE
        self.self_attention = CachedSelfAttention(spec, stack)
        self.self_attention_norm = Norm(width, norm)
        if spec.encoder is not None:
            self.cross_attention = CrossAttention(spec, stack)
            self.cross_attention_norm = Norm(width, norm)
        self.ffn = FeedForward(spec, stack)
        self.ffn_norm = Norm(width, norm)

    def forward(
        self, op: Op, x: ir.Value, inputs: LayerInputs
    ) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
        if self.pre_norm:
            y, present = self.self_attention(op, self.self_attention_norm(op, x), inputs)
            x = op.Add(x, y)
            if inputs.cross is not None:
                normed = self.cross_attention_norm(op, x)
                x = op.Add(x, self.cross_attention(op, normed, inputs.cross))
            return op.Add(x, self.ffn(op, self.ffn_norm(op, x))), present
        y, present = self.self_attention(op, x, inputs)
        x = self.self_attention_norm(op, op.Add(x, y))
        if inputs.cross is not None:
            y = self.cross_attention(op, x, inputs.cross)
            x = self.cross_attention_norm(op, op.Add(x, y))
        return self.ffn_norm(op, op.Add(x, self.ffn(op, x))), present


class HeadTransform(nn.Module):
    """BERT's layer between the last one and the head."""

    def __init__(self, spec: ModelSpec, stack: StackSpec, activation: Activation) -> None:
        super().__init__()
        width = spec.width(stack)
        self.activation = activation
        self.dense = Linear(width, width, spec.bias)
        self.norm = Norm(width, spec.norm_of(stack))

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        return self.norm(op, activate(op, self.activation, self.dense(op, x)))


class LmHead(nn.Module):
    """Untied head: ``MatMul`` with its own weight [D, V]."""

    def __init__(self, spec: ModelSpec, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter([width, spec.vocab_size])
        self.bias = nn.Parameter([spec.vocab_size]) if spec.logits_bias else None

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        y = op.MatMul(x, self.weight)
        return y if self.bias is None else op.Add(y, self.bias)


class TiedLmHead(nn.Module):
    """Head on the token embedding [V, D] itself.

    ``Gemm(transB=1)`` over rows, because a ``Transpose`` of the table would be folded into a
    second copy of it when a runtime loads the graph.
    """

    def __init__(self, spec: ModelSpec, width: int) -> None:
        super().__init__()
        self.width, self.vocab_size = width, spec.vocab_size
        self.bias = nn.Parameter([spec.vocab_size]) if spec.logits_bias else None

    def forward(self, op: Op, x: ir.Value, table: ir.Value) -> ir.Value:
        rows = op.Reshape(x, [-1, self.width])
        bias = [] if self.bias is None else [self.bias]
        y = op.Gemm(rows, table, *bias, transB=1)
        shape = op.Concat(op.Shape(x, start=0, end=2), [self.vocab_size], axis=0)
        return op.Reshape(y, shape)


@dataclass
class StepInputs:
    """Graph inputs of the tree step; the names are those of docs/design.md.

    ``cross`` is empty without an encoder.
    """

    input_ids: ir.Value
    position_ids: ir.Value
    cache_position_ids: ir.Value
    attention_mask: ir.Value
    write_indices: ir.Value
    encoder_attention_mask: ir.Value
    past: list[tuple[ir.Value, ir.Value]]
    cross: list[tuple[ir.Value, ir.Value]]


class DecoderStack(Stack):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        layers: list[nn.Module] = [DecoderLayer(spec, stack) for _ in range(stack.layers)]
        super().__init__(spec, stack, layers, bidirectional=False)

    def forward(
        self, op: Op, x: ir.Value, inputs: StepInputs, added: ir.Value | None
    ) -> tuple[ir.Value, list[tuple[ir.Value, ir.Value]]]:
        masks = self.masks(
            op, inputs.position_ids, inputs.cache_position_ids, inputs.attention_mask
        )
        cross: list[CrossInputs | None] = [None] * len(masks)
        if inputs.cross:
            source_mask = mask_per_query(op, inputs.encoder_attention_mask, inputs.input_ids)
            cross = [CrossInputs(source_mask, key, value) for key, value in inputs.cross]
        x = self.embed(op, x, inputs.position_ids, added)
        present = []
        for index, layer in enumerate(self.layers):
            layer_inputs = LayerInputs(
                mask=masks[index],
                write_indices=inputs.write_indices,
                past=inputs.past[index],
                cross=cross[index],
            )
            x, written = layer(op, x, layer_inputs)
            present.append(written)
        return self.finish(op, x), present


class DecoderGraph(nn.Module):
    """One tree step: gives ``next_token_ids`` [B, Q], ``logits`` [B, Q, V] and the new cache."""

    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width(stack)
        # The name is the encoder's unless the decoder has a table of its own.
        if spec.separate_decoder_embedding:
            self.decoder_embedding = Table(spec.vocab_size, width)
        else:
            self.embedding = Table(spec.vocab_size, width)
        rows = spec.shared_position_rows
        self.positions = Table(rows, width) if rows else None
        self.decoder = DecoderStack(spec, stack)
        self.head_transform = (
            None if spec.head_transform is None else HeadTransform(spec, stack, spec.head_transform)
        )
        self.lm_head = TiedLmHead(spec, width) if spec.tied_lm_head else LmHead(spec, width)

    def forward(
        self, op: Op, inputs: StepInputs
    ) -> tuple[ir.Value, ir.Value, list[tuple[ir.Value, ir.Value]]]:
        spec = self.spec
        table = self.decoder_embedding if spec.separate_decoder_embedding else self.embedding
        added = None if self.positions is None else self.positions(op, inputs.position_ids)
        x, present = self.decoder(op, table(op, inputs.input_ids), inputs, added)
        if self.head_transform is not None:
            x = self.head_transform(op, x)
        if spec.logits_scale != 1.0:
            x = op.Mul(x, op.CastLike(spec.logits_scale, x))
        logits = self.lm_head(op, x, table.weight) if spec.tied_lm_head else self.lm_head(op, x)
        return op.ArgMax(logits, axis=-1, keepdims=0), logits, present
