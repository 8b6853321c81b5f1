"""Layers that both graphs are made of.

Parameters carry the shapes that the checkpoint must fill; linear weights are stored
[in, out], as ``MatMul`` takes them. Shapes in comments: B batch, Q query tokens, T cache
slots, S source tokens, D model width, H heads, Dh head size.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript import nn

from ..spec import Activation, ModelSpec, NormKind, NormSpec, StackSpec

#: onnxscript's op builder; it is an open dispatcher, so it has no useful static type.
Op = Any

#: Score of a slot that may not be seen, where a bias is added. exp(-3e4) is 0 in every
#: precision, and unlike -inf or float32's minimum it survives a cast to float16.
MASKED_SCORE = -3.0e4


class Linear(nn.Module):
    """``x @ weight + bias`` with weight [in, out]."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter([inputs, outputs])
        self.bias = nn.Parameter([outputs]) if bias else None

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        y = op.MatMul(x, self.weight)
        return y if self.bias is None else op.Add(y, self.bias)


class Norm(nn.Module):
    def __init__(self, width: int, spec: NormSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter([width])
        has_bias = spec.kind is not NormKind.RMS and spec.bias
        self.width = width
        self.bias = nn.Parameter([width]) if has_bias else None

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        if self.spec.kind is NormKind.RMS:
            return op.RMSNormalization(x, self.weight, axis=-1, epsilon=self.spec.epsilon)
        if self.spec.kind is NormKind.STD:
            return self._over_deviation(op, x)
        bias = [] if self.bias is None else [self.bias]
        return op.LayerNormalization(x, self.weight, *bias, axis=-1, epsilon=self.spec.epsilon)

    def _over_deviation(self, op: Op, x: ir.Value) -> ir.Value:
        """By primitives: no operator adds epsilon to the deviation and not to the variance."""
        centered = op.Sub(x, op.ReduceMean(x, [-1]))
        squares = op.ReduceSumSquare(centered, [-1])
        deviation = op.Sqrt(op.Div(squares, op.CastLike(float(self.width - 1), squares)))
        denominator = op.Add(deviation, op.CastLike(self.spec.epsilon, deviation))
        y = op.Mul(op.Div(centered, denominator), self.weight)
        return y if self.bias is None else op.Add(y, self.bias)


class Table(nn.Module):
    """Rows that are looked up: token or position embeddings, relative biases."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter([rows, width])

    def forward(self, op: Op, indices: ir.Value) -> ir.Value:
        return op.Gather(self.weight, indices, axis=0)


class FeedForward(nn.Module):
    def __init__(self, spec: ModelSpec, stack: StackSpec) -> None:
        super().__init__()
        width = spec.width(stack)
        self.activation = stack.activation
        self.up = Linear(width, stack.ffn_dim, spec.bias)
        self.gate = Linear(width, stack.ffn_dim, spec.bias) if stack.gated else None
        self.down = Linear(stack.ffn_dim, width, spec.bias)

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        if self.gate is None:
            return self.down(op, activate(op, self.activation, self.up(op, x)))
        gate = activate(op, self.activation, self.gate(op, x))
        return self.down(op, op.Mul(gate, self.up(op, x)))


def activate(op: Op, activation: Activation, x: ir.Value) -> ir.Value:
    if activation is Activation.RELU:
        return op.Relu(x)
    if activation is Activation.GELU:
        return op.Gelu(x)
    if activation is Activation.GELU_NEW:
        return op.Gelu(x, approximate="tanh")
    if activation is Activation.TANH:
        return op.Tanh(x)
    return op.Mul(x, op.Sigmoid(x))


def split_heads(op: Op, x: ir.Value, parts: int, heads: int, head_dim: int) -> list[ir.Value]:
    """[B, Q, parts*H*Dh] -> ``parts`` values [B, H, Q, Dh].

    One reshape and one transpose for all parts: on small models the number of nodes per step,
    not their arithmetic, is what costs.
    """
    x = op.Reshape(x, [0, 0, parts * heads, head_dim])
    x = op.Transpose(x, perm=[0, 2, 1, 3])
    if parts == 1:
        return [x]
    return list(op.Split(x, axis=1, num_outputs=parts, _outputs=parts))


def attend(op: Op, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None) -> ir.Value:
    """Attention of queries [B, H, Q, Dh] to all keys that ``mask`` shows; None: to all.

    The queries are scaled by their weights.
    """
    masks = [] if mask is None else [mask]
    y: ir.Value = op.Attention(q, k, v, *masks, scale=1.0)
    return y


def merge_heads(op: Op, x: ir.Value, inner_dim: int) -> ir.Value:
    """[B, H, Q, Dh] -> [B, Q, H*Dh]."""
    return op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), [0, 0, inner_dim])


def mask_per_query(op: Op, mask: ir.Value, input_ids: ir.Value) -> ir.Value:
    """[B, 1, 1, S] to [B, 1, Q, S] for tokens [B, Q].

    The standard lets a mask broadcast over queries; ONNX Runtime's CPU kernel wants it whole.
    """
    queries = op.Shape(input_ids, start=1, end=2)
    return op.Expand(mask, op.Concat([1, 1], queries, [1], axis=0))
