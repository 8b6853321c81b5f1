"""GPT-2: a decoder-only model, or the decoder of a pair.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import LearnedPositions, ModelSpec, NormKind, NormPlacement, NormSpec, StackSpec
from ..transforms import Copy
from ..weights import WeightMapping, norm
from .base import Config, Family, FamilyDoc
from .components import Component, Head, SideNames, cross_weight_map, head_dim, require

_EMBEDDING = "wte.weight"
#: Causal masks that old checkpoints keep.
_IGNORED = (r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)",)


def _layers(config: Config) -> StackSpec:
    require(
        config,
        "scale_attn_by_inverse_layer_idx",
        False,
        "all layers of a graph scale their scores alike",
    )
    # reorder_and_upcast_attn changes the order of operations in half precision, not the result.
    size, width = head_dim(config, "n_embd", "n_head"), config.integer("n_embd")
    return StackSpec(
        layers=config.integer("n_layer"),
        heads=config.integer("n_head"),
        head_dim=size,
        attention_scale=size**-0.5 if config.flag("scale_attn_weights") else 1.0,
        ffn_dim=4 * width if config.get("n_inner") is None else config.integer("n_inner"),
        activation=config.activation("activation_function"),
        gated=False,
        positions=LearnedPositions(config.integer("n_positions")),
        final_norm=True,
        embedding_norm=False,
        d_model=width,
        norm=_norm(config),
        norm_placement=NormPlacement.PRE,
    )


def _norm(config: Config) -> NormSpec:
    return NormSpec(NormKind.LAYER, config.number("layer_norm_epsilon"))


def _weight_map(stack: StackSpec, names: SideNames) -> list[WeightMapping]:
    mappings = [
        WeightMapping(names.embedding, (names.prefix + _EMBEDDING,), tied=names.tied),
        WeightMapping(f"{names.side}.positions.weight", (f"{names.prefix}wpe.weight",)),
        *norm(f"{names.side}.final_norm", f"{names.prefix}ln_f", bias=True),
    ]
    for index in range(stack.layers):
        mappings += _layer_weight_map(stack, names, index)
    return mappings


def _layer_weight_map(stack: StackSpec, names: SideNames, index: int) -> list[WeightMapping]:
    ours, theirs = f"{names.side}.layers.{index}", f"{names.prefix}h.{index}"
    mappings = _conv(f"{ours}.self_attention.qkv", f"{theirs}.attn.c_attn")
    mappings += _conv(f"{ours}.self_attention.out", f"{theirs}.attn.c_proj")
    mappings += norm(f"{ours}.self_attention_norm", f"{theirs}.ln_1", bias=True)
    if names.crossed:
        cross = f"{theirs}.crossattention"
        mappings += _conv(f"{ours}.cross_attention.query", f"{cross}.q_attn")
        keys = (f"{cross}.c_attn",)
        mappings += cross_weight_map(index, Copy(), keys, stack.d_model or 0, names.projection)
        mappings += _conv(f"{ours}.cross_attention.out", f"{cross}.c_proj")
        mappings += norm(f"{ours}.cross_attention_norm", f"{theirs}.ln_cross_attn", bias=True)
    mappings += _conv(f"{ours}.ffn.up", f"{theirs}.mlp.c_fc")
    mappings += _conv(f"{ours}.ffn.down", f"{theirs}.mlp.c_proj")
    return mappings + norm(f"{ours}.ffn_norm", f"{theirs}.ln_2", bias=True)


def _conv(parameter: str, source: str) -> list[WeightMapping]:
    """A ``Conv1D`` keeps its weight [in, out], query, key and value side by side, as we do."""
    return [
        WeightMapping(f"{parameter}.{kind}", (f"{source}.{kind}",)) for kind in ("weight", "bias")
    ]


def _spec(config: Config, checkpoint: Checkpoint) -> ModelSpec:
    require(
        config, "add_cross_attention", False, "there is no encoder to attend to; export the pair"
    )
    return ModelSpec(
        family=COMPONENT.kind,
        vocab_size=config.integer("vocab_size"),
        d_model=config.integer("n_embd"),
        encoder=None,
        decoder=COMPONENT.stack(config),
        norm=_norm(config),
        norm_placement=NormPlacement.PRE,
        bias=True,
        tied_lm_head=COMPONENT.is_tied(checkpoint),
    )


def _name_map(spec: ModelSpec) -> list[WeightMapping]:
    if spec.decoder is None:
        raise TypeError("the family is one of decoders")
    tied = (COMPONENT.head.weight,) if spec.tied_lm_head else ()
    names = SideNames(COMPONENT.model, "decoder", tied=tied)
    return _weight_map(spec.decoder, names) + COMPONENT.head_weight_map(spec.tied_lm_head)


COMPONENT = Component(
    kind="gpt2",
    model="transformer.",
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    stack=_layers,
    weight_map=_weight_map,
    embedding=_EMBEDDING,
    head=Head(weight="lm_head.weight"),
    ignored=_IGNORED,
)
FAMILY = Family(
    name=COMPONENT.kind,
    model_types=(COMPONENT.kind,),
    spec=_spec,
    weight_map=_name_map,
    prefix=COMPONENT.model,
    ignored=tuple(COMPONENT.model + name for name in _IGNORED),
    defaults=COMPONENT.defaults,
    doc={
        COMPONENT.kind: FamilyDoc(
            model="GPT2LMHeadModel",
            positions="learned",
            norms="before each part, on the last states",
            tokenizer="vocab.json, merges.txt",
            at_run_time="a decoder-only model: texts are prompts, which it goes on with",
        )
    },
)
