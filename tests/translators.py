"""Models as users write them around PyTorch's transformer layers, in many shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from seq2edge.export import ModuleParts, PositionalEncoding, SpecialTokens

TOKENS = SpecialTokens(pad=0, decoder_start=1, eos=(2,))
LENGTH = 80  # positions


@dataclass(frozen=True)
class Shape:
    """``container``: ``transformer`` (nn.Transformer), ``stacks`` or ``lists`` (ModuleLists)."""

    container: str = "transformer"
    norm_first: bool = False
    activation: str = "relu"
    decoder_activation: str | None = None
    final_norm: bool = True
    positions: str = "sinusoidal"  # or "computed", "learned", "none"
    bias: bool = True
    head: str = "own"  # or "bias", "tied", "embedding" (no generator at all)
    shared: bool = False
    source_vocab: int = 390
    target_vocab: int = 390
    width: int = 64
    heads: int = 4
    decoder_heads: int | None = None
    layers: tuple[int, int] = (2, 3)
    ffn: tuple[int, int] = (96, 96)
    scaled: bool = True
    batch_first: bool = True
    epsilon: float = 1e-5


def sinusoids(length: int, width: int) -> Tensor:
    """As PyTorch's tutorial on nn.Transformer computes them, in float32."""
    position = torch.arange(length)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table


class Positions(nn.Module):
    """A buffer [L, 1, D], added to what is batch-first."""

    def __init__(self, width: int, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("table", sinusoids(LENGTH, width)[:, None], persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1], 0]


