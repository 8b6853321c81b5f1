"""Layers as somebody writes their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .common import INNER, LAYERS, LENGTH, SOURCE_VOCAB, TARGET_VOCAB, WIDTH, attend, causal


class OwnBlock(nn.Module):
    """RMS norms, a fused projection [3 * D, D], another of keys and values, a gate, no biases."""

    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.ln_a, self.ln_f = nn.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)
        self.wqkv = nn.Parameter(torch.randn(3 * WIDTH, WIDTH) * WIDTH**-0.5)
        self.wo = nn.Linear(WIDTH, WIDTH, bias=False)
        if cross:
            self.ln_c = nn.RMSNorm(WIDTH, eps=1e-6)
            self.cq, self.ckv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH, bias=False)
            self.co = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.up, self.down = (
            nn.Linear(a, b, bias=False) for a, b in ((WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH))
        )

    def forward(self, x: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        q, k, v = (self.ln_a(x) @ self.wqkv.T).chunk(3, -1)
        x = x + self.wo(attend(q, k, v, mask))
        if states is not None:
            k, v = self.ckv(states).chunk(2, -1)
            x = x + self.co(attend(self.cq(self.ln_c(x)), k, v, seen))
        y = self.ln_f(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Own(nn.Module):
    """No project's: a layout without a preset."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(SOURCE_VOCAB, WIDTH)
        self.target = nn.Embedding(TARGET_VOCAB, WIDTH)
        self.place = nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        self.enc = nn.ModuleDict({f"b{n}": OwnBlock(False) for n in range(LAYERS)})
        self.dec = nn.ModuleList(OwnBlock(True) for _ in range(LAYERS + 1))
        self.last = nn.RMSNorm(WIDTH, eps=1e-6)

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        seen = ~padding[:, None, None]
        states = self.source(source) + self.place[0, : source.shape[1]]
        for block in self.enc.values():
            states = block(states, seen, None, seen)
        x = self.target(target) + self.place[0, : target.shape[1]]
        for block in self.dec:
            x = block(x, causal(target), states, seen)
        return self.last(x) @ self.target.weight.T
