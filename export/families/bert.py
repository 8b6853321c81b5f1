"""BERT: an encoder-only model, or one side of a pair.

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers"; with
cross-attention: Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation".
"""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import LearnedPositions, ModelSpec, NormKind, NormPlacement, NormSpec, StackSpec
from ..transforms import PositionsOfType0, Transpose
from ..weights import WeightMapping, linear, norm
from .base import Config, Family, FamilyDoc
from .components import Component, Head, SideNames, cross_weight_map, head_dim, require

EMBEDDING = "embeddings.word_embeddings.weight"
#: How TensorFlow's checkpoints named a norm's scale and bias.
OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
#: A pooler, and buffers that old checkpoints keep.
IGNORED = (r"pooler\..*", r"embeddings\.(position_ids|token_type_ids)")
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def layers(config: Config, padding_rows: int = 0) -> StackSpec:
    """BERT's layers, as encoder or decoder.

    ``padding_rows`` of the position table come before position 0.
    """
    require(config, "position_embedding_type", "absolute", "the graphs know absolute ones only")
    size = head_dim(config, "hidden_size", "num_attention_heads")
    return StackSpec(
        layers=config.integer("num_hidden_layers"),
        heads=config.integer("num_attention_heads"),
        head_dim=size,
        attention_scale=size**-0.5,
        ffn_dim=config.integer("intermediate_size"),
        activation=config.activation("hidden_act"),
        gated=False,
        positions=LearnedPositions(
            config.integer("max_position_embeddings") - padding_rows,
            offset=padding_rows,
            token_types=config.integer("type_vocab_size"),
        ),
        final_norm=False,
        embedding_norm=True,
        d_model=config.integer("hidden_size"),
        norm=_norm(config),
        norm_placement=NormPlacement.POST,
    )


def _norm(config: Config) -> NormSpec:
    return NormSpec(NormKind.LAYER, config.number("layer_norm_eps"))


def weight_map(stack: StackSpec, names: SideNames) -> list[WeightMapping]:
    """The name map of embedding and layers."""
    positions, theirs = stack.positions, f"{names.prefix}embeddings"
    if not isinstance(positions, LearnedPositions):
        raise TypeError("BERT has learned positions")
    mappings = [
        WeightMapping(names.embedding, (names.prefix + EMBEDDING,), tied=names.tied),
        WeightMapping(
            f"{names.side}.positions.weight",
            (f"{theirs}.position_embeddings.weight", f"{theirs}.token_type_embeddings.weight"),
            PositionsOfType0(positions.offset, positions.token_types),
        ),
        *norm(f"{names.side}.embedding_norm", f"{theirs}.LayerNorm", bias=True),
    ]
    for index in range(stack.layers):
        mappings += _layer_weight_map(stack, names, index)
    return mappings


def _layer_weight_map(stack: StackSpec, names: SideNames, index: int) -> list[WeightMapping]:
    ours, theirs = f"{names.side}.layers.{index}", f"{names.prefix}encoder.layer.{index}"
    own = f"{theirs}.attention"
    qkv = (f"{own}.self.{name}" for name in ("query", "key", "value"))
    mappings = linear(f"{ours}.self_attention.qkv", *qkv, bias=True)
    mappings += linear(f"{ours}.self_attention.out", f"{own}.output.dense", bias=True)
    mappings += norm(f"{ours}.self_attention_norm", f"{own}.output.LayerNorm", bias=True)
    if names.crossed:
        cross = f"{theirs}.crossattention"
        mappings += linear(f"{ours}.cross_attention.query", f"{cross}.self.query", bias=True)
        keys = (f"{cross}.self.key", f"{cross}.self.value")
        mappings += cross_weight_map(index, Transpose(), keys, stack.d_model or 0, names.projection)
        mappings += linear(f"{ours}.cross_attention.out", f"{cross}.output.dense", bias=True)
        mappings += norm(f"{ours}.cross_attention_norm", f"{cross}.output.LayerNorm", bias=True)
    mappings += linear(f"{ours}.ffn.up", f"{theirs}.intermediate.dense", bias=True)
    mappings += linear(f"{ours}.ffn.down", f"{theirs}.output.dense", bias=True)
    return mappings + norm(f"{ours}.ffn_norm", f"{theirs}.output.LayerNorm", bias=True)


def encoder_family(part: Component, doc: FamilyDoc) -> Family[ModelSpec]:
    """The family of encoder-only models; language-model heads in the checkpoint are not read."""

    def spec(config: Config, checkpoint: Checkpoint) -> ModelSpec:  # noqa: ARG001
        require(config, "is_decoder", False, "alone this architecture is exported as an encoder")
        return ModelSpec(
            family=part.kind,
            vocab_size=config.integer("vocab_size"),
            d_model=config.integer("hidden_size"),
            encoder=part.stack(config),
            decoder=None,
            norm=_norm(config),
            norm_placement=NormPlacement.POST,
            bias=True,
            tied_lm_head=False,
        )

    def name_map(spec: ModelSpec) -> list[WeightMapping]:
        if spec.encoder is None:
            raise TypeError("the family is one of encoders")
        return part.weight_map(spec.encoder, SideNames(part.model, "encoder"))

    return Family(
        name=part.kind,
        model_types=(part.kind,),
        spec=spec,
        weight_map=name_map,
        prefix=part.model,
        old_suffixes=OLD_SUFFIXES,
        ignored=(*(part.model + name for name in part.ignored), r"cls\..*", r"lm_head\..*"),
        defaults=part.defaults,
        doc={part.kind: doc},
    )


COMPONENT = Component(
    kind="bert",
    model="bert.",
    defaults=DEFAULTS,
    stack=layers,
    weight_map=weight_map,
    embedding=EMBEDDING,
    head=Head(
        weight="cls.predictions.decoder.weight",
        biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
        transform=(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            lambda config: config.activation("hidden_act"),
        ),
    ),
    ignored=IGNORED,
)
FAMILY = encoder_family(
    COMPONENT,
    FamilyDoc(
        model="BertModel",
        positions="learned",
        norms="after each part, on the embeddings",
        tokenizer="vocab.txt",
        at_run_time="an encoder-only model: `seq2edge encode`",
    ),
)
