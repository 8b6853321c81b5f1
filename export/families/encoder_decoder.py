"""Pairs of a pretrained encoder and a pretrained decoder: transformers' EncoderDecoderModel.

Source: Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..spec import Seq2SeqSpec
from ..weights import WeightMapping
from . import bert, gpt2, roberta
from .base import Config, Family, FamilyDoc
from .components import Component, SideNames, require

_ENCODERS = {part.kind: part for part in (bert.COMPONENT, roberta.COMPONENT)}
_DECODERS = {part.kind: part for part in (bert.COMPONENT, roberta.COMPONENT, gpt2.COMPONENT)}
#: Between encoder states of another width and the cross-attention.
_PROJECTION = "enc_to_dec_proj"
#: What a pair's config says nothing of is its decoder's.
_OF_DECODER = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class PairSpec(Seq2SeqSpec):
    """A pair; ``encoder_part`` and ``decoder_part`` are ``model_type`` values."""

    encoder_part: str = ""
    decoder_part: str = ""


def _component(
    config: Mapping[str, Any], side: str, components: Mapping[str, Component]
) -> tuple[Component, Config]:
    values = config.get(side)
    kind = str(values.get("model_type")) if isinstance(values, Mapping) else ""
    if not isinstance(values, Mapping) or kind not in components:
        raise CheckpointError(
            f"config.json: {side}.model_type {kind!r} is not supported; known {side}s of pairs:"
            f" {', '.join(sorted(components))}"
        )
    return components[kind], Config(values, components[kind].defaults, where=f"{side}.")


def _flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    _, decoder = _component(config, "decoder", _DECODERS)
    own = {key: decoder.get(key) for key in _OF_DECODER if config.get(key) is None}
    return {**config, **own}


def _spec(config: Config, checkpoint: Checkpoint) -> PairSpec:
    sides = {side: config.get(side) for side in ("encoder", "decoder")}
    encoder, read = _component(sides, "encoder", _ENCODERS)
    decoder, written = _component(sides, "decoder", _DECODERS)
    require(read, "is_decoder", False, "an encoder sees the whole source")
    if decoder.kind != gpt2.COMPONENT.kind:
        require(written, "is_decoder", True, "a decoder does not see what follows")
    require(written, "add_cross_attention", True, "the decoder could not see the source")
    if decoder.kind == roberta.COMPONENT.kind:
        _check_start(config, written, checkpoint)
    source, target = encoder.stack(read), decoder.stack(written)
    if target.d_model is None or target.norm is None or target.norm_placement is None:
        raise TypeError("a part's stack says all of itself")
    crossed = written.get("cross_attention_hidden_size")
    if crossed not in (None, target.d_model):
        raise CheckpointError(
            f"config.json: decoder.cross_attention_hidden_size {crossed!r} is not supported: it"
            f" must be the decoder's width, {target.d_model}, or not be set"
        )
    rows, size = read.integer("vocab_size"), written.integer("vocab_size")
    return PairSpec(
        family=f"{encoder.kind}-{decoder.kind}",
        vocab_size=size,
        source_vocab_size=None if rows == size else rows,
        d_model=target.d_model,
        encoder=source,
        decoder=target,
        norm=target.norm,
        norm_placement=target.norm_placement,
        bias=True,
        tied_lm_head=decoder.is_tied(checkpoint, "decoder."),
        logits_bias=bool(decoder.head.biases),
        separate_decoder_embedding=True,
        head_transform=decoder.head_activation(written),
        encoder_part=encoder.kind,
        decoder_part=decoder.kind,
    )


def _check_start(config: Config, decoder: Config, checkpoint: Checkpoint) -> None:
    generation, name = checkpoint.generation_config, "decoder_start_token_id"
    start = config.get(name) if generation.get(name) is None else generation.get(name)
    if start == decoder.get("pad_token_id"):
        raise CheckpointError(
            f"{name} {start!r} is the pad token, which has no position in RoBERTa: what follows"
            " it stands elsewhere in transformers' training than in its generation"
        )


def _weight_map(spec: PairSpec) -> list[WeightMapping]:
    encoder, decoder = _ENCODERS[spec.encoder_part], _DECODERS[spec.decoder_part]
    projected = spec.width(spec.encoder) != spec.width(spec.decoder)
    names = SideNames(
        prefix=f"decoder.{decoder.model}",
        side="decoder",
        embedding="decoder_embedding.weight",
        tied=(f"decoder.{decoder.head.weight}",) if spec.tied_lm_head else (),
        crossed=True,
        projection=_PROJECTION if projected else None,
    )
    return [
        *encoder.weight_map(spec.encoder, SideNames("encoder.", "encoder")),
        *decoder.weight_map(spec.decoder, names),
        *decoder.head_weight_map(spec.tied_lm_head, "decoder."),
    ]


FAMILY = Family(
    name="pair",
    model_types=("encoder-decoder",),
    spec=_spec,
    weight_map=_weight_map,
    flattened=_flattened,
    old_suffixes=bert.OLD_SUFFIXES,
    ignored=(
        *(rf"encoder\.{name}" for part in _ENCODERS.values() for name in part.ignored),
        *(rf"decoder\.{p.model}{name}" for p in _DECODERS.values() for name in p.ignored),
        # Of a head that is not tied, which has another bias.
        r"decoder\.(cls\.predictions|lm_head)\.bias",
    ),
    doc={
        "encoder-decoder": FamilyDoc(
            model="EncoderDecoderModel",
            positions="learned",
            norms="those of its sides: BERT or RoBERTa, with BERT, RoBERTa or GPT-2",
            tokenizer="its sides' files; two tokenizers in `encoder/` and `decoder/`",
        )
    },
)
