"""A model as PyTorch's own tutorial writes it: nn.Transformer, embeddings, sinusoids, a head."""

from __future__ import annotations

import math

import torch
from data import END, MAX_SOURCE, MAX_TARGET, PAD, SOURCE_TOKENS, START, TARGET_TOKENS
from torch import Tensor, nn

from seq2edge.export import ModuleParts, PositionalEncoding, SpecialTokens

#: Where seq2edge finds the parts. model.toml says the same for a saved state dict.
PARTS = ModuleParts(
    encoder="transformer.encoder",
    decoder="transformer.decoder",
    source_embedding="source_embedding",
    target_embedding="target_embedding",
    generator="generator",
    positions=PositionalEncoding("sinusoidal", table="positions"),
    embedding_scale="sqrt(d_model)",
)
TOKENS = SpecialTokens(pad=PAD, decoder_start=START, eos=(END,))


class NumberReader(nn.Module):
    def __init__(self, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.width = width
        self.source_embedding = nn.Embedding(len(SOURCE_TOKENS), width, padding_idx=PAD)
        self.target_embedding = nn.Embedding(len(TARGET_TOKENS), width, padding_idx=PAD)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=width**-0.5)
        self.transformer = nn.Transformer(
            width, 4, layers, layers, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.generator = nn.Linear(width, len(TARGET_TOKENS))
        self.register_buffer("positions", _sinusoids(max(MAX_SOURCE, MAX_TARGET), width))

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        """Logits [B, T, V] of source [B, S] and target [B, T]; ``padding`` [B, S] is True there."""
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.bool)
        states = self.transformer(
            self._embed(self.source_embedding, source),
            self._embed(self.target_embedding, target),
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        logits: Tensor = self.generator(states)
        return logits

    @torch.inference_mode()
    def greedy(self, source: Tensor) -> list[list[int]]:
        """Tokens of each source [B, S], up to the end token; without a cache."""
        written = torch.full((len(source), 1), START)
        for _ in range(MAX_TARGET - 1):
            logits = self(source, source == PAD, written)
            written = torch.cat([written, logits[:, -1:].argmax(-1)], dim=1)
        rows = written[:, 1:].tolist()
        return [row[: row.index(END) + 1] if END in row else row for row in rows]

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        return table(tokens) * math.sqrt(self.width) + self.positions[: tokens.shape[1]]


def _sinusoids(length: int, width: int) -> Tensor:
    position = torch.arange(length)[:, None]
    frequency = 10000 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([(position * frequency).sin(), (position * frequency).cos()], -1).flatten(1)
