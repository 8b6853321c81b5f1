"""OpenNMT-py."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .common import INNER, LAYERS, SOURCE_VOCAB, TARGET_VOCAB, WIDTH, Pe, attend, causal


class OpenNmtAttention(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.linear_keys, self.linear_values, self.linear_query, self.final_linear = (
            nn.Linear(WIDTH, WIDTH, bias=bias) for _ in range(4)
        )

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        y = attend(self.linear_query(query), self.linear_keys(key), self.linear_values(key), mask)
        return self.final_linear(y)


class OpenNmtFeedForward(nn.Module):
    """With its norm and its residual inside."""

    def __init__(self) -> None:
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.layer_norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w_2(torch.relu(self.w_1(self.layer_norm(x))))


class OpenNmtEncoderLayer(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.self_attn, self.feed_forward = OpenNmtAttention(bias), OpenNmtFeedForward()
        self.layer_norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        y = self.layer_norm(x)
        return self.feed_forward(x + self.self_attn(y, y, seen))


class OpenNmtDecoderLayer(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.self_attn, self.context_attn = OpenNmtAttention(bias), OpenNmtAttention(bias)
        self.feed_forward = OpenNmtFeedForward()
        self.layer_norm_1, self.layer_norm_2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))

    def forward(self, x: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        y = self.layer_norm_1(x)
        x = x + self.self_attn(y, y, causal(x))
        return self.feed_forward(x + self.context_attn(self.layer_norm_2(x), states, seen))


class OpenNmtEmbeddings(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.make_embedding = nn.Sequential()
        self.make_embedding.add_module("emb_luts", nn.ModuleList([nn.Embedding(vocabulary, WIDTH)]))
        self.make_embedding.add_module("pe", Pe(1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.make_embedding.pe(self.make_embedding.emb_luts[0](tokens) * math.sqrt(WIDTH))


class OpenNmtStack(nn.Module):
    def __init__(self, vocabulary: int, layers: str, kind: type[nn.Module], bias: bool) -> None:
        super().__init__()
        self.embeddings = OpenNmtEmbeddings(vocabulary)
        self.add_module(layers, nn.ModuleList(kind(bias) for _ in range(LAYERS)))
        self.layer_norm = nn.LayerNorm(WIDTH, eps=1e-6)


class OpenNmt(nn.Module):
    """OpenNMT-py: version 2 has biases in attention, version 3 has none unless asked."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.encoder = OpenNmtStack(SOURCE_VOCAB, "transformer", OpenNmtEncoderLayer, bias)
        self.decoder = OpenNmtStack(TARGET_VOCAB, "transformer_layers", OpenNmtDecoderLayer, bias)
        self.generator = nn.Linear(WIDTH, TARGET_VOCAB)

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        seen = ~padding[:, None, None]
        states = self.encoder.embeddings(source)
        for layer in self.encoder.transformer:
            states = layer(states, seen)
        states = self.encoder.layer_norm(states)
        x = self.decoder.embeddings(target)
        for layer in self.decoder.transformer_layers:
            x = layer(x, states, seen)
        return self.generator(self.decoder.layer_norm(x))
