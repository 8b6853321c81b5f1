"""fairseq."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .common import INNER, LAYERS, SOURCE_VOCAB, TARGET_VOCAB, TOKENS, WIDTH, attend, causal


class FairseqAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        y = attend(self.q_proj(query), self.k_proj(key), self.v_proj(key), mask)
        return self.out_proj(y)


class FairseqLayer(nn.Module):
    def __init__(self, cross: bool, before: bool) -> None:
        super().__init__()
        self.before = before
        self.self_attn = FairseqAttention()
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.encoder_attn = FairseqAttention() if cross else None
        self.encoder_attn_layer_norm = nn.LayerNorm(WIDTH) if cross else None
        self.fc1, self.fc2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def around(self, x: Tensor, norm: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
        return x + function(norm(x)) if self.before else norm(x + function(x))

    def forward(self, x: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        x = self.around(x, self.self_attn_layer_norm, lambda y: self.self_attn(y, y, mask))
        if self.encoder_attn is not None:
            x = self.around(
                x, self.encoder_attn_layer_norm, lambda y: self.encoder_attn(y, states, seen)
            )
        return self.around(x, self.final_layer_norm, lambda y: self.fc2(torch.relu(self.fc1(y))))


class FairseqPositions(nn.Module):
    """Sinusoids that are not in the state dict; the first token's number is the padding's and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_float_tensor", torch.zeros(1))

    def forward(self, count: int) -> Tensor:
        half = WIDTH // 2
        step = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        angles = torch.arange(TOKENS.pad + 1, TOKENS.pad + 1 + count)[:, None] * step
        return torch.cat([angles.sin(), angles.cos()], 1)


class FairseqStack(nn.Module):
    def __init__(self, embed_tokens: nn.Embedding, cross: bool, before: bool) -> None:
        super().__init__()
        self.register_buffer("version", torch.tensor([3.0]))
        self.embed_tokens = embed_tokens
        self.embed_positions = FairseqPositions()
        self.layers = nn.ModuleList(FairseqLayer(cross, before) for _ in range(LAYERS))
        self.layer_norm = nn.LayerNorm(WIDTH) if before else None
        self.layernorm_embedding = None if before else nn.LayerNorm(WIDTH)
        if cross:
            self.output_projection = nn.Linear(WIDTH, TARGET_VOCAB, bias=False)
            self.output_projection.weight = embed_tokens.weight

    def forward(self, tokens: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        x = self.embed_tokens(tokens) * math.sqrt(WIDTH) + self.embed_positions(tokens.shape[1])
        x = x if self.layernorm_embedding is None else self.layernorm_embedding(x)
        for layer in self.layers:
            x = layer(x, mask, states, seen)
        return x if self.layer_norm is None else self.layer_norm(x)


class Fairseq(nn.Module):
    """fairseq's ``transformer``; post-norm, with norms on the embeddings, or pre-norm."""

    def __init__(self, before: bool = False) -> None:
        super().__init__()
        tables = [nn.Embedding(vocab, WIDTH) for vocab in (SOURCE_VOCAB, TARGET_VOCAB)]
        self.encoder = FairseqStack(tables[0], False, before)
        self.decoder = FairseqStack(tables[1], True, before)

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        seen = ~padding[:, None, None]
        states = self.encoder(source, seen, None, seen)
        return self.decoder.output_projection(self.decoder(target, causal(target), states, seen))
