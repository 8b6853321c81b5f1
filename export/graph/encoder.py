"""Encoder graph: tokens to the decoder's cross-attention keys and values, or to states."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import nn

from ..spec import ModelSpec, NormPlacement, StackSpec
from .layers import (
    FeedForward,
    Linear,
    Norm,
    Op,
    Table,
    attend,
    mask_per_query,
    merge_heads,
    split_heads,
)
from .positions import Rotation, rotate
from .stack import Stack
from .stem import Stem


class SelfAttention(nn.Module):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        width = spec.width(stack)
        self.heads, self.head_dim = stack.heads, stack.head_dim
        self.qkv = Linear(width, 3 * stack.inner_dim, spec.attention_has_bias)
        self.out = Linear(stack.inner_dim, width, spec.attention_has_bias)

    def forward(
        self, op: Op, x: ir.Value, mask: ir.Value | None, turn: Rotation | None
    ) -> ir.Value:
        q, k, v = split_heads(op, self.qkv(op, x), 3, self.heads, self.head_dim)
        if turn is not None:
            q, k = rotate(op, q, turn), rotate(op, k, turn)
        y = attend(op, q, k, v, mask)
        return self.out(op, merge_heads(op, y, self.heads * self.head_dim))


class EncoderLayer(nn.Module):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        width, norm = spec.width(stack), spec.norm_of(stack)
        self.pre_norm = spec.placement_of(stack) is NormPlacement.PRE
        self.self_attention = SelfAttention(spec, stack)
        self.self_attention_norm = Norm(width, norm)
        self.ffn = FeedForward(spec, stack)
        self.ffn_norm = Norm(width, norm)

    def forward(
        self, op: Op, x: ir.Value, mask: ir.Value | None, turn: Rotation | None
    ) -> ir.Value:
        if self.pre_norm:
            x = op.Add(x, self.self_attention(op, self.self_attention_norm(op, x), mask, turn))
            return op.Add(x, self.ffn(op, self.ffn_norm(op, x)))
        x = self.self_attention_norm(op, op.Add(x, self.self_attention(op, x, mask, turn)))
        return self.ffn_norm(op, op.Add(x, self.ffn(op, x)))


class EncoderStack(Stack):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        layers: list[nn.Module] = [EncoderLayer(spec, stack) for _ in range(stack.layers)]
        super().__init__(spec, stack, layers, bidirectional=True)

    def forward(
        self,
        op: Op,
        x: ir.Value,
        position: ir.Value,
        mask: ir.Value | None,
        added: ir.Value | None,
    ) -> ir.Value:
        """Embeddings [B, S, D] at positions [1, S] to states; see :meth:`.Stack.embed`."""
        masks: list[ir.Value | None] = [None] * len(self.layers)
        if mask is not None:
            masks = list(self.masks(op, position, position, mask))
        x = self.embed(op, x, position, added)
        turn = self.rotation(op, position)
        for layer, layer_mask in zip(self.layers, masks, strict=True):
            x = layer(op, x, layer_mask, turn)
        return self.finish(op, x)


class CrossProjection(nn.Module):
    """One decoder layer's cross-attention keys and values, computed once per source."""

    def __init__(self, spec: ModelSpec, encoder: StackSpec, decoder: StackSpec) -> None:
        super().__init__()
        self.heads, self.head_dim = decoder.heads, decoder.head_dim
        self.kv = Linear(spec.width(encoder), 2 * decoder.inner_dim, spec.attention_has_bias)

    def forward(self, op: Op, states: ir.Value) -> list[ir.Value]:
        return split_heads(op, self.kv(op, states), 2, self.heads, self.head_dim)


class EncoderGraph(nn.Module):
    """``input_ids`` [B, S] and a bool mask [B, 1, 1, S] to L pairs [B, H, S, Dh].

    With a stem, features [B, C, F] and no mask. Without a decoder to the last hidden states
    [B, S, D].
    """

    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        if stack.stem is None:
            self.embedding = Table(spec.source_rows, spec.width(stack))
        else:
            self.stem = Stem(stack.stem)
        rows = spec.shared_position_rows
        self.positions = Table(rows, spec.width(stack)) if rows else None
        self.encoder = EncoderStack(spec, stack)
        decoder = spec.decoder
        self.cross = (
            None
            if decoder is None
            else nn.ModuleList(
                [CrossProjection(spec, stack, decoder) for _ in range(decoder.layers)]
            )
        )

    def forward(self, op: Op, source: ir.Value, mask: ir.Value | None) -> list[ir.Value]:
        """``mask`` None: ``source`` are the features that a stem reads."""
        x = self.stem(op, source) if mask is None else self.embedding(op, source)
        length = op.Squeeze(op.Shape(x if mask is None else source, start=1, end=2), [0])
        position = op.Unsqueeze(op.Range(0, length, 1), [0])  # [1, S]
        if mask is not None and self.encoder.bias is None:
            mask = mask_per_query(op, mask, source)
        added = None if self.positions is None else self.positions(op, position)
        states = self.encoder(op, x, position, mask, added)
        if self.cross is None:
            return [states]
        outputs = []
        for projection in self.cross:
            outputs.extend(projection(op, states))
        return outputs
