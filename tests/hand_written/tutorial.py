"""bentrevett/pytorch-seq2seq."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .common import INNER, LAYERS, LENGTH, SOURCE_VOCAB, TARGET_VOCAB, TOKENS, WIDTH, attend, causal


class TutorialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc_q, self.fc_k, self.fc_v, self.fc_o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        return self.fc_o(attend(self.fc_q(query), self.fc_k(key), self.fc_v(key), mask))


class TutorialFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc_1, self.fc_2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_2(torch.relu(self.fc_1(x)))


class TutorialLayer(nn.Module):
    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.enc_attn_layer_norm = nn.LayerNorm(WIDTH) if cross else None
        self.ff_layer_norm = nn.LayerNorm(WIDTH)
        self.self_attention = TutorialAttention()
        self.encoder_attention = TutorialAttention() if cross else None
        self.positionwise_feedforward = TutorialFeedForward()

    def forward(self, x: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attention(x, x, mask))
        if self.encoder_attention is not None:
            x = self.enc_attn_layer_norm(x + self.encoder_attention(x, states, seen))
        return self.ff_layer_norm(x + self.positionwise_feedforward(x))


class TutorialStack(nn.Module):
    def __init__(self, vocabulary: int, decodes: bool) -> None:
        super().__init__()
        self.tok_embedding = nn.Embedding(vocabulary, WIDTH)
        self.pos_embedding = nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(TutorialLayer(decodes) for _ in range(LAYERS))
        self.fc_out = nn.Linear(WIDTH, vocabulary) if decodes else None

    def forward(self, tokens: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        x = self.tok_embedding(tokens) * math.sqrt(WIDTH)
        x = x + self.pos_embedding(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x, mask, states, seen)
        return x if self.fc_out is None else self.fc_out(x)


class Tutorial(nn.Module):
    """bentrevett/pytorch-seq2seq, "Attention is All You Need"."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TutorialStack(SOURCE_VOCAB, False)
        self.decoder = TutorialStack(TARGET_VOCAB, True)

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        seen = ~padding[:, None, None]
        states = self.encoder(source, seen, None, seen)
        known = (target != TOKENS.pad)[:, None, None] & causal(target)
        return self.decoder(target, known, states, seen)
