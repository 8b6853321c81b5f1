"""BART. Source: Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training"."""

from __future__ import annotations

import math

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..spec import (
    LearnedPositions,
    NormKind,
    NormPlacement,
    NormSpec,
    Seq2SeqSpec,
    StackSpec,
)
from ..weights import DropRows, Flatten, Rule, Transpose, linear, norm
from .base import Config, Family

#: BartLearnedPositionalEmbedding keeps two rows before position 0.
_POSITION_OFFSET = 2


def _spec(config: Config, checkpoint: Checkpoint) -> Seq2SeqSpec:
    d_model = config.integer("d_model")

    def stack(side: str) -> StackSpec:
        heads = config.integer(f"{side}_attention_heads")
        if d_model % heads:
            raise CheckpointError(
                f"config.json: d_model {d_model} is not a multiple of {side}_attention_heads"
                f" {heads}"
            )
        return StackSpec(
            layers=config.integer(f"{side}_layers"),
            heads=heads,
            head_dim=d_model // heads,
            attention_scale=(d_model // heads) ** -0.5,
            ffn_dim=config.integer(f"{side}_ffn_dim"),
            activation=config.activation("activation_function"),
            gated=False,
            positions=LearnedPositions(config.integer("max_position_embeddings"), _POSITION_OFFSET),
            final_norm=False,
            embedding_norm=True,
        )

    return Seq2SeqSpec(
        family="bart",
        vocab_size=config.integer("vocab_size"),
        d_model=d_model,
        encoder=stack("encoder"),
        decoder=stack("decoder"),
        norm=NormSpec(NormKind.LAYER, 1e-5),
        norm_placement=NormPlacement.POST,
        bias=True,
        tied_lm_head=_is_tied(checkpoint),
        logits_bias="final_logits_bias" in checkpoint.names,
        embedding_scale=math.sqrt(d_model) if config.flag("scale_embedding") else 1.0,
    )


def _is_tied(checkpoint: Checkpoint) -> bool:
    names = checkpoint.names
    if not {"lm_head.weight", "model.shared.weight"} <= names:
        return True
    return checkpoint.equal("lm_head.weight", "model.shared.weight")


def _rules(spec: Seq2SeqSpec) -> list[Rule]:
    tied: tuple[str, ...] = (
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
    )
    if spec.tied_lm_head:
        tied = (*tied, "lm_head.weight")
    rules = [Rule("embedding.weight", ("model.shared.weight",), tied=tied)]
    if not spec.tied_lm_head:
        rules.append(Rule("lm_head.weight", ("lm_head.weight",), Transpose()))
    if spec.logits_bias:
        rules.append(Rule("lm_head.bias", ("final_logits_bias",), Flatten()))
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        theirs = f"model.{side}"
        rules.append(
            Rule(
                f"{side}.positions.weight",
                (f"{theirs}.embed_positions.weight",),
                DropRows(_POSITION_OFFSET),
            )
        )
        rules += norm(f"{side}.embedding_norm", f"{theirs}.layernorm_embedding", bias=True)
        for index in range(stack.layers):
            rules += _layer_rules(side, index)
    return rules


def _layer_rules(side: str, index: int) -> list[Rule]:
    ours, theirs = f"{side}.layers.{index}", f"model.{side}.layers.{index}"
    attention = f"{theirs}.self_attn"
    qkv = (f"{attention}.{x}_proj" for x in "qkv")
    rules = linear(f"{ours}.self_attention.qkv", *qkv, bias=True)
    rules += linear(f"{ours}.self_attention.out", f"{attention}.out_proj", bias=True)
    rules += norm(f"{ours}.self_attention_norm", f"{theirs}.self_attn_layer_norm", bias=True)
    if side == "decoder":
        attention = f"{theirs}.encoder_attn"
        keys = (f"{attention}.{x}_proj" for x in "kv")
        rules += linear(f"{ours}.cross_attention.query", f"{attention}.q_proj", bias=True)
        rules += linear(f"cross.{index}.kv", *keys, bias=True)
        rules += linear(f"{ours}.cross_attention.out", f"{attention}.out_proj", bias=True)
        rules += norm(
            f"{ours}.cross_attention_norm", f"{theirs}.encoder_attn_layer_norm", bias=True
        )
    rules += linear(f"{ours}.ffn.up", f"{theirs}.fc1", bias=True)
    rules += linear(f"{ours}.ffn.down", f"{theirs}.fc2", bias=True)
    rules += norm(f"{ours}.ffn_norm", f"{theirs}.final_layer_norm", bias=True)
    return rules


FAMILY = Family(
    name="bart",
    model_types=("bart",),
    spec=_spec,
    rules=_rules,
    prefix="model.",
    ignored=(r"model\.(encoder|decoder)\.version",),
    defaults={
        "scale_embedding": False,
        "activation_function": "gelu",
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
)
