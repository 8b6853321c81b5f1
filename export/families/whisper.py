"""Whisper: speech to text, and Distil-Whisper, which has fewer decoder layers.

Sources: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision"; Gandhi
et al. 2023, "Distil-Whisper: Robust Knowledge Distillation via Large-Scale Pseudo Labelling".
"""

from __future__ import annotations

from ..checkpoint import Checkpoint, optional_json
from ..errors import CheckpointError
from ..sinusoids import fairseq_sinusoids
from ..spec import (
    Activation,
    Convolution,
    ConvolutionStem,
    LearnedPositions,
    LogMelSpec,
    NormKind,
    NormPlacement,
    NormSpec,
    Seq2SeqSpec,
    StackSpec,
)
from ..transforms import Piece, Pieces
from ..weights import WeightMapping, linear, norm
from .base import Config, Family, FamilyDoc
from .components import head_dim, require
from .whisper_tokens import whisper_speech

_EMBEDDING, _HEAD = "model.decoder.embed_tokens.weight", "proj_out.weight"
#: The second convolution takes every other frame.
_FRAMES_PER_POSITION = 2
#: What features are computed of at most: their constants take n_fft x (n_fft / 2 + feature_size)
#: numbers, and their graph a few nodes for each hop of a frame.
_MOST = {"feature_size": 1024, "sampling_rate": 192_000, "n_fft": 4096, "hop_length": 4096}
_MOST_HOPS = 40


def _spec(config: Config, checkpoint: Checkpoint) -> Seq2SeqSpec:
    require(config, "is_encoder_decoder", True, "only encoder-decoders of this family are")
    d_model, log_mel = config.integer("d_model"), _log_mel(config, checkpoint)
    gelu = config.activation("activation_function")

    def stack(side: str, length: str, stem: ConvolutionStem | None) -> StackSpec:
        size = head_dim(config, "d_model", f"{side}_attention_heads")
        return StackSpec(
            layers=config.integer(f"{side}_layers"),
            heads=config.integer(f"{side}_attention_heads"),
            head_dim=size,
            attention_scale=size**-0.5,
            ffn_dim=config.integer(f"{side}_ffn_dim"),
            activation=gelu,
            gated=False,
            positions=LearnedPositions(config.integer(length)),
            final_norm=True,
            embedding_norm=False,
            stem=stem,
        )

    convolutions = tuple(
        Convolution(d_model, kernel=3, stride=stride, padding=1, activation=Activation.GELU)
        for stride in (1, _FRAMES_PER_POSITION)
    )
    encoder = stack(
        "encoder", "max_source_positions", ConvolutionStem(log_mel.mel_bins, convolutions)
    )
    decoder = stack("decoder", "max_target_positions", None)
    return Seq2SeqSpec(
        family="whisper",
        vocab_size=config.integer("vocab_size"),
        d_model=d_model,
        encoder=encoder,
        decoder=decoder,
        norm=NormSpec(NormKind.LAYER, 1e-5),
        norm_placement=NormPlacement.PRE,
        bias=True,
        tied_lm_head=_is_tied(checkpoint),
        log_mel=log_mel,
        alignment_heads=_alignment_heads(checkpoint, decoder),
    )


def _is_tied(checkpoint: Checkpoint) -> bool:
    if not {_HEAD, _EMBEDDING} <= checkpoint.names:
        return True
    return checkpoint.equal(_HEAD, _EMBEDDING)


def _log_mel(config: Config, checkpoint: Checkpoint) -> LogMelSpec:
    """By preprocessor_config.json, which all models of OpenAI have alike but for the mels."""
    file = optional_json(checkpoint.directory / "preprocessor_config.json")
    settings = Config(
        {key: value for key, value in file.items() if value is not None},
        {
            "feature_size": config.integer("num_mel_bins"),
            "sampling_rate": 16000,
            "n_fft": 400,
            "hop_length": 160,
        },
        where="preprocessor_config.json: ",
    )
    if settings.integer("feature_size") != config.integer("num_mel_bins"):
        raise CheckpointError(
            f"preprocessor_config.json gives {settings.integer('feature_size')} mels and the"
            f" encoder reads {config.integer('num_mel_bins')} (config.json: num_mel_bins); give"
            " the preprocessor_config.json that belongs to the model"
        )
    for name, most in _MOST.items():
        if settings.integer(name) > most:
            raise CheckpointError(
                f"preprocessor_config.json: {name} is more than {most}: it is damaged, or of a"
                " model that is not supported"
            )
    fft, hop = settings.integer("n_fft"), settings.integer("hop_length")
    if not fft / _MOST_HOPS <= hop <= fft:
        raise CheckpointError(
            f"preprocessor_config.json: hop_length={hop} and n_fft={fft}: hops from a"
            f" {_MOST_HOPS}th of a frame to a whole one are supported"
        )
    return LogMelSpec(
        mel_bins=settings.integer("feature_size"),
        sampling_rate=settings.integer("sampling_rate"),
        fft_length=fft,
        hop_length=hop,
    )


