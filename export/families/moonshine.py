"""Moonshine: speech to text from the audio itself, of any length.

Source: Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice
Commands".
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from seq2edge.runtime.bundle.speech_info import SpeechInfo

from ..checkpoint import Checkpoint, optional_json
from ..errors import CheckpointError
from ..spec import (
    Activation,
    Convolution,
    ConvolutionStem,
    ModelSpec,
    NormKind,
    NormPlacement,
    NormSpec,
    RotaryPositions,
    Seq2SeqSpec,
    StackSpec,
)
from ..transforms import PairsToHalves, Piece, Pieces
from ..weights import WeightMapping, linear, norm
from .base import Config, Family, FamilyDoc
from .components import require

_EMBEDDING, _HEAD = "model.decoder.embed_tokens.weight", "proj_out.weight"
_DEFAULT_RATE = 16000


def _spec(config: Config, checkpoint: Checkpoint) -> Seq2SeqSpec:
    require(config, "is_encoder_decoder", True, "only encoder-decoders of this family are")
    require(config, "attention_bias", False, "its attention has no biases in the graphs")
    heads = config.integer("decoder_num_attention_heads")
    for key in (
        "encoder_num_attention_heads",
        "encoder_num_key_value_heads",
        "decoder_num_key_value_heads",
    ):
        if config.get(key) is not None:
            require(config, key, heads, "all attentions of the graphs have the same heads")
    width = config.integer("hidden_size")
    if width % heads:
        raise CheckpointError(
            f"config.json: hidden_size {width} is no multiple of {heads} attention heads"
        )
    theta, share = _rope(config)
    divisor = int(width // heads * share)

    def stack(side: str, length: int | None, stem: ConvolutionStem | None) -> StackSpec:
        return StackSpec(
            layers=config.integer(f"{side}_num_hidden_layers"),
            heads=heads,
            head_dim=width // heads,
            attention_scale=(width // heads) ** -0.5,
            ffn_dim=config.integer("intermediate_size"),
            activation=config.activation(f"{side}_hidden_act"),
            gated=side == "decoder",
            # An odd number of dimensions is turned with the one after them.
            positions=RotaryPositions(length, theta, divisor + divisor % 2, divisor),
            final_norm=True,
            embedding_norm=False,
            stem=stem,
        )

    return Seq2SeqSpec(
        family="moonshine",
        vocab_size=config.integer("vocab_size"),
        d_model=width,
        encoder=stack("encoder", None, _stem(width)),
        decoder=stack("decoder", config.integer("max_position_embeddings"), None),
        norm=NormSpec(NormKind.LAYER, 1e-5, bias=False),
        norm_placement=NormPlacement.PRE,
        bias=True,
        attention_bias=False,
        tied_lm_head=_is_tied(checkpoint),
    )


def _rope(config: Config) -> tuple[float, float]:
    """The base of the frequencies, and the share of a head's dimensions that are turned."""
    values: dict[str, object] = {"rope_theta": 10000.0, "partial_rotary_factor": 0.9}
    values |= {key: config.get(key) for key in values if config.get(key) is not None}
    for key in ("rope_scaling", "rope_parameters"):  # older files, newer files
        own = config.get(key)
        if isinstance(own, Mapping):
            kind = own.get("rope_type", own.get("type", "default"))
            if kind != "default":
                raise CheckpointError(
                    f"config.json: {key} of type {kind!r} is not supported; the graphs turn"
                    " positions as they are (default)"
                )
            values |= {name: own[name] for name in values if own.get(name) is not None}
    rope = Config(values, {}, where="rope_parameters.")
    share = rope.number("partial_rotary_factor")
    if not 0 < share <= 1:
        raise CheckpointError(f"config.json: partial_rotary_factor {share} is not within 0 and 1")
    return rope.number("rope_theta"), share


def _stem(width: int) -> ConvolutionStem:
    return ConvolutionStem(
        None,
        (
            Convolution(width, 127, 64, 0, Activation.TANH, bias=False, norm=1e-5),
            Convolution(2 * width, 7, 3, 0, Activation.GELU),
            Convolution(width, 3, 2, 0, Activation.GELU),
        ),
    )


def _is_tied(checkpoint: Checkpoint) -> bool:
    if not {_HEAD, _EMBEDDING} <= checkpoint.names:
        return True
    return checkpoint.equal(_HEAD, _EMBEDDING)


