"""The common parts of the encoder's and the decoder's stack of layers."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import nn

from ..spec import LearnedPositions, ModelSpec, RelativeBias, RotaryPositions, StackSpec
from .layers import Norm, Op, Table
from .positions import DistanceBias, Rotation, rotation


class Stack(nn.Module):
    """Embedding scale, positions, embedding norm, layers, final norm."""

    def __init__(
        self, spec: ModelSpec, stack: StackSpec, layers: list[nn.Module], bidirectional: bool
    ) -> None:
        super().__init__()
        positions, width = stack.positions, spec.width(stack)
        own_scale = stack.embedding_scale
        self.embedding_scale = spec.embedding_scale if own_scale is None else own_scale
        self.positions = (
            Table(positions.length, width)
            if isinstance(positions, LearnedPositions) and not spec.shared_positions
            else None
        )
        self.bias = (
            nn.ModuleList(
                [
                    DistanceBias(positions, stack.heads, bidirectional)
                    for _ in range(stack.layers if positions.per_layer else 1)
                ]
            )
            if isinstance(positions, RelativeBias)
            else None
        )
        self.rotary = positions if isinstance(positions, RotaryPositions) else None
        self.head_dim = stack.head_dim
        norm = spec.norm_of(stack)
        self.embedding_norm = Norm(width, norm) if stack.embedding_norm else None
        self.positions_after_norm = stack.positions_after_norm
        self.layers = nn.ModuleList(layers)
        self.final_norm = Norm(width, stack.last_norm or norm) if stack.final_norm else None

    def embed(
        self, op: Op, x: ir.Value, position_ids: ir.Value, added: ir.Value | None
    ) -> ir.Value:
        """Token embeddings [B, Q, D] to the first layer's input.

        ``added`` are the rows of the table of positions that both stacks share, if they do.
        """
        if self.embedding_scale != 1.0:
            x = op.Mul(x, op.CastLike(self.embedding_scale, x))
        if self.embedding_norm is not None and self.positions_after_norm:
            x = self.embedding_norm(op, x)
        if self.positions is not None:
            added = self.positions(op, position_ids)
        if added is not None:
            x = op.Add(x, added)
        if self.embedding_norm is not None and not self.positions_after_norm:
            x = self.embedding_norm(op, x)
        return x

    def masks(self, op: Op, query: ir.Value, key: ir.Value, mask: ir.Value) -> list[ir.Value]:
        """One attention mask per layer, from positions [.., Q] and [.., K] and a bool mask."""
        count = len(self.layers)
        if self.bias is None:
            return [mask] * count
        distance = op.Sub(op.Unsqueeze(query, [2]), op.Unsqueeze(key, [1]))  # [.., Q, K]
        biases = [bias(op, distance, mask) for bias in self.bias]
        return biases * count if len(biases) == 1 else biases

    def rotation(self, op: Op, position_ids: ir.Value) -> Rotation | None:
        """What turns queries and keys at positions [B, Q], if anything does."""
        if self.rotary is None:
            return None
        return rotation(op, self.rotary, self.head_dim, position_ids)

    def finish(self, op: Op, x: ir.Value) -> ir.Value:
        return x if self.final_norm is None else self.final_norm(op, x)
