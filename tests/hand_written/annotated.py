"""The Annotated Transformer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .common import INNER, LAYERS, SOURCE_VOCAB, TARGET_VOCAB, WIDTH, Pe, attend, causal


class DeviationNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return self.a_2 * centered / (x.std(-1, keepdim=True) + 1e-6) + self.b_2


class Sublayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = DeviationNorm()

    def forward(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return x + function(self.norm(x))


class AnnotatedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        projected = [f(x) for f, x in zip(self.linears, (query, key, key), strict=False)]
        return self.linears[3](attend(*projected, mask))


class AnnotatedFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(torch.relu(self.w_1(x)))


class AnnotatedLayer(nn.Module):
    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.self_attn = AnnotatedAttention()
        self.src_attn = AnnotatedAttention() if cross else None
        self.feed_forward = AnnotatedFeedForward()
        self.sublayer = nn.ModuleList(Sublayer() for _ in range(3 if cross else 2))

    def forward(self, x: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        x = self.sublayer[0](x, lambda y: self.self_attn(y, y, mask))
        if self.src_attn is not None:
            x = self.sublayer[1](x, lambda y: self.src_attn(y, states, seen))
        return self.sublayer[-1](x, self.feed_forward)


class AnnotatedStack(nn.Module):
    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AnnotatedLayer(cross) for _ in range(LAYERS))
        self.norm = DeviationNorm()

    def forward(self, x: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, states, seen)
        return self.norm(x)


class Lut(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.lut = nn.Embedding(vocabulary, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lut(tokens) * math.sqrt(WIDTH)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, TARGET_VOCAB)


class Annotated(nn.Module):
    """harvardnlp/annotated-transformer; its positions are two buffers of the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = AnnotatedStack(False), AnnotatedStack(True)
        self.src_embed = nn.Sequential(Lut(SOURCE_VOCAB), Pe(0))
        self.tgt_embed = nn.Sequential(Lut(TARGET_VOCAB), Pe(0))
        self.generator = Generator()

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        seen = ~padding[:, None, None]
        states = self.encoder(self.src_embed(source), seen, None, seen)
        x = self.decoder(self.tgt_embed(target), causal(target), states, seen)
        return self.generator.proj(x)
