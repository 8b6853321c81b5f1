"""x-transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .common import INNER, LAYERS, LENGTH, SOURCE_VOCAB, TARGET_VOCAB, WIDTH, attend, causal

X_HEADS, X_HEAD_DIM = 8, 6  # 48 in all, which is not the model's width


class XNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:]) * (self.gamma + 1)


class XAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inner = X_HEADS * X_HEAD_DIM
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, WIDTH, bias=False)

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        y = attend(self.to_q(query), self.to_k(key), self.to_v(key), mask, X_HEADS)
        return self.to_out(y)


class XFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        up = nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU())
        self.ff = nn.Sequential(up, nn.Dropout(0.0), nn.Linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class XLayers(nn.Module):
    """Attention and feed-forward in turn, each with a list of three norms before it."""

    def __init__(self, kinds: str) -> None:
        super().__init__()
        self.kinds = kinds * LAYERS
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.ModuleList([XNorm(), None, None]),
                    XFeedForward() if kind == "f" else XAttention(),
                    nn.Identity(),
                ]
            )
            for kind in self.kinds
        )
        self.final_norm = XNorm()

    def forward(self, x: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        for kind, (norms, block, _) in zip(self.kinds, self.layers, strict=True):
            y = norms[0](x)
            if kind == "f":
                x = x + block(y)
            else:
                x = x + (block(y, y, mask) if kind == "a" else block(y, states, seen))
        return self.final_norm(x)


class XEmbedding(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(rows, WIDTH)


class XWrapper(nn.Module):
    def __init__(self, vocabulary: int, kinds: str) -> None:
        super().__init__()
        self.token_emb, self.pos_emb = XEmbedding(vocabulary), XEmbedding(LENGTH)
        self.attn_layers = XLayers(kinds)
        if "c" in kinds:
            self.to_logits = nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor) -> Tensor:
        positions = self.pos_emb.emb(torch.arange(tokens.shape[1])) * WIDTH**-0.5
        return self.attn_layers(self.token_emb.emb(tokens) + positions, mask, states, seen)


class Autoregressive(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class XTransformers(nn.Module):
    """x-transformers' ``XTransformer`` with its defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = XWrapper(SOURCE_VOCAB, "af")
        self.decoder = Autoregressive(XWrapper(TARGET_VOCAB, "acf"))

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        seen = ~padding[:, None, None]
        states = self.encoder(source, seen, None, seen)
        net = self.decoder.net
        return net.to_logits(net(target, causal(target), states, seen))