def _alignment_heads(checkpoint: Checkpoint, decoder: StackSpec) -> tuple[tuple[int, int], ...]:
    """By generation_config.json; else, as OpenAI's code does, all heads of the upper half."""
    listed = checkpoint.generation_config.get("alignment_heads")
    if listed is None:
        upper = range(decoder.layers // 2, decoder.layers)
        return tuple((layer, head) for layer in upper for head in range(decoder.heads))
    try:
        heads = tuple(sorted({(int(layer), int(head)) for layer, head in listed}))
    except (TypeError, ValueError):
        raise CheckpointError(
            "generation_config.json: alignment_heads must hold pairs of layer and head, not"
            f" {listed!r}"
        ) from None
    outside = [
        pair
        for pair in heads
        if not (0 <= pair[0] < decoder.layers and 0 <= pair[1] < decoder.heads)
    ]
    if outside:
        raise CheckpointError(
            f"generation_config.json: alignment_heads {[list(pair) for pair in outside]} are none"
            f" of the decoder's {decoder.layers} layers of {decoder.heads} heads; take the file of"
            " the model that these weights are of"
        )
    return heads


def _weight_map(spec: Seq2SeqSpec) -> list[WeightMapping]:
    tied = (_HEAD,) if spec.tied_lm_head else ()
    weight_map = [WeightMapping("embedding.weight", (_EMBEDDING,), tied=tied)]
    if not spec.tied_lm_head:
        weight_map += linear("lm_head", "proj_out")
    for index in range(2):
        for kind in ("weight", "bias"):
            source = f"model.encoder.conv{index + 1}.{kind}"
            weight_map.append(WeightMapping(f"stem.convs.{index}.{kind}", (source,)))
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        weight_map.append(
            WeightMapping(
                f"{side}.positions.weight",
                (f"model.{side}.embed_positions.weight",),
                computed=(lambda shape: fairseq_sinusoids(shape[0], shape[1], 0))
                if side == "encoder"
                else None,
            )
        )
        weight_map += norm(f"{side}.final_norm", f"model.{side}.layer_norm", bias=True)
        for index in range(stack.layers):
            weight_map += _layer_weight_map(side, index)
    return weight_map


def _layer_weight_map(side: str, index: int) -> list[WeightMapping]:
    ours, theirs = f"{side}.layers.{index}", f"model.{side}.layers.{index}"
    weight_map = _projections(f"{ours}.self_attention.qkv", f"{theirs}.self_attn", "qkv")
    weight_map += linear(f"{ours}.self_attention.out", f"{theirs}.self_attn.out_proj", bias=True)
    weight_map += norm(f"{ours}.self_attention_norm", f"{theirs}.self_attn_layer_norm", bias=True)
    if side == "decoder":
        cross, ours_cross = f"{theirs}.encoder_attn", f"{ours}.cross_attention"
        weight_map += linear(f"{ours_cross}.query", f"{cross}.q_proj", bias=True)
        weight_map += _projections(f"cross.{index}.kv", cross, "kv")
        weight_map += linear(f"{ours_cross}.out", f"{cross}.out_proj", bias=True)
        weight_map += norm(f"{ours_cross}_norm", f"{theirs}.encoder_attn_layer_norm", bias=True)
    weight_map += linear(f"{ours}.ffn.up", f"{theirs}.fc1", bias=True)
    weight_map += linear(f"{ours}.ffn.down", f"{theirs}.fc2", bias=True)
    weight_map += norm(f"{ours}.ffn_norm", f"{theirs}.final_layer_norm", bias=True)
    return weight_map


def _projections(parameter: str, attention: str, kinds: str) -> list[WeightMapping]:
    """Query, key and value side by side; the key has no bias, which is zeros."""
    weight_map = linear(parameter, *(f"{attention}.{kind}_proj" for kind in kinds))
    biases = tuple(f"{attention}.{kind}_proj.bias" for kind in kinds if kind != "k")
    pieces = Pieces(tuple(Piece(present=kind != "k") for kind in kinds))
    return [*weight_map, WeightMapping(f"{parameter}.bias", biases, pieces)]


FAMILY = Family(
    name="whisper",
    model_types=("whisper",),
    spec=_spec,
    weight_map=_weight_map,
    prefix="model.",
    defaults={
        "vocab_size": 51865,
        "num_mel_bins": 80,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "decoder_layers": 4,
        "decoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "decoder_ffn_dim": 1536,
        "d_model": 384,
        "activation_function": "gelu",
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "is_encoder_decoder": True,
        "pad_token_id": 50256,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "decoder_start_token_id": 50257,
    },
    speech=whisper_speech,
    doc={
        "whisper": FamilyDoc(
            model="WhisperForConditionalGeneration",
            positions="sinusoids (encoder), learned (decoder)",
            norms="before each part, on the last states",
            tokenizer="vocab.json, merges.txt",
            languages="those of the checkpoint, such as en, fr",
            at_run_time="its sources are speech: 'seq2edge transcribe', SpeechModel",
        )
    },
)
