"""Layouts that many models have: the names of their parts, and how their layers are set.

Names and computation were read off the projects' public source: bentrevett/pytorch-seq2seq
(``legacy/6 - Attention is All You Need``), harvardnlp/annotated-transformer (Rush 2018, revised
2022), facebookresearch/fairseq 0.12 (``models/transformer``), OpenNMT-py 2 and 3
(``onmt/encoders/transformer.py``) and lucidrains/x-transformers 2 (``XTransformer``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CheckpointError
from .parts import (
    INVERSE_SQRT_WIDTH,
    SQRT_WIDTH,
    ModuleParts,
    PositionalEncoding,
    layer_options,
)


@dataclass(frozen=True)
class Preset:
    """``layers`` are defaults of :func:`.parts.layer_options`; what it lacks has to be given."""

    parts: ModuleParts
    layers: Mapping[str, Any] = field(default_factory=dict)


def layout_parts(layout: str, *, nhead: int | None = None, **options: Any) -> ModuleParts:
    """The parts of a model of one of :data:`LAYOUTS`; ``dataclasses.replace`` changes some.

    >>> parts = layout_parts("tutorial", nhead=8)

    Args:
        layout: ``tutorial``, ``annotated``, ``fairseq``, ``opennmt`` or ``x-transformers``.
        nhead: attention heads; may be left out where the layout has a usual number.
        options: others of :func:`.parts.layer_options`, where the model's are not the layout's.

    Raises:
        CheckpointError: an unknown layout, or an option that is unknown or missing.
    """
    preset = find_layout_preset(layout)
    values = {**preset.layers, **({} if nhead is None else {"nhead": nhead}), **options}
    try:
        return replace(preset.parts, layers=layer_options(**values))
    except TypeError as error:  # keyword arguments that are missing or unknown
        detail = str(error).partition("() ")[2] or str(error)
        raise CheckpointError(f"the options of layout {layout!r}: {detail}") from None


def find_layout_preset(layout: str) -> Preset:
    """The preset of that name.

    Raises:
        CheckpointError: there is none.
    """
    if layout not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise CheckpointError(f"there is no layout {layout!r}; known layouts: {known}")
    return LAYOUTS[layout]


def _attention(
    ours: str, theirs: str, query: str, key: str, value: str, out: str
) -> dict[str, str]:
    names = {"query": query, "key": key, "value": value, "out": out}
    return {f"{ours}.{part}": f"{theirs}.{name}" for part, name in names.items()}


def _feed_forward(up: str, down: str, norm: str) -> dict[str, str]:
    return {"ffn.up": up, "ffn.down": down, "ffn_norm": norm}


def _tutorial() -> Preset:
    fc = ("fc_q", "fc_k", "fc_v", "fc_o")
    encoder = {
        **_attention("self_attention", "self_attention", *fc),
        "self_attention_norm": "self_attn_layer_norm",
        **_feed_forward(
            "positionwise_feedforward.fc_1", "positionwise_feedforward.fc_2", "ff_layer_norm"
        ),
    }
    parts = ModuleParts(
        encoder="encoder.layers",
        decoder="decoder.layers",
        source_embedding="encoder.tok_embedding",
        target_embedding="decoder.tok_embedding",
        generator="decoder.fc_out",
        positions=PositionalEncoding("learned", table="encoder.pos_embedding"),
        target_positions=PositionalEncoding("learned", table="decoder.pos_embedding"),
        embedding_scale=SQRT_WIDTH,
        encoder_names=encoder,
        decoder_names={
            **encoder,
            **_attention("cross_attention", "encoder_attention", *fc),
            "cross_attention_norm": "enc_attn_layer_norm",
        },
    )
    layers = {"activation": "relu", "norm_first": False, "layer_norm_eps": 1e-5}
    return Preset(parts, layers)


def _annotated() -> Preset:
    linears = ("linears.0", "linears.1", "linears.2", "linears.3")
    self_attention = {
        **_attention("self_attention", "self_attn", *linears),
        "self_attention_norm": "sublayer.0.norm",
    }
    up, down = "feed_forward.w_1", "feed_forward.w_2"
    parts = ModuleParts(
        encoder="encoder.layers",
        decoder="decoder.layers",
        source_embedding="src_embed.0.lut",
        target_embedding="tgt_embed.0.lut",
        generator="generator.proj",
        positions=PositionalEncoding("sinusoidal", table="src_embed.1.pe"),
        target_positions=PositionalEncoding("sinusoidal", table="tgt_embed.1.pe"),
        embedding_scale=SQRT_WIDTH,
        encoder_norm="encoder.norm",
        decoder_norm="decoder.norm",
        encoder_names={**self_attention, **_feed_forward(up, down, "sublayer.1.norm")},
        decoder_names={
            **self_attention,
            **_attention("cross_attention", "src_attn", *linears),
            "cross_attention_norm": "sublayer.1.norm",
            **_feed_forward(up, down, "sublayer.2.norm"),
        },
    )
    layers = {"activation": "relu", "norm_first": True, "layer_norm_eps": 1e-6, "norm": "std"}
    return Preset(parts, layers)


def _fairseq() -> Preset:
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    encoder = {
        **_attention("self_attention", "self_attn", *projections),
        "self_attention_norm": "self_attn_layer_norm",
        **_feed_forward("fc1", "fc2", "final_layer_norm"),
    }
    parts = ModuleParts(
        encoder="encoder.layers",
        decoder="decoder.layers",
        source_embedding="encoder.embed_tokens",
        target_embedding="decoder.embed_tokens",
        generator="decoder.output_projection",
        # The dictionary's padding is 1, and positions count from the one after it.
        positions=PositionalEncoding("sinusoidal", length=1024, order="fairseq", offset=2),
        embedding_scale=SQRT_WIDTH,
        encoder_norm="encoder.layer_norm",
        decoder_norm="decoder.layer_norm",
        encoder_embedding_norm="encoder.layernorm_embedding",
        decoder_embedding_norm="decoder.layernorm_embedding",
        encoder_names=encoder,
        decoder_names={
            **encoder,
            **_attention("cross_attention", "encoder_attn", *projections),
            "cross_attention_norm": "encoder_attn_layer_norm",
        },
        ignored=(r"(en|de)coder\.version", r"(en|de)coder\.embed_positions\._float_tensor"),
        refused={
            r".*\.embed_positions\.weight": (
                'learned positions: say kind = "learned", table = "encoder.embed_positions" and'
                " offset = 2"
            ),
            r".*\.(bias_k|bias_v|c_attn|w_resid)": "attention with more than four projections",
        },
        optional=(
            "generator",
            "encoder_norm",
            "decoder_norm",
            "encoder_embedding_norm",
            "decoder_embedding_norm",
        ),
    )
    return Preset(parts, {"activation": "relu", "layer_norm_eps": 1e-5})


def _opennmt() -> Preset:
    linears = ("linear_query", "linear_keys", "linear_values", "final_linear")
    self_attention = _attention("self_attention", "self_attn", *linears)
    feed_forward = _feed_forward("feed_forward.w_1", "feed_forward.w_2", "feed_forward.layer_norm")
    embeddings = "embeddings.make_embedding"
    parts = ModuleParts(
        encoder="encoder.transformer",
        decoder="decoder.transformer_layers",
        source_embedding=f"encoder.{embeddings}.emb_luts.0",
        target_embedding=f"decoder.{embeddings}.emb_luts.0",
        generator="generator",
        positions=PositionalEncoding("sinusoidal", table=f"encoder.{embeddings}.pe.pe"),
        target_positions=PositionalEncoding("sinusoidal", table=f"decoder.{embeddings}.pe.pe"),
        embedding_scale=SQRT_WIDTH,
        encoder_norm="encoder.layer_norm",
        decoder_norm="decoder.layer_norm",
        encoder_names={
            **self_attention,
            "self_attention_norm": "layer_norm",
            **feed_forward,
        },
        decoder_names={
            **self_attention,
            "self_attention_norm": "layer_norm_1",
            **_attention("cross_attention", "context_attn", *linears),
            "cross_attention_norm": "layer_norm_2",
            **feed_forward,
        },
        refused={
            r".*\.relative_(positions_embeddings|attention_bias)\..*": (
                "relative positions are not supported"
            ),
            r".*\.feed_forward\.w_3\..*": (
                'the feed-forward is gated: name "ffn.gate" = "feed_forward.w_1" and'
                ' "ffn.up" = "feed_forward.w_3"'
            ),
            r".*\.layer_norm_res\..*": "parallel residuals are not supported",
            r".*\.average_layer\..*": "average attention is not supported",
        },
    )
    layers = {"activation": "relu", "norm_first": True, "layer_norm_eps": 1e-6}
    return Preset(parts, layers)


def _x_transformers() -> Preset:
    """Its lists of layers have attention and feed-forward in turn, each as norms and module."""
    projections = ("to_q", "to_k", "to_v", "to_out")

    def within(stack: str, *kinds: str) -> dict[str, str]:
        names: dict[str, str] = {}
        for place, kind in enumerate(kinds):
            block = f"{stack}.{{{len(kinds)}*layer+{place}}}"
            if kind == "ffn":
                names |= _feed_forward(f"{block}.1.ff.0.0", f"{block}.1.ff.2", f"{block}.0.0")
            else:
                names |= _attention(kind, f"{block}.1", *projections)
                names[f"{kind}_norm"] = f"{block}.0.0"
        return names

    encoder, decoder = "encoder", "decoder.net"
    parts = ModuleParts(
        encoder=None,
        decoder=None,
        source_embedding=f"{encoder}.token_emb.emb",
        target_embedding=f"{decoder}.token_emb.emb",
        generator=f"{decoder}.to_logits",
        positions=PositionalEncoding(
            "learned", table=f"{encoder}.pos_emb.emb", scale=INVERSE_SQRT_WIDTH
        ),
        target_positions=PositionalEncoding(
            "learned", table=f"{decoder}.pos_emb.emb", scale=INVERSE_SQRT_WIDTH
        ),
        encoder_norm=f"{encoder}.attn_layers.final_norm",
        decoder_norm=f"{decoder}.attn_layers.final_norm",
        encoder_names=within(f"{encoder}.attn_layers.layers", "self_attention", "ffn"),
        decoder_names=within(
            f"{decoder}.attn_layers.layers", "self_attention", "cross_attention", "ffn"
        ),
        refused={
            r".*\.rotary_pos_emb\..*": "rotary_pos_emb: rotary positions are not supported",
            r".*\.rel_pos\..*": "rel_pos_bias or alibi: biases by distance are not supported",
            r".*\.pos_emb\.(scale|inv_freq)": "scaled_sinu_pos_emb is not supported",
            r".*\.ff\.0\.proj\..*": "ff_glu: its gate and input are one tensor, gate last",
            r".*\.ff\.1\.(gamma|weight)": "ff_post_act_ln is not supported",
            r".*\.(mem_k|mem_v|memory_tokens)": "memory tokens and keys are not supported",
            r".*\.(qk_norm_q_scale|qk_norm_k_scale)": "attn_qk_norm is not supported",
            r".*\.to_(v|out)_gate\..*": "gated values are not supported",
            r".*\.residual_scale": "scale_residual is not supported",
            r".*\.2\.gru\..*": "gate_residual is not supported",
            r".*\.0\.1\.(gamma|g|weight)": "sandwich_norm is not supported",
            r".*\.0\.2\.(gamma|g|weight)": (
                "pre_norm = False: name norms .0.2 in place of .0.0 and say norm_first = false"
            ),
            r".*\.layers\.\d+\.0\.0\.g": (
                "use_rmsnorm or use_scalenorm are other norms than LayerNorm"
            ),
        },
    )
    layers = {
        "nhead": 8,
        "activation": "gelu",
        "norm_first": True,
        "layer_norm_eps": 1e-5,
        "norm": "layer",
        "norm_offset": 1.0,
    }
    return Preset(parts, layers)


LAYOUTS: Mapping[str, Preset] = {
    "tutorial": _tutorial(),
    "annotated": _annotated(),
    "fairseq": _fairseq(),
    "opennmt": _opennmt(),
    "x-transformers": _x_transformers(),
}
