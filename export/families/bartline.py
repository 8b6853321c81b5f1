"""Shared parts of the families of the BART line; each says in its own file how it differs.

They are one architecture (Vaswani et al. 2017, "Attention Is All You Need") with the same names
of tensors. Norms stand before or after, embeddings have a norm or none, and positions are learned
or sinusoids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..checkpoint import Checkpoint, FloatArray
from ..errors import CheckpointError
from ..spec import LearnedPositions, NormKind, NormPlacement, NormSpec, Seq2SeqSpec, StackSpec
from ..transforms import DropRows, Flatten, Shape, Transpose
from ..weights import WeightMapping, linear, norm
from .base import Config, Family, FamilyDoc
from .components import head_dim, require

_SIDES = ("encoder", "decoder")
#: Keys of relatives with other attention, and the values that mean the usual one.
_ATTENTION_KINDS = {
    "attention_type": ("original_full",),
    "encoder_attention_type": ("full",),
    "position_embedding_type": ("absolute",),
}


@dataclass(frozen=True)
class Sinusoids:
    """Positions that are computed.

    Attributes:
        table: [length, width] to the table; row 0 is position 0.
        stored: checkpoints may keep the table as ``embed_positions.weight``, which is then read.
    """

    table: Callable[[Shape], FloatArray]
    stored: bool


@dataclass(frozen=True)
class Variant:
    """How a family differs from the others.

    Attributes:
        norm_placement: of the norms within a layer.
        embedding_norm: a norm on the embedded tokens (``layernorm_embedding``).
        final_norm: a norm after the last layer (``layer_norm``).
        offset: rows of the learned table before position 0.
        sinusoids: positions by the config, where they are not learned.
        decoder_norm_first: the decoder takes its embedding norm before it adds positions, of
            embeddings that are not scaled (Blenderbot-small).
        may_separate: config.json may give each side a token table of its own (Marian).
    """

    norm_placement: NormPlacement
    embedding_norm: bool
    final_norm: bool
    offset: int = 0
    sinusoids: Callable[[Config], Sinusoids] | None = None
    decoder_norm_first: bool = False
    may_separate: bool = False


@dataclass(frozen=True)
class BartLineSpec(Seq2SeqSpec):
    """``sinusoids``: how to compute the positions; None: they are learned."""

    sinusoids: Sinusoids | None = field(default=None, compare=False)


def bart_line(
    name: str,
    variant: Variant,
    *,
    model: str,
    tokenizer: str,
    defaults: Mapping[str, Any],
    ignored: tuple[str, ...] = (),
    languages: str = "",
    at_run_time: str = "",
) -> Family[BartLineSpec]:
    """The family whose ``model_type`` is ``name``; the texts are those of :class:`.FamilyDoc`."""
    positions, norms = _in_words(variant)
    return Family(
        name=name,
        model_types=(name,),
        spec=partial(_spec, name, variant),
        weight_map=_weight_map,
        prefix="model.",
        ignored=(r"model\.(encoder|decoder)\.version", *ignored),
        defaults={"is_encoder_decoder": True, "activation_function": "gelu", **defaults},
        doc={name: FamilyDoc(model, positions, norms, tokenizer, languages, at_run_time)},
    )


def _in_words(variant: Variant) -> tuple[str, str]:
    positions = "sinusoids" if variant.sinusoids is not None else "learned"
    position = "before" if variant.norm_placement is NormPlacement.PRE else "after"
    norms = [f"{position} each part"]
    if variant.embedding_norm:
        norms.append("on the embeddings")
    if variant.final_norm:
        norms.append("on the last states")
    return positions, ", ".join(norms)


def _spec(name: str, variant: Variant, config: Config, checkpoint: Checkpoint) -> BartLineSpec:
    _refuse_relatives(config)
    d_model = config.integer("d_model")
    sinusoids = None if variant.sinusoids is None else variant.sinusoids(config)
    positions = LearnedPositions(config.integer("max_position_embeddings"), variant.offset)

    def stack(side: str) -> StackSpec:
        size = head_dim(config, "d_model", f"{side}_attention_heads")
        norm_first = variant.decoder_norm_first and side == "decoder"
        return StackSpec(
            layers=config.integer(f"{side}_layers"),
            heads=config.integer(f"{side}_attention_heads"),
            head_dim=size,
            attention_scale=size**-0.5,
            ffn_dim=config.integer(f"{side}_ffn_dim"),
            activation=config.activation("activation_function"),
            gated=False,
            positions=positions,
            final_norm=variant.final_norm,
            embedding_norm=variant.embedding_norm,
            positions_after_norm=norm_first,
            embedding_scale=1.0 if norm_first else None,
        )

    separate = variant.may_separate and not config.flag("share_encoder_decoder_embeddings")
    rows = size = config.integer("vocab_size")
    if separate and config.get("decoder_vocab_size") is not None:
        size = config.integer("decoder_vocab_size")
    return BartLineSpec(
        family=name,
        vocab_size=size,
        source_vocab_size=None if rows == size else rows,
        d_model=d_model,
        encoder=stack("encoder"),
        decoder=stack("decoder"),
        norm=NormSpec(NormKind.LAYER, 1e-5),
        norm_placement=variant.norm_placement,
        bias=True,
        tied_lm_head=_is_tied(checkpoint, separate),
        logits_bias="final_logits_bias" in checkpoint.names,
        embedding_scale=math.sqrt(d_model) if config.flag("scale_embedding") else 1.0,
        separate_decoder_embedding=separate,
        sinusoids=sinusoids,
    )


def _refuse_relatives(config: Config) -> None:
    require(config, "is_encoder_decoder", True, "only encoder-decoders of this family are")
    for key, usual in _ATTENTION_KINDS.items():
        value = config.get(key)
        if value is not None and value not in usual:
            raise CheckpointError(
                f"config.json: {key} {value!r} is not supported; the graphs have {usual[0]!r}"
            )


def _is_tied(checkpoint: Checkpoint, separate: bool) -> bool:
    embedding = "model.decoder.embed_tokens.weight" if separate else "model.shared.weight"
    if not {"lm_head.weight", embedding} <= checkpoint.names:
        return True
    return checkpoint.equal("lm_head.weight", embedding)


def _weight_map(spec: BartLineSpec) -> list[WeightMapping]:
    weight_map = _token_weight_map(spec)
    if spec.logits_bias:
        weight_map.append(WeightMapping("lm_head.bias", ("final_logits_bias",), Flatten()))
    for side, stack in zip(_SIDES, (spec.encoder, spec.decoder), strict=True):
        theirs = f"model.{side}"
        weight_map.append(_position_rule(spec, side, stack))
        if stack.embedding_norm:
            weight_map += norm(f"{side}.embedding_norm", f"{theirs}.layernorm_embedding", bias=True)
        if stack.final_norm:
            weight_map += norm(f"{side}.final_norm", f"{theirs}.layer_norm", bias=True)
        for index in range(stack.layers):
            weight_map += _layer_weight_map(side, index)
    return weight_map


def _token_weight_map(spec: BartLineSpec) -> list[WeightMapping]:
    head = ("lm_head.weight",) if spec.tied_lm_head else ()
    source, target = (f"model.{side}.embed_tokens.weight" for side in _SIDES)
    if spec.separate_decoder_embedding:
        weight_map = [
            WeightMapping("embedding.weight", (source,)),
            WeightMapping("decoder_embedding.weight", (target,), tied=head),
        ]
    else:
        tied = (source, target, *head)
        weight_map = [WeightMapping("embedding.weight", ("model.shared.weight",), tied=tied)]
    if not spec.tied_lm_head:
        weight_map.append(WeightMapping("lm_head.weight", ("lm_head.weight",), Transpose()))
    return weight_map


def _position_rule(spec: BartLineSpec, side: str, stack: StackSpec) -> WeightMapping:
    parameter, stored = f"{side}.positions.weight", f"model.{side}.embed_positions.weight"
    if spec.sinusoids is not None:
        sources = (stored,) if spec.sinusoids.stored else ()
        return WeightMapping(parameter, sources, computed=spec.sinusoids.table)
    if not isinstance(stack.positions, LearnedPositions):
        raise TypeError("the BART line has a table of positions")
    return WeightMapping(parameter, (stored,), DropRows(stack.positions.offset))


def _layer_weight_map(side: str, index: int) -> list[WeightMapping]:
    ours, theirs = f"{side}.layers.{index}", f"model.{side}.layers.{index}"
    attention = f"{theirs}.self_attn"
    qkv = (f"{attention}.{x}_proj" for x in "qkv")
    weight_map = linear(f"{ours}.self_attention.qkv", *qkv, bias=True)
    weight_map += linear(f"{ours}.self_attention.out", f"{attention}.out_proj", bias=True)
    weight_map += norm(f"{ours}.self_attention_norm", f"{theirs}.self_attn_layer_norm", bias=True)
    if side == "decoder":
        attention = f"{theirs}.encoder_attn"
        keys = (f"{attention}.{x}_proj" for x in "kv")
        weight_map += linear(f"{ours}.cross_attention.query", f"{attention}.q_proj", bias=True)
        weight_map += linear(f"cross.{index}.kv", *keys, bias=True)
        weight_map += linear(f"{ours}.cross_attention.out", f"{attention}.out_proj", bias=True)
        weight_map += norm(
            f"{ours}.cross_attention_norm", f"{theirs}.encoder_attn_layer_norm", bias=True
        )
    weight_map += linear(f"{ours}.ffn.up", f"{theirs}.fc1", bias=True)
    weight_map += linear(f"{ours}.ffn.down", f"{theirs}.fc2", bias=True)
    weight_map += norm(f"{ours}.ffn_norm", f"{theirs}.final_layer_norm", bias=True)
    return weight_map
