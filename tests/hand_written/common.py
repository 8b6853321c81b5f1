"""Sizes and attention that the layouts share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seq2edge.export import SpecialTokens

from ..translators import sinusoids

TOKENS = SpecialTokens(pad=1, decoder_start=2, eos=(2,))
WIDTH, HEADS, INNER, LAYERS, LENGTH = 32, 4, 48, 2, 60
SOURCE_VOCAB, TARGET_VOCAB = 70, 90


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, heads: int = HEADS) -> Tensor:
    """Multi-head attention of projected [B, L, H * Dh]; ``mask`` is True where it may look."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -1e9).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def causal(target: Tensor) -> Tensor:
    count = target.shape[1]
    return torch.ones(count, count, dtype=torch.bool).tril()


class Pe(nn.Module):
    """A buffer of sinusoids; ``axis`` is the one of size 1."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("pe", sinusoids(LENGTH, WIDTH).unsqueeze(axis))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe.squeeze(self.axis)[: x.shape[1]]


def randomized(model: nn.Module, seed: int = 3) -> nn.Module:
    """The model with weights that make it say different things, always the same ones."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                known = "emb" in name or "lut" in name or name in ("source.weight", "target.weight")
                parameter.normal_(std=(1.0 if known else 1.2) * parameter.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:  # of a norm
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