class LearnedPositions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(LENGTH, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rows(torch.arange(x.shape[1]))


class Translator(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.source_embedding = nn.Embedding(shape.source_vocab, shape.width, padding_idx=0)
        self.target_embedding = (
            self.source_embedding
            if shape.shared
            else nn.Embedding(shape.target_vocab, shape.width, padding_idx=0)
        )
        if shape.positions in ("sinusoidal", "computed"):
            self.positions: nn.Module = Positions(shape.width, shape.positions == "sinusoidal")
        else:
            learned = shape.positions == "learned"
            self.positions = LearnedPositions(shape.width) if learned else nn.Identity()
        self._make_stacks(shape)
        self.generator: nn.Linear | None = None
        if shape.head != "embedding":
            self.generator = nn.Linear(shape.width, shape.target_vocab, bias=shape.head != "own")
        if self.generator is not None and shape.head == "tied":
            self.generator.weight = self.target_embedding.weight

    def _make_stacks(self, shape: Shape) -> None:
        options = {
            "dropout": 0.1,
            "layer_norm_eps": shape.epsilon,
            "batch_first": shape.batch_first,
            "norm_first": shape.norm_first,
            "bias": shape.bias,
        }
        if shape.container == "transformer":
            self.transformer = nn.Transformer(
                shape.width,
                shape.heads,
                *shape.layers,
                shape.ffn[0],
                activation=shape.activation,
                **options,
            )
            return
        encoder_layers = [
            nn.TransformerEncoderLayer(
                shape.width, shape.heads, shape.ffn[0], activation=shape.activation, **options
            )
            for _ in range(shape.layers[0])
        ]
        decoder_layers = [
            nn.TransformerDecoderLayer(
                shape.width,
                shape.decoder_heads or shape.heads,
                shape.ffn[1],
                activation=shape.decoder_activation or shape.activation,
                **options,
            )
            for _ in range(shape.layers[1])
        ]
        norms = [nn.LayerNorm(shape.width) if shape.final_norm else None for _ in range(2)]
        if shape.container == "stacks":
            self.encoder: nn.Module = nn.TransformerEncoder(
                encoder_layers[0], shape.layers[0], norms[0]
            )
            self.decoder: nn.Module = nn.TransformerDecoder(
                decoder_layers[0], shape.layers[1], norms[1]
            )
        else:
            self.encoder, self.decoder = (
                nn.ModuleList(encoder_layers),
                nn.ModuleList(decoder_layers),
            )
            self.encoder_norm, self.decoder_norm = norms

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        """Logits [B, T, V]; ``padding`` is True where the source has no token."""
        x, y = (
            self._embed(source, self.source_embedding),
            self._embed(target, self.target_embedding),
        )
        count = target.shape[1]
        causal = torch.ones(count, count, dtype=torch.bool).triu(1)
        if not self.shape.batch_first:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
        if self.shape.container == "lists":
            for layer in self.encoder:
                x = layer(x, src_key_padding_mask=padding)
            x = x if self.encoder_norm is None else self.encoder_norm(x)
            for layer in self.decoder:
                y = layer(y, x, tgt_mask=causal, memory_key_padding_mask=padding)
            y = y if self.decoder_norm is None else self.decoder_norm(y)
        else:
            own = self if self.shape.container == "stacks" else self.transformer
            x = own.encoder(x, src_key_padding_mask=padding)
            y = own.decoder(y, x, tgt_mask=causal, memory_key_padding_mask=padding)
        if not self.shape.batch_first:
            y = y.transpose(0, 1)
        if self.generator is None:
            return functional.linear(y, self.target_embedding.weight)
        return self.generator(y)

    def _embed(self, tokens: Tensor, table: nn.Embedding) -> Tensor:
        x = table(tokens)
        return self.positions(x * math.sqrt(self.shape.width) if self.shape.scaled else x)


def make_translator(shape: Shape, seed: int = 1) -> Translator:
    """A model with random weights, none of them at its trivial initial value."""
    torch.manual_seed(seed)
    model = Translator(shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name:
                parameter.mul_(shape.width**-0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "decoder" in name and "norm" in name and name.endswith("weight"):
                # As in conftest.py: else a random model repeats one token for ever.
                parameter.mul_(torch.randn_like(parameter).sign())
            if "decoder." in name and parameter.dim() == 2:
                parameter.mul_(4 if "multihead_attn.in_proj" in name else 2)
    return model.eval()


def parts_of(shape: Shape) -> ModuleParts:
    """Where a :class:`Translator` of that shape has its parts."""
    inside = "transformer." if shape.container == "transformer" else ""
    outside = shape.container == "lists" and shape.final_norm
    positions = {
        "sinusoidal": PositionalEncoding("sinusoidal", table="positions.table"),
        "computed": PositionalEncoding("sinusoidal", length=LENGTH),
        "learned": PositionalEncoding("learned", table="positions.rows.weight"),
        "none": PositionalEncoding("none"),
    }
    return ModuleParts(
        encoder=f"{inside}encoder",
        decoder=f"{inside}decoder",
        source_embedding="source_embedding",
        target_embedding="target_embedding",
        generator=None if shape.head == "embedding" else "generator",
        positions=positions[shape.positions],
        embedding_scale="sqrt(d_model)" if shape.scaled else 1.0,
        encoder_norm="encoder_norm" if outside else None,
        decoder_norm="decoder_norm" if outside else None,
    )


def toml_of(shape: Shape) -> str:
    """The same as TOML, with what a state dict cannot tell."""
    parts = parts_of(shape)
    names = (
        "encoder",
        "decoder",
        "source_embedding",
        "target_embedding",
        "generator",
        "encoder_norm",
        "decoder_norm",
        "embedding_scale",
    )
    values = {name: getattr(parts, name) for name in names}
    lines = [f"{k} = {v!r}" for k, v in values.items() if v is not None]
    positions = parts.positions
    lines += ["[positions]", f"kind = {positions.kind!r}"]
    lines += [f"table = {positions.table!r}"] if positions.table else []
    lines += [f"length = {positions.length}"] if positions.length else []
    lines += ["[tokens]", "pad = 0", "decoder_start = 1", "eos = [2]"]
    lines += [
        "[layers]",
        f"nhead = {shape.heads}",
        f"activation = {shape.activation!r}",
        f"norm_first = {str(shape.norm_first).lower()}",
        f"layer_norm_eps = {shape.epsilon}",
    ]
    if shape.container != "transformer":
        lines += ["final_norm_eps = 1e-5", "[decoder_layers]"]
        lines += [f"nhead = {shape.decoder_heads}"] if shape.decoder_heads else []
        lines += [f"activation = {shape.decoder_activation!r}"] if shape.decoder_activation else []
    return "\n".join(lines) + "\n"
