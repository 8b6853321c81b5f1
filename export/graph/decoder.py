"""Decoder graph: the tree step (docs/design.md, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

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
    attend,
    mask_per_query,
    merge_heads,
    split_heads,
)
from .positions import Rotation, rotate
from .stack import Stack


@dataclass
class LayerInputs:
    """Inputs of one decoder layer besides the hidden states."""

    mask: ir.Value  # [B, 1|H, Q, T], bool or additive
    write_indices: ir.Value  # [B]
    past: tuple[ir.Value, ir.Value] | None  # [B, H, T, Dh] each; None: no cache
    cross: CrossInputs | None  # None: no cross-attention
    turn: Rotation | None = None  # of the new tokens' queries and keys


@dataclass
class LayerOutputs:
    """Outputs of one decoder layer besides the hidden states."""

    present: tuple[ir.Value, ir.Value]  # [B, H, T, Dh] each
    alignment: ir.Value | None = None  # [B, heads, Q, S], see CrossInputs.heads


@dataclass
class CrossInputs:
    mask: ir.Value | None  # [B, 1, Q, S] bool; None: nothing of the source is padding
    key: ir.Value  # [B, H, S, Dh]
    value: ir.Value  # [B, H, S, Dh]
    heads: tuple[int, ...] = ()  # those whose weights are an output


class CachedSelfAttention(nn.Module):
    """Writes the new tokens' keys and values into the cache, then reads the whole cache.

    Without a cache the tokens are all there are.
    """

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
        if inputs.turn is not None:
            q, k = rotate(op, q, inputs.turn), rotate(op, k, inputs.turn)
        if inputs.past is None:
            y = attend(op, q, k, v, inputs.mask)
            return self.out(op, merge_heads(op, y, self.heads * self.head_dim)), (k, v)
        key = op.TensorScatter(inputs.past[0], k, inputs.write_indices, axis=2)
        value = op.TensorScatter(inputs.past[1], v, inputs.write_indices, axis=2)
        y = attend(op, q, key, value, inputs.mask)
        return self.out(op, merge_heads(op, y, self.heads * self.head_dim)), (key, value)


class CrossAttention(nn.Module):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        width = spec.width(stack)
        self.heads, self.head_dim = stack.heads, stack.head_dim
        self.query = Linear(width, stack.inner_dim, spec.attention_has_bias)
        self.out = Linear(stack.inner_dim, width, spec.attention_has_bias)

    def forward(self, op: Op, x: ir.Value, cross: CrossInputs) -> tuple[ir.Value, ir.Value | None]:
        """The states, and the weights of ``cross.heads`` if there are any."""
        (q,) = split_heads(op, self.query(op, x), 1, self.heads, self.head_dim)
        y = attend(op, q, cross.key, cross.value, cross.mask)
        y = self.out(op, merge_heads(op, y, self.heads * self.head_dim))
        return y, self._weights(op, q, cross) if cross.heads else None

    def _weights(self, op: Op, q: ir.Value, cross: CrossInputs) -> ir.Value:
        """By primitives: not every runtime gives the weights of ``Attention``, and few are read."""
        heads = op.Constant(value_ints=list(cross.heads))
        query, key = op.Gather(q, heads, axis=1), op.Gather(cross.key, heads, axis=1)
        scores = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))
        weights: ir.Value = op.Softmax(scores, axis=-1)
        return weights


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

    def forward(self, op: Op, x: ir.Value, inputs: LayerInputs) -> tuple[ir.Value, LayerOutputs]:
        weights = None
        if self.pre_norm:
            y, present = self.self_attention(op, self.self_attention_norm(op, x), inputs)
            x = op.Add(x, y)
            if inputs.cross is not None:
                normed = self.cross_attention_norm(op, x)
                y, weights = self.cross_attention(op, normed, inputs.cross)
                x = op.Add(x, y)
            x = op.Add(x, self.ffn(op, self.ffn_norm(op, x)))
            return x, LayerOutputs(present, weights)
        y, present = self.self_attention(op, x, inputs)
        x = self.self_attention_norm(op, op.Add(x, y))
        if inputs.cross is not None:
            y, weights = self.cross_attention(op, x, inputs.cross)
            x = self.cross_attention_norm(op, op.Add(x, y))
        x = self.ffn_norm(op, op.Add(x, self.ffn(op, x)))
        return x, LayerOutputs(present, weights)


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

    ``cross`` is empty without an encoder, and ``past`` where there is no cache.
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
        self.masked = spec.encoder is None or spec.encoder.stem is None

    def forward(
        self,
        op: Op,
        x: ir.Value,
        inputs: StepInputs,
        added: ir.Value | None,
        aligned: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
    ) -> tuple[ir.Value, list[LayerOutputs]]:
        """``aligned``: by layer, the heads of cross-attention whose weights are wanted."""
        masks = self.masks(
            op, inputs.position_ids, inputs.cache_position_ids, inputs.attention_mask
        )
        source_mask = None
        if inputs.cross and self.masked:
            source_mask = mask_per_query(op, inputs.encoder_attention_mask, inputs.input_ids)
        x = self.embed(op, x, inputs.position_ids, added)
        turn = self.rotation(op, inputs.position_ids)
        outputs = []
        for index, layer in enumerate(self.layers):
            cross = None
            if inputs.cross:
                cross = CrossInputs(source_mask, *inputs.cross[index], aligned.get(index, ()))
            layer_inputs = LayerInputs(
                mask=masks[index],
                write_indices=inputs.write_indices,
                past=inputs.past[index] if inputs.past else None,
                cross=cross,
                turn=turn,
            )
            x, written = layer(op, x, layer_inputs)
            outputs.append(written)
        return self.finish(op, x), outputs


class DecoderLogits(nn.Module):
    """Tokens to logits: what the graphs that run the decoder have in common."""

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

    def logits(
        self, op: Op, inputs: StepInputs, aligned: Mapping[int, tuple[int, ...]]
    ) -> tuple[ir.Value, list[LayerOutputs]]:
        """[B, Q, V], and what the layers give; see :meth:`DecoderStack.forward`."""
        spec = self.spec
        table = self.decoder_embedding if spec.separate_decoder_embedding else self.embedding
        added = None if self.positions is None else self.positions(op, inputs.position_ids)
        x, outputs = self.decoder(op, table(op, inputs.input_ids), inputs, added, aligned)
        if self.head_transform is not None:
            x = self.head_transform(op, x)
        if spec.logits_scale != 1.0:
            x = op.Mul(x, op.CastLike(spec.logits_scale, x))
        logits = self.lm_head(op, x, table.weight) if spec.tied_lm_head else self.lm_head(op, x)
        return logits, outputs


class DecoderGraph(DecoderLogits):
    """One tree step: gives ``next_token_ids`` [B, Q], ``logits`` [B, Q, V] and the new cache."""

    def forward(
        self, op: Op, inputs: StepInputs
    ) -> tuple[ir.Value, ir.Value, list[tuple[ir.Value, ir.Value]]]:
        logits, outputs = self.logits(op, inputs, {})
        next_token_ids = op.ArgMax(logits, axis=-1, keepdims=0)
        return next_token_ids, logits, [layer.present for layer in outputs]
