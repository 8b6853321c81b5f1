"""Small models in the layouts that projects have: their tensors' names and their computation.

Each class is written for these tests after what the project's own models compute; ``forward``
takes (source [B, S], True where it is padding [B, S], target [B, T]) and gives logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from seq2edge.export import SpecialTokens

from .translators import sinusoids

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


class Pe(nn.Module):
    """A buffer of sinusoids; ``axis`` is the one of size 1."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("pe", sinusoids(LENGTH, WIDTH).unsqueeze(axis))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe.squeeze(self.axis)[: x.shape[1]]


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
