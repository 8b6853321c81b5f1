"""A model in the layout of bentrevett's tutorial: every layer is written by hand.

Source: github.com/bentrevett/pytorch-seq2seq, "Attention is All You Need" (names and computation;
this code is our own).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DROPOUT = 0.0  # a small task; the tutorial's is 0.1


class MultiHeadAttentionLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fc_q, self.fc_k = nn.Linear(width, width), nn.Linear(width, width)
        self.fc_v, self.fc_o = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """``query`` [B, Q, D] reads ``key`` [B, K, D] where ``mask`` [B, 1, 1 or Q, K] is True."""
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.fc_q(query), self.fc_k(key), self.fc_v(key))
        )
        energy = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        attention = energy.masked_fill(~mask, -1e10).softmax(-1)
        output: Tensor = self.fc_o((attention @ v).transpose(1, 2).flatten(2))
        return output


class PositionwiseFeedforwardLayer(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc_1, self.fc_2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc_2(torch.relu(self.fc_1(x)))
        return output


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.ff_layer_norm = nn.LayerNorm(width)
        self.self_attention = MultiHeadAttentionLayer(width, heads)
        self.positionwise_feedforward = PositionwiseFeedforwardLayer(width, inner)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attention(x, x, mask)))
        output: Tensor = self.ff_layer_norm(x + self.dropout(self.positionwise_feedforward(x)))
        return output


class DecoderLayer(EncoderLayer):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__(width, heads, inner)
        self.enc_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attention = MultiHeadAttentionLayer(width, heads)

    def forward(  # type: ignore[override]
        self, x: Tensor, states: Tensor, target_mask: Tensor, mask: Tensor
    ) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attention(x, x, target_mask)))
        x = self.enc_attn_layer_norm(x + self.dropout(self.encoder_attention(x, states, mask)))
        output: Tensor = self.ff_layer_norm(x + self.dropout(self.positionwise_feedforward(x)))
        return output


class Embedded(nn.Module):
    """What both sides begin with: tokens times the root of the width, and learned positions."""

    def __init__(self, tokens: int, width: int, length: int) -> None:
        super().__init__()
        self.tok_embedding = nn.Embedding(tokens, width)
        self.pos_embedding = nn.Embedding(length, width)
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.normal_(self.tok_embedding.weight, std=width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        scaled = self.tok_embedding(tokens) * math.sqrt(self.tok_embedding.embedding_dim)
        output: Tensor = self.dropout(scaled + self.pos_embedding(places))
        return output


class Encoder(Embedded):
    def __init__(
        self, tokens: int, width: int, layers: int, heads: int, inner: int, length: int
    ) -> None:
        super().__init__(tokens, width, length)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))

    def forward(self, source: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(source)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Decoder(Embedded):
    def __init__(
        self, tokens: int, width: int, layers: int, heads: int, inner: int, length: int
    ) -> None:
        super().__init__(tokens, width, length)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, inner) for _ in range(layers))
        self.fc_out = nn.Linear(width, tokens)

    def forward(self, target: Tensor, states: Tensor, target_mask: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(target)
        for layer in self.layers:
            x = layer(x, states, target_mask, mask)
        output: Tensor = self.fc_out(x)
        return output


class Seq2Seq(nn.Module):
    def __init__(self, encoder: Encoder, decoder: Decoder, pad: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.pad = encoder, decoder, pad

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits [B, T, V] of source [B, S] and target [B, T]."""
        mask = (source != self.pad)[:, None, None]
        length = target.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()
        target_mask = (target != self.pad)[:, None, None] & causal
        output: Tensor = self.decoder(target, self.encoder(source, mask), target_mask, mask)
        return output

    @torch.inference_mode()
    def greedy(self, source: Tensor, start: int, end: int, most: int) -> list[list[int]]:
        """Tokens of each source [B, S] before the end token; no cache."""
        written = torch.full((len(source), 1), start)
        for _ in range(most):
            best = self(source, written)[:, -1:].argmax(-1)
            written = torch.cat([written, best], 1)
        rows = written[:, 1:].tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]
