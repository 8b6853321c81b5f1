"""T5 and its line: T5 1.0 and 1.1, FLAN, mT5, umT5, ByT5, CodeT5.

Sources: Raffel et al. 2020 (T5), Xue et al. 2021 (mT5, ByT5), Chung et al. 2023 (umT5).
"""

from __future__ import annotations

from functools import partial

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..graph.positions import expand_relative_bias
from ..spec import (
    Activation,
    NormKind,
    NormPlacement,
    NormSpec,
    RelativeBias,
    Seq2SeqSpec,
    StackSpec,
)
from ..transforms import Expand, Transpose
from ..weights import WeightMapping, linear, norm
from .base import Config, Family, FamilyDoc, parse_activation

_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def _spec(config: Config, checkpoint: Checkpoint) -> Seq2SeqSpec:
    kind = str(config.get("model_type"))
    gated, activation = _feed_forward(config)
    positions = RelativeBias(
        buckets=config.integer("relative_attention_num_buckets"),
        max_distance=config.integer("relative_attention_max_distance"),
        per_layer=kind == "umt5",
    )
    decoder_key = "num_layers" if config.get("num_decoder_layers") is None else "num_decoder_layers"

    def stack(layers: int) -> StackSpec:
        return StackSpec(
            layers=layers,
            heads=config.integer("num_heads"),
            head_dim=config.integer("d_kv"),
            attention_scale=1.0,
            ffn_dim=config.integer("d_ff"),
            activation=activation,
            gated=gated,
            positions=positions,
            final_norm=True,
            embedding_norm=False,
        )

    return Seq2SeqSpec(
        family="t5",
        vocab_size=config.integer("vocab_size"),
        d_model=config.integer("d_model"),
        encoder=stack(config.integer("num_layers")),
        decoder=stack(config.integer(decoder_key)),
        norm=NormSpec(NormKind.RMS, config.number("layer_norm_epsilon")),
        norm_placement=NormPlacement.PRE,
        bias=False,
        tied_lm_head=_is_tied(checkpoint),
        logits_scale=config.integer("d_model") ** -0.5 if _scales_logits(config, kind) else 1.0,
    )


def _feed_forward(config: Config) -> tuple[bool, Activation]:
    value = config.get("feed_forward_proj")
    parts = str(value).split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise CheckpointError(
            f"config.json: feed_forward_proj {value!r} is not supported; use 'relu' or 'gated-gelu'"
        )
    # "gated-gelu" has always meant the tanh approximation in T5 1.1's code.
    name = "gelu_new" if value == "gated-gelu" else parts[-1]
    return len(parts) == 2, parse_activation("feed_forward_proj", name)


def _is_tied(checkpoint: Checkpoint) -> bool:
    # Configs of this line say tie_word_embeddings=false for untied heads in old releases
    # and true everywhere in transformers 5; the tensors themselves are what is trusted.
    names = checkpoint.names
    if "lm_head.weight" not in names:
        return True
    embedding = next((n for n in ("shared.weight", *_EMBEDDINGS) if n in names), None)
    return embedding is None or checkpoint.equal("lm_head.weight", embedding)


def _scales_logits(config: Config, kind: str) -> bool:
    if kind == "mt5":
        return False
    explicit = config.get("scale_decoder_outputs")
    if explicit is not None:
        return bool(explicit)
    return config.get("tie_word_embeddings") is not False


def _weight_map(spec: Seq2SeqSpec) -> list[WeightMapping]:
    tied = (*_EMBEDDINGS, "lm_head.weight") if spec.tied_lm_head else _EMBEDDINGS
    weight_map = [WeightMapping("embedding.weight", ("shared.weight",), tied=tied)]
    if not spec.tied_lm_head:
        weight_map.append(WeightMapping("lm_head.weight", ("lm_head.weight",), Transpose()))
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        weight_map += norm(f"{side}.final_norm", f"{side}.final_layer_norm")
        weight_map += _bias_weight_map(side, stack)
        for index in range(stack.layers):
            weight_map += _layer_weight_map(side, index, stack.gated)
    return weight_map


def _bias_weight_map(side: str, stack: StackSpec) -> list[WeightMapping]:
    positions = stack.positions
    if not isinstance(positions, RelativeBias):
        raise TypeError("T5 has relative positions")
    expand = Expand(
        positions.buckets,
        partial(
            expand_relative_bias,
            max_distance=positions.max_distance,
            bidirectional=side == "encoder",
        ),
    )
    return [
        WeightMapping(
            f"{side}.bias.{index}.table.weight",
            (f"{side}.block.{index}.layer.0.SelfAttention.relative_attention_bias.weight",),
            expand,
        )
        for index in range(stack.layers if positions.per_layer else 1)
    ]


def _layer_weight_map(side: str, index: int, gated: bool) -> list[WeightMapping]:
    ours, theirs = f"{side}.layers.{index}", f"{side}.block.{index}.layer"
    attention = f"{theirs}.0.SelfAttention"
    weight_map = norm(f"{ours}.self_attention_norm", f"{theirs}.0.layer_norm")
    weight_map += linear(f"{ours}.self_attention.qkv", *(f"{attention}.{x}" for x in "qkv"))
    weight_map += linear(f"{ours}.self_attention.out", f"{attention}.o")
    last = 1
    if side == "decoder":
        last = 2
        attention = f"{theirs}.1.EncDecAttention"
        weight_map += norm(f"{ours}.cross_attention_norm", f"{theirs}.1.layer_norm")
        weight_map += linear(f"{ours}.cross_attention.query", f"{attention}.q")
        weight_map += linear(f"cross.{index}.kv", f"{attention}.k", f"{attention}.v")
        weight_map += linear(f"{ours}.cross_attention.out", f"{attention}.o")
    ffn = f"{theirs}.{last}.DenseReluDense"
    weight_map += norm(f"{ours}.ffn_norm", f"{theirs}.{last}.layer_norm")
    if gated:
        weight_map += linear(f"{ours}.ffn.gate", f"{ffn}.wi_0")
        weight_map += linear(f"{ours}.ffn.up", f"{ffn}.wi_1")
    else:
        weight_map += linear(f"{ours}.ffn.up", f"{ffn}.wi")
    weight_map += linear(f"{ours}.ffn.down", f"{ffn}.wo")
    return weight_map


def _facts(model: str, tokenizer: str, at_run_time: str = "") -> FamilyDoc:
    return FamilyDoc(
        model=f"{model}ForConditionalGeneration",
        positions="relative, in buckets" + (", a table for each layer" if model == "UMT5" else ""),
        norms="RMS before each part, on the last states",
        tokenizer=tokenizer,
        at_run_time=at_run_time,
    )


FAMILY = Family(
    name="t5",
    model_types=("t5", "mt5", "umt5"),
    spec=_spec,
    weight_map=_weight_map,
    # Early T5 checkpoints carry a bias for the cross attention that no code reads.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    defaults={
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    type_defaults={kind: {"feed_forward_proj": "gated-gelu"} for kind in ("mt5", "umt5")},
    doc={
        "t5": _facts(
            "T5",
            "spiece.model; CodeT5: vocab.json, merges.txt; ByT5: none",
            "the task, as the first words of the text",
        ),
        "mt5": _facts("MT5", "spiece.model"),
        "umt5": _facts("UMT5", "spiece.model"),
    },
)