def _speech(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    vocabulary: Mapping[str, int],  # noqa: ARG001
) -> SpeechInfo:
    """The manifest's ``speech``: English, whose tokens say no times."""
    settings = optional_json(checkpoint.directory / "preprocessor_config.json")
    if settings.get("do_normalize"):
        raise CheckpointError(
            f"{checkpoint.directory}: preprocessor_config.json asks for normalized audio"
            " (do_normalize), and Moonshine reads it as it is"
        )
    if spec.encoder is None or spec.encoder.stem is None:
        raise TypeError("Moonshine reads audio")
    return SpeechInfo(
        sampling_rate=Config(settings, {"sampling_rate": _DEFAULT_RATE}).integer("sampling_rate"),
        mel_bins=None,
        hop_length=prod(conv.stride for conv in spec.encoder.stem.convolutions),
        window_frames=None,
        frames_per_position=1,
    )


def _weight_map(spec: Seq2SeqSpec) -> list[WeightMapping]:
    tied = (_HEAD,) if spec.tied_lm_head else ()
    weight_map = [WeightMapping("embedding.weight", (_EMBEDDING,), tied=tied)]
    if not spec.tied_lm_head:
        weight_map += linear("lm_head", "proj_out")
    for index, bias in enumerate((False, True, True)):
        for kind in ("weight", "bias") if bias else ("weight",):
            source = f"model.encoder.conv{index + 1}.{kind}"
            weight_map.append(WeightMapping(f"stem.convs.{index}.{kind}", (source,)))
    weight_map += norm("stem.convs.0.norm", "model.encoder.groupnorm", bias=True)
    weight_map += norm("encoder.final_norm", "model.encoder.layer_norm")
    weight_map += norm("decoder.final_norm", "model.decoder.norm")
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        for index in range(stack.layers):
            weight_map += _layer_weight_map(side, stack, index)
    return weight_map


def _layer_weight_map(side: str, stack: StackSpec, index: int) -> list[WeightMapping]:
    ours, theirs = f"{side}.layers.{index}", f"model.{side}.layers.{index}"
    attention = f"{theirs}.self_attn"
    if not isinstance(stack.positions, RotaryPositions):
        raise TypeError("Moonshine's positions are rotary")
    qkv = tuple(f"{attention}.{kind}_proj.weight" for kind in "qkv")
    turned = PairsToHalves(stack.heads, stack.positions.width)
    weight_map = [WeightMapping(f"{ours}.self_attention.qkv.weight", qkv, turned)]
    weight_map += linear(f"{ours}.self_attention.out", f"{attention}.o_proj")
    weight_map += norm(f"{ours}.self_attention_norm", f"{theirs}.input_layernorm")
    before_ffn = "post_attention_layernorm"
    if side == "decoder":
        cross, ours_cross = f"{theirs}.encoder_attn", f"{ours}.cross_attention"
        weight_map += linear(f"{ours_cross}.query", f"{cross}.q_proj")
        weight_map += linear(f"cross.{index}.kv", f"{cross}.k_proj", f"{cross}.v_proj")
        weight_map += linear(f"{ours_cross}.out", f"{cross}.o_proj")
        weight_map += norm(f"{ours_cross}_norm", f"{theirs}.{before_ffn}")
        before_ffn = "final_layernorm"
    weight_map += norm(f"{ours}.ffn_norm", f"{theirs}.{before_ffn}")
    return weight_map + _ffn_weight_map(f"{ours}.ffn", f"{theirs}.mlp", gated=stack.gated)


def _ffn_weight_map(ours: str, theirs: str, *, gated: bool) -> list[WeightMapping]:
    """A decoder's first layer is two side by side, the second of which is the gate."""
    weight_map = linear(f"{ours}.down", f"{theirs}.fc2", bias=True)
    if not gated:
        return weight_map + linear(f"{ours}.up", f"{theirs}.fc1", bias=True)
    for part, name in enumerate(("up", "gate")):
        half = Pieces((Piece(part, part + 1, parts=2),))
        weight_map += [
            WeightMapping(f"{ours}.{name}.{kind}", (f"{theirs}.fc1.{kind}",), half)
            for kind in ("weight", "bias")
        ]
    return weight_map


FAMILY = Family(
    name="moonshine",
    model_types=("moonshine",),
    spec=_spec,
    weight_map=_weight_map,
    prefix="model.",
    defaults={
        "vocab_size": 32768,
        "hidden_size": 288,
        "intermediate_size": 1152,
        "encoder_num_hidden_layers": 6,
        "decoder_num_hidden_layers": 6,
        "encoder_num_attention_heads": 8,
        "decoder_num_attention_heads": 8,
        "encoder_hidden_act": "gelu",
        "decoder_hidden_act": "silu",
        "max_position_embeddings": 512,
        "attention_bias": False,
        "is_encoder_decoder": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    },
    speech=_speech,
    doc={
        "moonshine": FamilyDoc(
            model="MoonshineForConditionalGeneration",
            positions="rotary",
            norms="before each part, on the last states",
            tokenizer="-",
            at_run_time="its sources are speech, in English: 'seq2edge transcribe', SpeechModel",
        )
    },
)
